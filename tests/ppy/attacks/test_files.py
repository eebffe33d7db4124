"""Which files ppy takes for scripts, whose they are and who could write to them."""

import errno
import mmap
import os
import shutil
import stat
import struct
import threading
from contextlib import suppress
from ctypes import get_errno

import pytest

from caps import Caps, CapSet
from support import needs, needs_root, run
from support.attacks import LIBC, STATUS, assert_only_naive_loses, library, permitted
from support.child import become, in_a_child
from support.launchers import make_launcher

pytestmark = needs_root


def test_unmarked_script_of_roots_does_not_run_as_root(launchers, accounts, secret):
    launcher, timeit = launchers('python'), f'/usr/{library()}/timeit.py'
    statement = f'print(open({str(secret)!r}).read())'
    done = launcher.run(timeit, '-n1', '-r1', statement, account=accounts.attacker)
    assert_only_naive_loses(launcher, secret.read_text() in done.stdout, done)


@pytest.mark.parametrize(('uid', 'gid', 'mode'), [(0, None, 0o600), (None, 0, 0o640)])
def test_marked_script_of_roots_does_not_get_roots_files(
    launchers, script, accounts, secret, uid, gid, mode
):
    secret.chmod(mode)
    path, mark = script('cat "$1"', None), Caps('cap_net_bind_service=i')
    os.chown(
        path, accounts.owner.uid if uid is None else uid, accounts.owner.gid if gid is None else gid
    )
    mark.apply(path)
    done = launchers('bash').run(path, secret, account=accounts.attacker)
    assert_only_naive_loses(launchers('bash'), secret.read_text() in done.stdout, done)


def test_mark_of_a_user_namespace_gives_nothing(launchers, accounts, nest, namespaces):
    path = nest.plant('script', STATUS)
    mark = ['setcap', 'cap_sys_admin=i', path]
    assert run(*mark, account=accounts.attacker).returncode != 0
    assert run('unshare', '-Ur', *mark, account=accounts.attacker).returncode == 0
    assert Caps.from_file(path).root_id == accounts.attacker.uid
    done = launchers('bash').run(path, account=accounts.attacker)
    assert_only_naive_loses(launchers('bash'), 'cap_sys_admin' in (permitted(done) or ()), done)


@needs('cap_sys_admin')
def test_mark_on_a_nosuid_mount_gives_nothing(launchers, accounts, den, scene):
    place = scene / 'stick'
    place.mkdir()
    run('mount', '-t', 'tmpfs', '-o', 'nosuid,mode=755', 'stick', place, check=True)
    try:
        path = place / 'script'
        path.write_text(STATUS)
        os.chown(path, accounts.attacker.uid, accounts.attacker.gid)
        path.chmod(0o755)
        Caps('cap_sys_admin=i').apply(path)  # as it was put there on the attacker's own machine
        done = launchers('bash').run(path, account=accounts.attacker)
    finally:
        run('umount', place, check=True)
    assert_only_naive_loses(launchers('bash'), 'cap_sys_admin' in (permitted(done) or ()), done)


MS_NOSUID, MS_NODEV = 2, 4


class Fuse(threading.Thread):
    """A file system of the attacker's: one script that claims any owner and a mark."""

    LOOKUP, FORGET, GETATTR, OPEN, READ, STATFS, GETXATTR, INIT = 1, 2, 3, 14, 15, 17, 22, 26
    MARK = struct.pack('<5I', 0x02000000, 0, CapSet('sys_admin').mask, 0, 0)

    def __init__(self, place, content, owner, mounter):
        super().__init__()
        self.place, self.content, self.owner = place, content, owner
        self.device = os.open('/dev/fuse', os.O_RDWR)
        options = f'fd={self.device},rootmode=40000,user_id={mounter.uid},'
        options += f'group_id={mounter.gid},allow_other'
        flags = MS_NOSUID | MS_NODEV  # fusermount insists on these
        if LIBC.mount(b'den', os.fsencode(place), b'fuse.den', flags, options.encode()) < 0:
            raise OSError(get_errno(), os.strerror(get_errno()))

    def attributes(self, node):
        root = node == 1
        size, mode = len(self.content), stat.S_IFDIR if root else stat.S_IFREG
        uid = 0 if root else self.owner.uid
        return struct.pack('<6Q10I', node, size, *[0] * 7, mode | 0o755, 1, uid, uid, 0, 4096, 0)

    def answer(self, opcode, node, body):
        if opcode == self.INIT:
            return struct.pack('<IIIIHHI', 7, 31, 0, 0, 0, 0, 4096).ljust(64, b'\0')
        if opcode == self.LOOKUP and body == b'script\0':
            return struct.pack('<4Q2I', 2, *[0] * 5) + self.attributes(2)
        if opcode == self.GETATTR:
            return bytes(16) + self.attributes(node)
        if opcode in (self.OPEN, self.STATFS):
            return bytes(16 if opcode == self.OPEN else 80)
        if opcode == self.READ:
            return self.content[struct.unpack_from('<Q', body, 8)[0] :]
        if opcode == self.GETXATTR and body[8:] == b'security.capability\0':
            wanted = struct.unpack_from('<I', body)[0]
            return self.MARK if wanted else struct.pack('<II', len(self.MARK), 0)
        return {self.LOOKUP: errno.ENOENT, self.GETXATTR: errno.ENODATA}.get(opcode, errno.ENOSYS)

    def run(self):
        with suppress(OSError):  # the end of the mount
            while request := os.read(self.device, 1 << 20):
                _, opcode, unique, node = struct.unpack_from('<IIQQ', request)
                answer = self.answer(opcode, node, request[40:])
                error = -answer if isinstance(answer, int) else 0
                data = b'' if error else answer
                if opcode != self.FORGET:
                    header = struct.pack('<IiQ', 16 + len(data), error, unique)
                    os.write(self.device, header + data)
        os.close(self.device)


@needs('cap_sys_admin')
@pytest.mark.skipif(not os.path.exists('/dev/fuse'), reason='no /dev/fuse')
def test_file_system_of_the_callers_gives_nothing(launchers, accounts, scene):
    place = scene / 'fuse'
    place.mkdir()
    files = Fuse(place, STATUS.encode(), accounts.owner, accounts.attacker)
    files.start()
    try:
        assert os.stat(place / 'script').st_uid == accounts.owner.uid
        assert Caps.from_file(place / 'script') == Caps('cap_sys_admin=i')
        done = launchers('bash').run(place / 'script', account=accounts.attacker)
    finally:
        run('umount', place, check=True)
        files.join()
    assert_only_naive_loses(launchers('bash'), 'cap_sys_admin' in (permitted(done) or ()), done)


HELPED = 'import contextlib\nwith contextlib.suppress(ImportError):\n    import helper'


@needs('cap_sys_admin')
def test_hard_link_of_a_script_does_not_import_what_is_beside_it(
    launchers, script, accounts, nest, hard_links
):
    path, link = script(HELPED, 'cap_kill=i'), nest.path / 'script.py'
    nest.python('helper.py')
    assert run('ln', path, link, account=accounts.attacker).returncode == 0
    done = launchers('python').run(link, account=accounts.attacker)
    assert_only_naive_loses(launchers('python'), nest.loot.exists(), done)


@needs('cap_sys_admin')
def test_hard_link_of_a_launcher_does_not_run_what_is_beside_it(
    launchers, script, accounts, nest, hard_links
):
    launcher, link = launchers('sh'), nest.path / 'launcher'
    path = script('echo ran', 'cap_kill=i')
    nest.program('interpreter')
    assert run('ln', launcher.path, link, account=accounts.attacker).returncode == 0
    done = run(link, path, account=accounts.attacker)
    assert_only_naive_loses(launcher, nest.loot.exists(), done)


@pytest.mark.parametrize('mode', ['1777', '777', '775', 'ACL'])
def test_module_planted_beside_a_script_is_not_imported(
    launchers, script, accounts, scene, loot, mode
):
    path = script(HELPED, 'cap_kill=i')
    os.chown(scene, 0, accounts.attacker.gid)
    if mode == 'ACL':
        run('setfacl', '-m', f'u:{accounts.attacker.name}:rwx', scene, check=True)
    else:
        scene.chmod(int(mode, 8))
    code = f'open({str(loot)!r}, "w")'
    run('tee', scene / 'helper.py', account=accounts.attacker, input=code, check=True)
    done = launchers('python').run(path, account=accounts.attacker)
    assert_only_naive_loses(launchers('python'), loot.exists(), done)


@in_a_child
def overwrite(path, text, account):
    """Write by a mapping, which leaves the mark; write(2) would not."""
    become(account)
    with open(path, 'r+b') as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[:] = text.encode().ljust(len(memory))


@pytest.mark.parametrize('by', ['mode', 'ACL'])
def test_script_that_others_can_write_to_does_not_run(launchers, script, accounts, loot, by):
    path = script('#' * 4000, 'cap_kill=i', mode=0o757 if by == 'mode' else 0o755)
    if by == 'ACL':
        run('setfacl', '-m', f'u:{accounts.attacker.name}:rwx', path, check=True)
    overwrite(path, f': > {loot};', accounts.attacker)
    assert Caps.from_file(path) == Caps('cap_kill=i')
    done = launchers('bash').run(path, account=accounts.attacker)
    assert_only_naive_loses(launchers('bash'), loot.exists(), done)


def test_script_that_its_owner_alone_may_start_does_not_run(launchers, script, accounts, loot):
    path = script(f': > {loot}', 'cap_kill=i', mode=0o700)
    done = launchers('bash').run(path, account=accounts.attacker)
    assert_only_naive_loses(launchers('bash'), loot.exists(), done)


# Who can do what to a script or to a copy of it, which would keep its capability if the kernel
# were not there.
ALTERATIONS = {
    'append': ('owner', 'echo : >> "$0"'),
    'truncate': ('owner', 'truncate -s -1 "$0"'),
    'chown': ('owner', 'chown "$(id -u)" "$0"'),
    'copy': ('attacker', 'cp -a "$0" "$1"; chmod 755 "$1"'),
    'archive': ('attacker', 'tar --xattrs -C "${0%/*}" -c script.py | tar --xattrs -xC "${1%/*}"'),
}


@pytest.mark.parametrize(('who', 'how'), ALTERATIONS.values(), ids=ALTERATIONS)
def test_altered_script_has_no_capability(launchers, script, accounts, den, who, how):
    launcher, path, copy = launchers('bash'), script(STATUS, 'cap_kill=i'), den / 'script.py'
    assert permitted(launcher.run(path, account=accounts.attacker)) == CapSet('kill')
    run('sh', '-c', how, path, copy, account=getattr(accounts, who))
    path = copy if copy.exists() else path
    done = launcher.run(path, account=accounts.attacker)
    assert not permitted(done)
    assert launcher.naive or done.returncode == 126
    Caps('cap_kill=i').apply(path)  # what the kernel took away
    assert permitted(launcher.run(path, account=accounts.attacker)) == CapSet('kill')


@pytest.mark.parametrize('target', ['interpreter', 'launcher', 'itself'])
@pytest.mark.parametrize('linked', [False, True], ids=['by name', 'by link'])
def test_launcher_and_interpreter_are_no_scripts(
    launchers, script, accounts, scene, den, secret, target, linked
):
    program = scene / 'programs/env'  # an interpreter that would execute them
    program.parent.mkdir(0o755)
    shutil.copyfile('/usr/bin/env', program)
    program.chmod(0o755)
    Caps('=').apply(program)
    allowed = {} if launchers.args[0] == 'naive' else {'allow_root': True}
    launcher = make_launcher(launchers.args[0], program, scene / 'prefix', **allowed)
    path = script(f'cat {secret}', 'cap_kill=i', mode=0o700)
    os.chown(secret, accounts.owner.uid, 0)
    name = {'interpreter': program, 'launcher': launcher.path, 'itself': '/proc/self/exe'}[target]
    if linked:
        (den / 'link').symlink_to(name)
        name = den / 'link'
    commands = {'interpreter': ['cat', secret]}
    done = launcher.run(name, *commands.get(target, [path]), account=accounts.attacker)
    assert_only_naive_loses(launcher, secret.read_text() in done.stdout, done)
