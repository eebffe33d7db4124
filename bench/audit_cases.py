"""Programs whose needs are known by the kernel's sources."""

import os
from typing import NamedTuple

from caps.audit import Options

NO_ANSWER = None
SERVER = "import socket; s = socket.create_server(('127.0.0.1', 80)); s.accept()"
UDP = "import socket; socket.socket(type=socket.SOCK_DGRAM).bind(('127.0.0.1', 53))"


class Case(NamedTuple):
    """A program, and what it needs by the kernel's sources; None where it is to have no answer."""

    command: str
    needs: str | None
    options: Options = Options()
    user: str = 'nobody'

    def argv(self) -> list[str]:
        return ['sh', '-c', f'exec {self.command}']


SECONDS = float(os.environ.get('DAEMON_SECONDS', '1'))  # more on a slow machine


def daemon() -> Options:
    return Options(seconds=SECONDS)


def before(command: str) -> Options:
    return Options(before=command)


CASES = [
    Case('true', ''),
    Case('ls -l /etc', ''),
    Case('cat closed', 'dac_read_search'),
    Case('sha256sum closed', 'dac_read_search'),
    Case('cp closed /dev/null', 'dac_read_search'),
    Case('tar cf - directory', 'dac_read_search'),
    Case('find directory', 'dac_read_search'),
    Case('du directory', 'dac_read_search'),
    Case('./set-user-id closed', 'dac_read_search'),
    Case('tee -a closed', 'dac_override'),
    Case('touch directory/new', 'dac_override', before('rm -f directory/new')),
    Case('rm directory/old', 'dac_override', before('touch directory/old')),
    Case('chown 0:0 open', 'chown'),
    Case('chmod 644 open', 'fowner'),
    Case('setcap cap_kill=p own', 'setfcap', Options(from_all=True)),
    Case('ping -c1 127.0.0.1', 'net_raw'),
    Case('tcpdump -i lo -w /dev/null', 'net_raw', daemon()),
    Case(f'python3 -c "{SERVER}"', 'net_bind_service', daemon()),
    Case(f'python3 -c "{UDP}"', 'net_bind_service'),
    Case('ip link set lo mtu 1400', 'net_admin'),
    Case('ip address add 127.0.0.9/8 dev lo', 'net_admin',
         before('ip address del 127.0.0.9/8 dev lo 2>&-; true')),
    Case('mknod null c 1 3', 'mknod', before('rm -f null')),
    Case('chroot / true', 'sys_chroot'),
    Case('nice -n -5 true', ''),
    Case("sh -c 'renice -n -5 $$'", 'sys_nice'),
    Case('chrt -f 1 true', 'sys_nice'),
    Case('ionice -c1 true', 'sys_nice'),
    Case('kill -0 1', 'kill'),
    Case('setpriv --reuid=12345 true', 'setuid'),
    Case('setpriv --clear-groups true', 'setgid'),
    Case('hostname here', 'sys_admin'),
    Case('unshare --mount true', 'sys_admin'),
    Case(f'readlink /proc/{os.getpid()}/exe', 'sys_ptrace'),
    Case('dmesg', 'syslog'),
    Case('mount -t tmpfs none /mnt', 'sys_admin', user='root'),
    Case('mount -t tmpfs none /mnt', NO_ANSWER),
    Case("sh -c 'echo 0 >/proc/sys/kernel/panic'", NO_ANSWER),
    Case('./script.py (under ppy)', 'dac_read_search', Options(ppy='bin/ppy')),
]  # fmt: skip
