"""What each capability allows, in a line, and which amount to root; see capabilities(7)."""

import os
import re

from caps import Caps, CapSet

MEANING = {
    'cap_chown': 'change the owner and group of any file',
    'cap_dac_override': 'read, write and execute any file, whatever its mode',
    'cap_dac_read_search': 'read any file and search any directory',
    'cap_fowner': "change mode, times and attributes of other users' files",
    'cap_fsetid': 'keep set-user-ID and set-group-ID bits when a file changes',
    'cap_kill': 'send signals to any process',
    'cap_setgid': 'become any group',
    'cap_setuid': 'become any user',
    'cap_setpcap': 'drop from the bounding set, add to inheritable, change secure bits',
    'cap_linux_immutable': 'set and clear the immutable and append-only attributes',
    'cap_net_bind_service': 'listen on ports below 1024',
    'cap_net_broadcast': 'broadcast and listen to multicasts (not used by the kernel)',
    'cap_net_admin': 'configure networks: interfaces, routes, firewalls',
    'cap_net_raw': 'use raw and packet sockets, as ping and tcpdump do',
    'cap_ipc_lock': 'lock memory without limit',
    'cap_ipc_owner': 'use any System V queue, semaphore and shared memory',
    'cap_sys_module': 'load and unload kernel modules',
    'cap_sys_rawio': 'reach ports and memory of the machine directly',
    'cap_sys_chroot': 'change the root directory and enter mount namespaces',
    'cap_sys_ptrace': 'trace any process, read and write its memory',
    'cap_sys_pacct': 'switch process accounting',
    'cap_sys_admin': 'mount, set the host name, and very much more',
    'cap_sys_boot': 'reboot, and load another kernel',
    'cap_sys_nice': 'raise priorities, set scheduling and memory policy of any process',
    'cap_sys_resource': 'exceed limits, quotas and reserved space',
    'cap_sys_time': 'set the clocks',
    'cap_sys_tty_config': 'configure terminals and hang them up',
    'cap_mknod': 'make device files',
    'cap_lease': 'take leases on any file',
    'cap_audit_write': "write to the kernel's audit log",
    'cap_audit_control': "configure the kernel's audit",
    'cap_setfcap': 'mark any file with any capability',
    'cap_mac_override': 'override mandatory access control (Smack)',
    'cap_mac_admin': 'configure mandatory access control (Smack)',
    'cap_syslog': 'read the kernel log and kernel addresses',
    'cap_wake_alarm': 'wake the machine by a timer',
    'cap_block_suspend': 'keep the machine from sleeping',
    'cap_audit_read': "read the kernel's audit log",
    'cap_perfmon': 'observe the performance of kernel and processes',
    'cap_bpf': 'load BPF programs',
    'cap_checkpoint_restore': 'checkpoint and restore processes',
}

# With any of these a program can take everything else, by a file, a process or the kernel.
AMOUNTS_TO_ROOT = CapSet(
    'cap_chown,cap_dac_override,cap_dac_read_search,cap_fowner,cap_mknod,cap_setfcap,cap_setgid,'
    'cap_setuid,cap_sys_admin,cap_sys_boot,cap_sys_chroot,cap_sys_module,cap_sys_ptrace,'
    'cap_sys_rawio,cap_bpf,cap_mac_admin,cap_mac_override'
)

# These do whatever they are told, with all capabilities that they have.
INTERPRETER = re.compile(
    r'(python|pypy|perl|ruby|node|nodejs|php|lua|luajit|tclsh|guile|gdb|gawk|mawk|awk|busybox|env|'
    r'sh|ash|bash|csh|dash|fish|ksh|mksh|tcsh|zsh)[0-9.]*'
)


def amounts_to_root(path: str, caps: Caps) -> bool:
    """Whether running a file amounts to being root, or lets everyone use its mark for anything."""
    if (caps.permitted | caps.inheritable) & AMOUNTS_TO_ROOT:
        return True
    return bool(caps.permitted) and bool(INTERPRETER.fullmatch(os.path.basename(path)))
