"""Attacks on ppy by real accounts: b attacks, and wants what is a's or root's.

Every attack is made on three launchers: the naive one, where it must succeed, or the test would
show nothing, and ppy in both installation modes, where it must not.
"""

import errno
import functools
import os
import pty
import pwd
import re
import resource
import secrets
import shutil
import signal
import socket
import stat
import struct
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from ctypes import CDLL, c_ulong, get_errno
from dataclasses import dataclass
from pathlib import Path

import pytest

from caps import Caps, CapSet
from support import MUST_RUN, needs, needs_root, run
from support.accounts import Account
from support.launchers import MODES, make_launcher

pytestmark = needs_root

NOBODY_KNOWN = Account('', 2_000_000_001, 2_000_000_002)
PYTHON = '/usr/bin/python3'
STATUS = 'while read -r line; do echo "$line"; done < /proc/self/status\n'
LIBC = CDLL(None, use_errno=True)
MS_NOSUID, MS_NODEV = 2, 4
PR_SET_TSC, PR_TSC_SIGSEGV = 26, 2
PR_SET_TIMERSLACK, PR_SET_CHILD_SUBREAPER, UNAME26 = 29, 36, 0x0020000


def permitted(done):
    """The capabilities that a script says it has; None if none ran."""
    found = re.search(r'^CapPrm:\s+(\w+)', done.stdout, re.MULTILINE)
    return CapSet.from_mask(int(found[1], 16)) if found else None


def assert_only_naive_loses(launcher, won, done):
    """The attacker wins against the naive launcher and nothing runs under ppy."""
    assert won == launcher.naive, done
    if not launcher.naive:
        assert (done.returncode, done.stdout) in [(126, ''), (127, '')], done
        assert re.fullmatch(r'ppy: [ -~]+\n', done.stderr)


@dataclass
class Den:
    """What b plants in his directory; code of his that runs as a makes the loot."""

    path: Path
    loot: Path

    def plant(self, name, content, mode=0o755):
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)
        uid = self.path.stat().st_uid
        for part in (path, *path.relative_to(self.path).parents):
            os.chown(self.path / part, uid, uid)
        return path

    def python(self, name):
        # so early in Python's life there is no open()
        code = 'import posix\nposix.open({!r}, posix.O_CREAT | posix.O_WRONLY, 0o644)\n'
        return self.plant(name, code.format(str(self.loot)))

    def program(self, name):
        return self.plant(name, f'#!/bin/sh\n: > {self.loot}\n')

    def library(self, name):
        code = '#include <fcntl.h>\n__attribute__((constructor)) static void take(void)\n'
        code += '{ open(LOOT, O_CREAT | O_WRONLY, 0644); }'
        path, define = self.plant(name, ''), f'-DLOOT="{self.loot}"'
        compiler = ['cc', '-shared', '-fPIC', '-xc', define, '-', '-o', path]
        run(*compiler, input=code, check=True)
        return path


@pytest.fixture
def nest(den, loot):
    return Den(den, loot)


@pytest.fixture
def secret(scene):
    """A file that none but root can read."""
    path = scene / 'secret'
    path.write_text(secrets.token_hex())
    path.chmod(0o600)
    return path


@functools.cache
def library():
    """Where Python's library is below its prefix."""
    code = 'import sys; print("lib/python%d.%d" % sys.version_info[:2])'
    return run(PYTHON, '-c', code).stdout.strip()


@pytest.fixture
def namespaces(accounts):
    """b may make user namespaces."""
    if run('unshare', '-Ur', 'true', account=accounts.b).returncode:
        (pytest.fail if MUST_RUN else pytest.skip)('ordinary accounts cannot make user namespaces')


# ---- Which files ----


def test_unmarked_script_of_roots_does_not_run_as_root(launchers, accounts, secret):
    launcher, timeit = launchers('python'), f'/usr/{library()}/timeit.py'
    statement = f'print(open({str(secret)!r}).read())'
    done = launcher.run(timeit, '-n1', '-r1', statement, account=accounts.b)
    assert_only_naive_loses(launcher, secret.read_text() in done.stdout, done)


@pytest.mark.parametrize(('uid', 'gid', 'mode'), [(0, None, 0o600), (None, 0, 0o640)])
def test_marked_script_of_roots_does_not_get_roots_files(
    launchers, script, accounts, secret, uid, gid, mode
):
    secret.chmod(mode)
    path, mark = script('cat "$1"', None), Caps('cap_net_bind_service=i')
    os.chown(path, accounts.a.uid if uid is None else uid, accounts.a.gid if gid is None else gid)
    mark.apply(path)
    done = launchers('bash').run(path, secret, account=accounts.b)
    assert_only_naive_loses(launchers('bash'), secret.read_text() in done.stdout, done)


def test_mark_of_a_user_namespace_gives_nothing(launchers, accounts, nest, namespaces):
    path = nest.plant('script', STATUS)
    mark = ['setcap', 'cap_sys_admin=i', path]
    assert run(*mark, account=accounts.b).returncode != 0
    assert run('unshare', '-Ur', *mark, account=accounts.b).returncode == 0
    assert Caps.from_file(path).root_id == accounts.b.uid
    done = launchers('bash').run(path, account=accounts.b)
    assert_only_naive_loses(launchers('bash'), 'cap_sys_admin' in (permitted(done) or ()), done)


@needs('cap_sys_admin')
def test_mark_on_a_nosuid_mount_gives_nothing(launchers, accounts, den, scene):
    place = scene / 'stick'
    place.mkdir()
    run('mount', '-t', 'tmpfs', '-o', 'nosuid,mode=755', 'stick', place, check=True)
    try:
        path = place / 'script'
        path.write_text(STATUS)
        os.chown(path, accounts.b.uid, accounts.b.gid)
        path.chmod(0o755)
        Caps('cap_sys_admin=i').apply(path)  # as it was put there on b's own machine
        done = launchers('bash').run(path, account=accounts.b)
    finally:
        run('umount', place, check=True)
    assert_only_naive_loses(launchers('bash'), 'cap_sys_admin' in (permitted(done) or ()), done)


class Fuse(threading.Thread):
    """A file system of b's: one script, that says to be marked and whose owner he likes."""

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
    files = Fuse(place, STATUS.encode(), accounts.a, accounts.b)
    files.start()
    try:
        assert os.stat(place / 'script').st_uid == accounts.a.uid
        assert Caps.from_file(place / 'script') == Caps('cap_sys_admin=i')
        done = launchers('bash').run(place / 'script', account=accounts.b)
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
    assert run('ln', path, link, account=accounts.b).returncode == 0
    done = launchers('python').run(link, account=accounts.b)
    assert_only_naive_loses(launchers('python'), nest.loot.exists(), done)


@needs('cap_sys_admin')
def test_hard_link_of_a_launcher_does_not_run_what_is_beside_it(
    launchers, script, accounts, nest, hard_links
):
    launcher, link = launchers('sh'), nest.path / 'launcher'
    path = script('echo ran', 'cap_kill=i')
    nest.program('interpreter')
    assert run('ln', launcher.path, link, account=accounts.b).returncode == 0
    done = run(link, path, account=accounts.b)
    assert_only_naive_loses(launcher, nest.loot.exists(), done)


@pytest.mark.parametrize('mode', ['1777', '777', '775', 'ACL'])
def test_module_planted_beside_a_script_is_not_imported(
    launchers, script, accounts, scene, loot, mode
):
    path = script(HELPED, 'cap_kill=i')
    os.chown(scene, 0, accounts.b.gid)
    if mode == 'ACL':
        run('setfacl', '-m', f'u:{accounts.b.name}:rwx', scene, check=True)
    else:
        scene.chmod(int(mode, 8))
    code = f'open({str(loot)!r}, "w")'
    run('tee', scene / 'helper.py', account=accounts.b, input=code, check=True)
    done = launchers('python').run(path, account=accounts.b)
    assert_only_naive_loses(launchers('python'), loot.exists(), done)


MAP = """
import mmap, sys
with open(sys.argv[1], 'r+b') as file, mmap.mmap(file.fileno(), 0) as memory:
    memory[:] = sys.argv[2].encode().ljust(len(memory))
"""


PATCH = """
import mmap, os, sys
path, old, new = map(os.fsencode, sys.argv[1:])
with open(path, 'r+b') as file, mmap.mmap(file.fileno(), 0) as memory:
    start = memory.find(old + bytes(1))
    memory[start : start + len(old)] = new.ljust(len(old), bytes(1))
"""


@pytest.mark.parametrize('by', ['mode', 'ACL'])
def test_script_that_others_can_write_to_does_not_run(launchers, script, accounts, loot, by):
    path = script('#' * 4000, 'cap_kill=i', mode=0o757 if by == 'mode' else 0o755)
    if by == 'ACL':
        run('setfacl', '-m', f'u:{accounts.b.name}:rwx', path, check=True)
    # by a mapping, which leaves the mark; write(2) would not
    run(PYTHON, '-c', MAP, path, f': > {loot};', account=accounts.b, check=True)
    assert Caps.from_file(path) == Caps('cap_kill=i')
    done = launchers('bash').run(path, account=accounts.b)
    assert_only_naive_loses(launchers('bash'), loot.exists(), done)


def test_script_that_its_owner_alone_may_start_does_not_run(launchers, script, accounts, loot):
    path = script(f': > {loot}', 'cap_kill=i', mode=0o700)
    done = launchers('bash').run(path, account=accounts.b)
    assert_only_naive_loses(launchers('bash'), loot.exists(), done)


# Who can do what to a script or to a copy of it, and would keep its capability if the kernel let
# him.
ALTERATIONS = {
    'append': ('a', 'echo : >> "$0"'),
    'truncate': ('a', 'truncate -s -1 "$0"'),
    'chown': ('a', 'chown "$(id -u)" "$0"'),
    'copy': ('b', 'cp -a "$0" "$1"; chmod 755 "$1"'),
    'archive': ('b', 'tar --xattrs -C "${0%/*}" -c script.py | tar --xattrs -xC "${1%/*}"'),
}


@pytest.mark.parametrize(('who', 'how'), ALTERATIONS.values(), ids=ALTERATIONS)
def test_altered_script_has_no_capability(launchers, script, accounts, den, who, how):
    launcher, path, copy = launchers('bash'), script(STATUS, 'cap_kill=i'), den / 'script.py'
    assert permitted(launcher.run(path, account=accounts.b)) == CapSet('kill')
    run('sh', '-c', how, path, copy, account=getattr(accounts, who))
    path = copy if copy.exists() else path
    done = launcher.run(path, account=accounts.b)
    assert not permitted(done)
    assert launcher.naive or done.returncode == 126
    Caps('cap_kill=i').apply(path)  # what the kernel took away
    assert permitted(launcher.run(path, account=accounts.b)) == CapSet('kill')


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
    os.chown(secret, accounts.a.uid, 0)
    name = {'interpreter': program, 'launcher': launcher.path, 'itself': '/proc/self/exe'}[target]
    if linked:
        (den / 'link').symlink_to(name)
        name = den / 'link'
    commands = {'interpreter': ['cat', secret]}
    done = launcher.run(name, *commands.get(target, [path]), account=accounts.b)
    assert_only_naive_loses(launcher, secret.read_text() in done.stdout, done)


# ---- How they are named ----

DELETED = {
    'standard input': '/proc/self/fd/0',
    'own descriptor': '/proc/self/fd/{fd}',
    "another's descriptor": '/proc/{pid}/fd/{fd}',
    'through a root': '/proc/{pid}/root/proc/{pid}/fd/{fd}',
}


@pytest.mark.parametrize('place', ['file', 'directory'])
@pytest.mark.parametrize('name', DELETED.values(), ids=DELETED)
def test_deleted_script_does_not_run_by_a_descriptor(
    launchers, script, accounts, scene, loot, name, place
):
    (scene / 'old').mkdir(0o755)
    # with these the interpreter, too, can look into another's descriptors
    path = script(f': > {loot}', 'cap_sys_ptrace,cap_dac_read_search=i', name='old/script')
    fd = os.open(path, os.O_RDONLY)
    path.unlink()
    if place == 'directory':
        path.parent.rmdir()
    holder = subprocess.Popen(
        ['cat'], stdin=subprocess.PIPE, pass_fds=[fd], user=accounts.b.uid, group=accounts.b.gid
    )
    try:
        name = name.format(pid=holder.pid, fd=fd)
        done = launchers('bash').run(name, account=accounts.b, pass_fds=[fd], stdin=fd)
    finally:
        os.close(fd)
        holder.stdin.close()
        holder.wait(10)
    assert_only_naive_loses(launchers('bash'), loot.exists(), done)


def test_script_in_another_mount_namespace_does_not_run_what_has_its_name_here(
    launchers, script, accounts, scene, loot, namespaces
):
    path = script('pass', 'cap_kill=i')
    tool = script('import sys\nexec(sys.argv[1])', None, name='tool.py')
    bind = 'mount --bind "$0" "$1" && echo ready && exec cat'
    holder = subprocess.Popen(
        ['unshare', '-Urm', 'sh', '-c', bind, str(path), str(tool)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        user=accounts.b.uid,
        group=accounts.b.gid,
    )
    try:
        assert holder.stdout.readline() == b'ready\n'
        cwd, code = f'/proc/{holder.pid}/root{scene}', f'open({str(loot)!r}, "w")'
        assert os.path.samefile(f'{cwd}/tool.py', path)
        done = launchers('python').run('./tool.py', code, account=accounts.b, cwd=cwd)
    finally:
        holder.communicate(timeout=10)
    assert_only_naive_loses(launchers('python'), loot.exists(), done)


def test_planted_virtual_environment_is_not_entered(launchers, script, accounts, nest):
    nest.plant('pyvenv.cfg', 'home = /usr/bin\ninclude-system-site-packages = false\n')
    code = nest.python('code.py').read_text().replace('\n', ';')
    nest.plant(f'{library()}/site-packages/planted.pth', code)
    planted = nest.plant('bin/python3', '')
    done = run(
        planted, script('print("ran")'), account=accounts.b, executable=launchers('python').path
    )
    assert nest.loot.exists() == launchers('python').naive
    assert done.stdout == 'ran\n'


def test_over_long_path_overflows_nothing(launchers, accounts):
    done = launchers('sh').run('x/' * 60_000, account=accounts.b)
    assert_only_naive_loses(launchers('sh'), done.returncode < 0, done)


def test_no_arguments_do_not_let_the_environment_be_taken_for_them(launchers, script, accounts):
    path = script('echo ran', 'cap_kill=i')
    code = 'import ctypes, sys; array = ctypes.c_char_p * 2\n'
    code += 'array = array(sys.argv[2].encode()), array()\n'
    code += 'ctypes.CDLL(None).execve(sys.argv[1].encode(), array[1], array[0])'
    done = run(PYTHON, '-c', code, launchers('sh').path, path, account=accounts.b)
    # Linux 5.18 gives every program an argv[0]; without argv[1] the naive launcher crashes
    won = 'ran' in done.stdout or done.returncode < 0
    assert_only_naive_loses(launchers('sh'), won, done)


@pytest.mark.parametrize('name', ['\x1b]0;x\x07\x1b[2J', '\n', '$(: > loot)', '; : > loot; '])
def test_name_of_a_script_does_nothing_to_a_terminal_or_a_shell(launchers, accounts, loot, name):
    done = launchers('sh').run(f'absent {name}', account=accounts.b)
    run('bash', '-c', done.stderr, cwd=loot.parent)  # pasted by root
    raw = re.search(r'[^ -~]', done.stderr.removesuffix('\n'))
    assert_only_naive_loses(launchers('sh'), bool(raw) or loot.exists(), done)


CLOSED = {
    'directly': 'closed/{}',
    'by a link': 'den/{}',
    'by way of': 'closed/{}/../../den/here',
    'below': 'closed/{}/x',
    'with a slash': 'closed/{}/',
    'through /proc': '/proc/self/cwd/closed/{}',
}


@pytest.mark.parametrize('owner', ['root', 'a'])
@pytest.mark.parametrize('kind', ['file', 'script', 'directory'])
@pytest.mark.parametrize('way', CLOSED.values(), ids=CLOSED)
def test_caller_learns_nothing_of_closed_directories(
    launchers, script, accounts, scene, nest, way, kind, owner
):
    closed, present = scene / 'closed', scene / 'closed/present'
    closed.mkdir()
    if kind == 'directory':
        present.mkdir()
        (present / 'x').touch()
    else:
        script('echo ran', 'cap_kill=i' if kind == 'script' else None, name='closed/present')
    for name in ('present', 'missing'):
        (nest.path / name).symlink_to(closed / name)
    nest.plant('here', '')
    os.chown(closed, 0 if owner == 'root' else accounts.a.uid, 0)
    closed.chmod(0o700)

    def answer(name):
        done = launchers('bash').run(way.format(name), account=accounts.b, cwd=scene)
        return done.returncode, done.stdout, done.stderr.replace(name, 'NAME')

    assert (answer('present') != answer('missing')) == launchers('bash').naive


# ---- The environment ----


def cached(nest):
    """A compiled module that Python takes for the one of its library."""
    code = 'import colorsys, importlib.util as util, py_compile as compile, sys\n'
    code += 'sys.pycache_prefix = sys.argv[1]; mode = compile.PycInvalidationMode.UNCHECKED_HASH\n'
    code += 'target = util.cache_from_source(colorsys.__file__)\n'
    code += 'compile.compile(sys.argv[2], target, invalidation_mode=mode)'
    source = nest.python('source.py')
    b = nest.path.stat()
    account = Account('', b.st_uid, b.st_gid)
    run(PYTHON, '-c', code, nest.path / 'cache', source, account=account, check=True)
    return {'PYTHONPYCACHEPREFIX': nest.path / 'cache'}


def locale(nest):
    """A locale whose January is another."""
    given = next(Path('/usr/lib/locale').glob('C.*'))
    for file in filter(Path.is_file, given.rglob('*')):
        data = file.read_bytes().replace(b'January', b'Caught!')
        nest.plant(f'other/{file.relative_to(given)}', data)
    return {'LOCPATH': nest.path, 'LC_ALL': 'other'}


def zone(nest):
    data = b'TZif' + bytes(16) + struct.pack('>6I', 0, 0, 0, 0, 1, 4) + bytes(6) + b'OWN\0'
    return {'TZ': nest.plant('zone', data)}


def provider(nest):
    module = nest.library('provider.so')
    return {
        'OPENSSL_CONF': nest.plant(
            'openssl.cnf',
            'openssl_conf = a\n[a]\nproviders = b\n[b]\nplanted = c\n'
            f'[c]\nmodule = {module}\nactivate = 1\n',
        )
    }


def converter(nest):
    nest.library('planted.so')
    nest.plant('gconv-modules', 'module PLANTED// INTERNAL planted 1\n')
    return {'GCONV_PATH': nest.path}


# The interpreter, what the script does, and what b plants and sets, LOOT being the file that the
# script makes itself where it notices b's influence.
CANARIES = {
    'PYTHONPATH': (
        'python',
        'pass',
        lambda it: {'PYTHONPATH': it.python('sitecustomize.py').parent},
    ),
    'PYTHONHOME': (
        'python',
        'pass',
        lambda it: {'PYTHONHOME': it.python(f'{library()}/encodings/__init__.py').parents[3]},
    ),
    'PYTHONUSERBASE': (
        'python',
        'pass',
        lambda it: {
            'PYTHONUSERBASE': it.python(f'{library()}/site-packages/usercustomize.py').parents[3]
        },
    ),
    'HOME': (
        'python',
        'pass',
        lambda it: {
            'HOME': it.python(f'.local/{library()}/site-packages/usercustomize.py').parents[4]
        },
    ),
    'PYTHONSTARTUP': (
        'python',
        'import os; os.system("/usr/bin/python3 -i")',
        lambda it: {'PYTHONSTARTUP': it.python('startup.py')},
    ),
    'PYTHONINSPECT': ('python', 'pass', lambda it: {'PYTHONINSPECT': '1'}),
    'PYTHONPYCACHEPREFIX': ('python', 'import colorsys', cached),
    'PYTHONWARNINGS': (
        'python',
        'pass',
        lambda it: {
            'PYTHONWARNINGS': 'all:0:antigravity.x:0:0',
            'BROWSER': it.program('browser'),
        },
    ),
    'PYTHONBREAKPOINT': (
        'python',
        'import bdb, contextlib\ndef stop():\n    breakpoint()\n'
        'with contextlib.suppress(bdb.BdbQuit):\n    stop()',
        lambda it: {'PYTHONBREAKPOINT': 'antigravity.x', 'BROWSER': it.program('browser')},
    ),
    'BASH_ENV': ('bash', ':', lambda it: {'BASH_ENV': it.program('bashrc')}),
    'SHELLOPTS': (
        'bash',
        ':',
        lambda it: {'SHELLOPTS': 'xtrace', 'PS4': f'$({it.program("trace")})'},
    ),
    'BASH_FUNC': ('bash', 'true', lambda it: {'BASH_FUNC_true%%': f'() {{ {it.program("x")}; }}'}),
    'PATH': ('bash', 'id', lambda it: {'PATH': it.program('id').parent}),
    'LD_PRELOAD': ('bash', ':', lambda it: {'LD_PRELOAD': it.library('planted.so')}),
    'LD_LIBRARY_PATH': (
        'python',
        'import ctypes; ctypes.CDLL("libcap.so.2")',
        lambda it: {'LD_LIBRARY_PATH': it.library('libcap.so.2').parent},
    ),
    'LD_DEBUG': ('bash', ':', lambda it: {'LD_DEBUG': 'libs', 'LD_DEBUG_OUTPUT': it.loot}),
    'GLIBC_TUNABLES': (
        'python',
        'import ctypes\nlibc = ctypes.CDLL(None); libc.malloc.restype = ctypes.c_void_p\n'
        'if ctypes.string_at(libc.malloc(5000), 5000).count(0x5a) > 4000:\n    open("LOOT", "w")',
        lambda it: {'GLIBC_TUNABLES': f'glibc.malloc.perturb={0x5A ^ 0xFF}'},
    ),
    'GCONV_PATH': ('bash', 'iconv -f PLANTED -t UTF-8 /dev/null 2>/dev/null', converter),
    'OPENSSL_CONF': ('python', 'import ssl; ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)', provider),
    'LOCPATH': (
        'python',
        'import contextlib, locale\nwith contextlib.suppress(locale.Error):\n'
        '    locale.setlocale(locale.LC_ALL, "")\n'
        'if locale.nl_langinfo(locale.MON_1) == "Caught!":\n    open("LOOT", "w")',
        locale,
    ),
    'TZ': ('python', 'import time\nif "OWN" in time.tzname:\n    open("LOOT", "w")', zone),
}


@contextmanager
def typing(text):
    """A terminal at which that has been typed, and then control-D."""
    ours, keyboard = pty.openpty()
    try:
        os.write(ours, f'{text}\x04'.encode())
        yield keyboard
    finally:
        os.close(ours)
        os.close(keyboard)


@pytest.mark.parametrize(('interpreter', 'text', 'lay'), CANARIES.values(), ids=CANARIES)
def test_environment_of_the_caller_does_nothing(
    launchers, script, accounts, nest, interpreter, text, lay
):
    last = {'python': '\nprint("ran")', 'bash': '\necho ran'}[interpreter]
    # marked, but with nothing: else glibc would help, to which a launch then looks privileged
    path = script(text.replace('LOOT', str(nest.loot)) + last, '=')
    variables = {name: str(value) for name, value in lay(nest).items()}
    with typing(nest.python('typed.py').read_text()) as keyboard:
        stdin = keyboard if 'PYTHONINSPECT' in variables else subprocess.DEVNULL
        done = launchers(interpreter).run(
            path, account=accounts.b, env=variables, cwd=nest.path, stdin=stdin
        )
    assert any(nest.loot.parent.iterdir()) == launchers(interpreter).naive, done
    if not launchers(interpreter).naive:
        assert done.returncode == 0
        assert 'ran\n' in done.stdout


def test_home_that_others_write_to_customizes_nothing(launchers, script, accounts, nest):
    home = Path(pwd.getpwuid(accounts.a.uid).pw_dir)
    place = nest.python(f'home/.local/{library()}/site-packages/usercustomize.py').parents[4]
    shutil.copytree(place, home)
    try:
        run('chown', '-R', f'{accounts.a.uid}', home, check=True)
        home.chmod(0o777)
        done = launchers('python').run(script('print("ran")', '='), account=accounts.b, env={})
    finally:
        shutil.rmtree(home)
    assert nest.loot.exists() == launchers('python').naive
    assert done.stdout == 'ran\n'


# How b, who may add files where the owner's home would be, makes it pass for the owner's.
PRETENCES = {
    'an innocent link': lambda den, home, a: home.symlink_to('/etc'),
    'a link to where none can look': lambda den, home, a: (
        (den / 'closed').mkdir(),
        (den / 'closed').chmod(0),
        os.chown(den / 'closed', den.stat().st_uid, 0),
        home.symlink_to(den / 'closed/home'),
    ),
    "the caller's": lambda den, home, a: (
        home.mkdir(0o755),
        os.chown(home, den.stat().st_uid, 0),
    ),
    "the owner's, which can be renamed": lambda den, home, a: (
        home.parent.chmod(0o777),
        home.mkdir(0o755),
        os.chown(home, a.uid, a.gid),
    ),
}


@pytest.mark.parametrize('pretend', PRETENCES.values(), ids=PRETENCES)
def test_home_that_others_can_exchange_customizes_nothing(
    launchers, script, accounts, scene, nest, pretend
):
    public, home = scene / 'public', scene / 'public/home'
    public.mkdir()
    public.chmod(0o1777)
    nest.python(f'.local/{library()}/site-packages/usercustomize.py')
    path = script(f'import os\nprint("ready", flush=True)\ninput()\nos.system("{PYTHON} -c pass")')
    before = pwd.getpwuid(accounts.a.uid).pw_dir
    options = {'user': accounts.b.uid, 'group': accounts.b.gid, 'extra_groups': []}
    pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'env': {'HOME': str(home)}}
    try:
        run('usermod', '-d', home, accounts.a.name, check=True)
        pretend(nest.path, home, accounts.a)
        with subprocess.Popen([launchers('python').path, path], **pipes, **options) as process:
            assert process.stdout.readline() == b'ready\n'
            home.rename(public / 'old')
            home.symlink_to(nest.path)
            process.communicate(b'\n', timeout=10)
    finally:
        run('usermod', '-d', before, accounts.a.name, check=True)
    assert nest.loot.exists() == launchers('python').naive


def test_directory_of_the_caller_does_not_become_the_home(launchers, script, accounts, nest):
    nest.python(f'~/.local/{library()}/site-packages/usercustomize.py')
    os.chown(nest.loot.parent, NOBODY_KNOWN.uid, 0)
    path = script('print("ran")', '=', owner=NOBODY_KNOWN)
    done = launchers('python').run(path, account=accounts.b, env={}, cwd=nest.path)
    assert nest.loot.exists() == launchers('python').naive
    assert done.stdout == 'ran\n'


def test_many_variables_and_long_arguments_overflow_nothing(launchers, script, accounts):
    code = 'import os, sys\nprint(len(os.environ), sum(map(len, sys.argv[1:])))'
    variables = {f'LC_{number}': 'x' * 100 for number in range(5000)} | {'LC_TIME': 'x' * 100_000}
    longest = 'x' * (128 * 1024 - 1)
    path = script(code, 'cap_kill=i')
    done = launchers('python').run(path, *[longest] * 4, account=accounts.b, env=variables)
    count, length = map(int, done.stdout.split())
    assert (count > 100) == launchers('python').naive
    assert length == 4 * len(longest)


# ---- What else a process hands on ----


def test_umask_does_not_let_others_write_what_a_script_makes(launchers, script, accounts, loot):
    path = script(f'echo true > {loot}', 'cap_kill=i')
    launchers('bash').run(path, account=accounts.b, umask=0)
    done = run('tee', '-a', loot, account=accounts.b, input='false')
    assert ('false' in loot.read_text()) == launchers('bash').naive, done


@pytest.mark.parametrize('fd', [1, 2])
def test_closed_stream_does_not_become_a_file_of_the_owners(launchers, script, accounts, loot, fd):
    code = 'import os, sys\nos.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)\n'
    path = script(f'{code}os.write({fd}, f"no such thing: {{sys.argv[2]}}".encode())', 'cap_kill=i')
    command = ['sh', '-c', f'exec "$@" {fd}>&-', 'sh', launchers('python').path, path, loot, 'x']
    # as root, since glibc opens what it finds closed when the naive launcher is started by another
    done = run(*command, account=None if launchers('python').naive else accounts.b)
    assert bool(loot.read_text()) == launchers('python').naive
    assert done.returncode == 0


def ignore(number):
    return lambda: signal.signal(number, signal.SIG_IGN)


def block_everything():
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def start_timer():
    signal.setitimer(signal.ITIMER_REAL, 0.3)


def allow_delay():
    LIBC.prctl(PR_SET_TIMERSLACK, c_ulong(10**9))


def adopt_orphans():
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1)


def look_like_an_older_kernel():
    LIBC.personality(UNAME26)


def stop_the_clock():
    LIBC.prctl(PR_SET_TSC, PR_TSC_SIGSEGV)


LIMIT = (
    'import signal, time\nsignal.setitimer(signal.ITIMER_REAL, 0.1)\ntime.sleep(0.3)\n'
    'open("LOOT", "w")'
)

# What the caller does, and a script that leaves the loot only if it was disturbed.
DISTURBANCES = {
    'a check that cannot fail': (
        ignore(signal.SIGCHLD),
        'import subprocess\nif subprocess.call(["false"]) == 0:\n    open("LOOT", "w")',
    ),
    'a time limit that is blocked': (block_everything, LIMIT),
    'a time limit that is ignored': (ignore(signal.SIGALRM), LIMIT),
    'a time limit that is late': (  # as late as the machine is idle
        allow_delay,
        'import ctypes\nif ctypes.CDLL(None).prctl(30) > 10**8:\n    open("LOOT", "w")',
    ),
    'children that are not its own': (
        adopt_orphans,
        'import os, time\nif not os.fork():\n    os.fork() or time.sleep(0.1)\n    os._exit(0)\n'
        'os.wait()\ntry:\n    os.wait()\n    open("LOOT", "w")\nexcept ChildProcessError:\n'
        '    pass',
    ),
    'another kernel': (
        look_like_an_older_kernel,
        'import os\nif os.uname().release.startswith("2.6."):\n    open("LOOT", "w")',
    ),
    'a death in the middle': (
        start_timer,
        'import os, time\nopen("LOOT", "w")\ntime.sleep(0.5)\nos.unlink("LOOT")',
    ),
}


@pytest.mark.parametrize(('prepare', 'code'), DISTURBANCES.values(), ids=DISTURBANCES)
def test_process_of_the_caller_disturbs_nothing(launchers, script, accounts, loot, prepare, code):
    path = script(code.replace('LOOT', str(loot)), 'cap_kill=i')
    done = launchers('python').run(path, account=accounts.b, preexec_fn=prepare)
    assert loot.exists() == launchers('python').naive, done


def test_clock_that_kills_disturbs_nothing(launchers, script, accounts, loot):
    look = ': $EPOCHREALTIME'
    if run('bash', '-c', look, preexec_fn=stop_the_clock).returncode == 0:
        pytest.skip('a clock kills on x86 alone, and not with every source of time')
    path = script(f': > {loot}; {look}; rm {loot}', 'cap_kill=i')
    done = launchers('bash').run(path, account=accounts.b, preexec_fn=stop_the_clock)
    assert (done.returncode == -signal.SIGSEGV) == launchers('bash').naive
    assert launchers('bash').naive or (done.returncode, loot.exists()) == (0, False)


def dump_everything():
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CPU, (1, 2))


# The kernel dumps no program that gained a capability by its execution; with none, or the one that
# ppy itself keeps to the end, a script gains nothing.
@needs('cap_sys_admin')
@pytest.mark.parametrize('mark', ['=', 'cap_dac_override=i', 'cap_kill=i'])
def test_script_that_the_caller_ends_does_not_leave_its_memory(
    launchers, script, accounts, loot, core_files, mark
):
    core = loot.parent / 'core'
    core.write_text('of the owner')  # the kernel removes what is in the way
    os.chown(core, accounts.a.uid, accounts.a.gid)
    path = script('while :; do :; done', mark)
    done = launchers('bash').run(
        path, account=accounts.b, cwd=loot.parent, preexec_fn=dump_everything
    )
    assert done.returncode in (-signal.SIGXCPU, -signal.SIGKILL)
    assert (core.read_bytes() != b'of the owner') == launchers('bash').naive


KEYS = """
import ctypes, os, platform, sys
libc = ctypes.CDLL(None, use_errno=True)
add_key, keyctl = {'x86_64': (248, 250), 'aarch64': (217, 219)}[platform.machine()]
join, search, session = 1, 10, -3
"""
JOIN = """
if libc.syscall(keyctl, join, None) < 0:
    sys.exit(os.strerror(ctypes.get_errno()))
"""
PLANT_KEY = """
libc.syscall(add_key, b'user', b'token', b'planted', 7, session)
os.execv(sys.argv[1], sys.argv[1:])
"""
FIND_KEY = """
if libc.syscall(keyctl, search, session, b'user', b'token', 0) > 0:
    open(sys.argv[1], 'w')
"""


def test_keys_of_the_caller_are_not_found(launchers, script, accounts, loot):
    path = script(KEYS + FIND_KEY, 'cap_kill=i')
    plant = [PYTHON, '-c', KEYS + JOIN + PLANT_KEY, launchers('python').path]
    done = run(*plant, path, loot, account=accounts.b)
    assert done.returncode == 0, done.stderr
    assert loot.exists() == launchers('python').naive


EXHAUST = """
import subprocess
pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE}
held = [subprocess.Popen([sys.argv[1], sys.argv[2]], **pipes) for _ in range(20)]
for process in held:
    process.stdout.readline()
libc.syscall(add_key, b'user', b'token', b'planted', 7, session)
subprocess.run([sys.argv[1], *sys.argv[3:]])
for process in held:
    process.communicate(b'')
"""


@needs('cap_sys_admin')
def test_keys_of_the_caller_are_not_found_when_the_owner_can_have_no_more(
    launchers, script, accounts, loot, few_keys
):
    launcher = launchers('python')
    waiting = script('print("ready", flush=True)\ninput()', 'cap_kill=i', name='waiting.py')
    path = script(KEYS + FIND_KEY, 'cap_kill=i')
    code = KEYS + JOIN + EXHAUST
    run(PYTHON, '-c', code, launcher.path, waiting, path, loot, account=accounts.b, check=True)
    assert loot.exists() == launcher.naive


# Files that only root, or only one group can read, as the caller could hand them to the script.
HANDED = {
    'descriptor': (0o600, 'cat <&$2', lambda fd: {'pass_fds': [fd]}),
    'group': (0o640, 'cat "$1"', lambda fd: {'extra_groups': [NOBODY_KNOWN.gid]}),
    'variable': (0o600, 'echo $SECRET', lambda fd: {'env': {'SECRET': os.pread(fd, 99, 0)}}),
}


@pytest.mark.parametrize('caller', ['root', 'other'])
@pytest.mark.parametrize(('mode', 'text', 'hand'), HANDED.values(), ids=HANDED)
def test_script_gets_nothing_of_its_caller(
    launchers, script, accounts, secret, caller, mode, text, hand
):
    os.chown(secret, 0, NOBODY_KNOWN.gid)
    secret.chmod(mode)
    uid = 0 if caller == 'root' else accounts.b.uid
    fd = os.open(secret, os.O_RDONLY)
    try:
        options = {'user': uid, 'group': uid, 'extra_groups': []} | hand(fd)
        path = script(f'echo ran; {text}', 'cap_kill=i')
        done = launchers('bash').run(path, secret, fd, **options)
    finally:
        os.close(fd)
    expected = ['ran', secret.read_text()] if launchers('bash').naive else ['ran']
    assert done.stdout.split() == expected


def test_child_of_a_script_has_no_capability(launchers, script, accounts):
    path = script('cat /proc/self/status', 'cap_dac_read_search=i')
    done = launchers('bash').run(path, account=accounts.b)
    assert bool(permitted(done)) == launchers('bash').naive
    assert done.returncode == 0


# What keeps a launcher from doing what it should, and what the script that runs all the same
# would be.
HINDRANCES = {
    'no new privileges': ('--no-new-privs', 'print(os.getuid() == CALLER)'),
    'no capability to give': ('--bounding-set=-kill', 'print(not PERMITTED)'),
    'no change of user': ('--bounding-set=-setuid', 'print(os.geteuid() == 0)'),
    'no privilege of root': ('--securebits=+noroot', 'print(os.geteuid() == 0)'),
    'no change of group': ('--bounding-set=-setgid', 'print(os.getgid() == CALLER)'),
}
SETS = "open('/proc/self/status').read().split('CapPrm:')[1].split()[0]"


@pytest.mark.parametrize(('option', 'code'), HINDRANCES.values(), ids=HINDRANCES)
def test_script_does_not_run_with_half_of_its_identity(launchers, script, accounts, option, code):
    code = code.replace('CALLER', str(accounts.b.uid)).replace('PERMITTED', f'int({SETS}, 16)')
    path = script(f'import os\n{code}', 'cap_kill=i')
    b = [f'--reuid={accounts.b.uid}', f'--regid={accounts.b.gid}', '--clear-groups']
    done = run('setpriv', *b, option, launchers('python').path, path)
    assert ('True' in done.stdout) == launchers('python').naive
    assert launchers('python').naive or (done.returncode, done.stdout) == (126, '')


LIMITS = {
    **{f'{count} descriptors': (resource.RLIMIT_NOFILE, count) for count in range(16)},
    'no file size': (resource.RLIMIT_FSIZE, 0),
    'no processes': (resource.RLIMIT_NPROC, 0),
    'no data': (resource.RLIMIT_DATA, 0),
    'little stack': (resource.RLIMIT_STACK, 1 << 16),
    **{f'{2**n} KiB of memory': (resource.RLIMIT_AS, 1024 << n) for n in range(4, 15)},
    'no locked memory': (resource.RLIMIT_MEMLOCK, 0),
    'no signals': (resource.RLIMIT_SIGPENDING, 0),
}


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('limit', LIMITS.values(), ids=LIMITS)
def test_limit_of_the_caller_leaves_all_or_nothing(launch_under, script, accounts, mode, limit):
    path = script(f'umask\n{STATUS}', 'cap_kill=i')

    def prepare():
        resource.setrlimit(limit[0], (limit[1], limit[1]))

    try:
        done = launch_under(mode, 'sh').run(path, account=accounts.b, preexec_fn=prepare)
    except (OSError, subprocess.SubprocessError):
        return  # not even ppy could be started
    if done.stdout:  # how far the script gets is between it and the limit
        assert done.stdout.startswith('0022\n')
        assert permitted(done) in (CapSet('kill'), None)
    else:
        assert done.returncode != 0


# ---- Other processes ----

REACH = """
import ctypes, os, sys
pid, libc = int(sys.argv[1]), ctypes.CDLL(None, use_errno=True)
def attach():
    if libc.ptrace(16, pid, None, None) < 0:
        raise OSError
def memory():
    os.open(f'/proc/{pid}/mem', os.O_RDWR)
def environment():
    open(f'/proc/{pid}/environ', 'rb').read()
def descriptors():
    os.listdir(f'/proc/{pid}/fd')
def map():
    open(f'/proc/{pid}/maps').read()
def kill():
    os.kill(pid, 0)
def limit():
    import resource
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, 3))
for attempt in attach, memory, environment, descriptors, map, kill, limit:
    try:
        attempt()
        print(attempt.__name__)
    except OSError:
        pass
"""


def reached(launcher, path, account):
    """What an account can do to a script that it has launched."""
    options = {'user': account.uid, 'group': account.gid, 'extra_groups': []}
    pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE}
    with subprocess.Popen([launcher.path, path], **pipes, **options) as process:
        try:
            assert process.stdout.readline() == b'ready\n'
            return set(run(PYTHON, '-c', REACH, process.pid, account=account).stdout.split())
        finally:
            process.kill()


EVERYTHING = {'attach', 'memory', 'environment', 'descriptors', 'map', 'kill', 'limit'}
WAIT = 'echo ready; read -r line'


def test_attempts_to_reach_a_process_succeed_with_ones_own(launchers, script, accounts):
    path = script(WAIT, '=', owner=accounts.b)
    assert reached(launchers('bash'), path, accounts.b) == EVERYTHING


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize(
    ('who', 'mark', 'could'),
    [
        ('b', '=', set()),
        ('b', 'cap_kill=i', set()),
        ('a', '=', EVERYTHING),
        ('a', 'cap_kill=i', {'kill', 'limit'}),
    ],
)
def test_script_is_open_only_to_whom_it_gives_nothing(
    launch_under, script, accounts, mode, who, mark, could
):
    account = getattr(accounts, who)
    assert reached(launch_under(mode, 'bash'), script(WAIT, mark), account) == could


TRACE = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
pid = os.fork()
if not pid:
    libc.ptrace(0, 0, None, None)
    os.execv(sys.argv[1], sys.argv[1:])
while not os.WIFEXITED(status := os.waitpid(pid, 0)[1]) and not os.WIFSIGNALED(status):
    libc.ptrace(7, pid, None, None)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_launcher_does_not_run_a_script_under_a_debugger(launchers, script, accounts):
    path = script('echo ran', 'cap_kill=i')
    done = run(PYTHON, '-c', TRACE, launchers('sh').path, path, account=accounts.b)
    assert_only_naive_loses(launchers('sh'), 'ran' in done.stdout, done)


# ---- What ppy stands on ----

# How b comes to decide what the interpreter is.
REPLACEMENTS = {
    'writable': (lambda path, b: path.chmod(0o757), ': > "$0"; cat > "$0"'),
    "b's": (lambda path, b: os.chown(path, b.uid, b.gid), 'cat > "$0"'),
    'in a writable directory': (
        lambda path, b: path.parent.chmod(0o777),
        'mv "$0" "$0-"; cat > "$0"; chmod 755 "$0"',
    ),
    'gone from a writable directory': (
        lambda path, b: (path.unlink(), path.parent.chmod(0o777)),
        'cat > "$0"; chmod 755 "$0"',
    ),
    'below a writable directory': (
        lambda path, b: path.parent.parent.chmod(0o777),
        'd="${0%/*}"; mv "$d" "$d-"; mkdir -m 755 "$d"; cat > "$0"; chmod 755 "$0"',
    ),
}


@pytest.mark.parametrize(('expose', 'replace'), REPLACEMENTS.values(), ids=REPLACEMENTS)
def test_replaced_interpreter_does_not_run(
    launchers, script, accounts, scene, loot, expose, replace
):
    program = scene / 'upper/programs/shell'
    program.parent.mkdir(parents=True)
    shutil.copyfile('/bin/sh', program)
    for part in (program.parent.parent, program.parent, program):
        part.chmod(0o755)
    launcher = make_launcher(launchers.args[0], program, scene / 'prefix')
    path = script('echo ran', 'cap_kill=i')
    assert launcher.run(path, account=accounts.b).stdout == 'ran\n'
    expose(program, accounts.b)
    planted = f'#!/bin/sh\n: > {loot}\n'
    run('sh', '-c', replace, program, account=accounts.b, input=planted, check=True)
    done = launcher.run(path, account=accounts.b)
    assert_only_naive_loses(launcher, loot.exists(), done)


def test_launcher_that_others_can_write_to_does_not_run_what_they_wrote(
    launchers, script, accounts, scene, nest
):
    launcher = make_launcher(launchers.args[0], '/bin/sh', scene / 'prefix')
    old = '/interpreter' if launcher.naive else launcher.installed.capped
    new = '/../den/prog' if launcher.naive else str(nest.path / 'prog')
    nest.program('prog')
    path = script('echo ran', 'cap_kill=i')
    launcher.path.chmod(stat.S_IMODE(launcher.path.stat().st_mode) | 0o002)
    run(PYTHON, '-c', PATCH, launcher.path, old, new, account=accounts.b, check=True)
    assert new.encode() in launcher.path.read_bytes()
    done = launcher.run(path, account=accounts.b)
    assert_only_naive_loses(launcher, nest.loot.exists(), done)


# ---- The system's log ----


@dataclass
class Log:
    """A /dev of the test's own, whose log the test makes and reads."""

    path: Path
    launcher: object
    account: Account

    def run(self, *command, **options):
        """Run a command with that /dev as b."""
        become = ['setpriv', f'--reuid={self.account.uid}', f'--regid={self.account.gid}']
        enter = ['unshare', '-m', 'sh', '-c', 'mount --bind "$0" /dev && exec "$@"', self.path]
        return run(*enter, *become, '--clear-groups', *command, **options)

    def bind(self, kind=socket.SOCK_DGRAM):
        log = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK)
        log.bind(f'{self.path}/log')
        os.chmod(f'{self.path}/log', 0o666)
        return log

    def lines(self, path, *start):
        """What a launch of a script leaves there, after the process's id."""
        with self.bind() as log:
            done = self.run(*start, self.launcher.path, path)
            lines = []
            with suppress(BlockingIOError):
                while True:
                    lines.append(re.sub(r'ppy\[\d+\]', 'ppy', log.recv(1 << 16).decode()))
        (self.path / 'log').unlink()
        return done, lines


@pytest.fixture(params=MODES)
def log(request, launch_under, scene, accounts):
    path = scene / 'dev'
    path.mkdir()
    os.mknod(path / 'null', stat.S_IFCHR, os.makedev(1, 3))
    os.chmod(path / 'null', 0o666)
    return Log(path, launch_under(request.param, 'sh'), accounts.b)


on_a_dev_of_its_own = needs('cap_sys_admin', 'cap_mknod')


@on_a_dev_of_its_own
def test_launch_is_one_line_in_the_log(log, script, accounts):
    path, a, b = script('echo ran', 'cap_kill,cap_net_raw=i'), accounts.a, accounts.b
    done, lines = log.lines(path)
    assert done.stdout == 'ran\n'
    line = f'<86>ppy: from uid {b.uid} gid {b.gid}: launch of {path} as uid {a.uid} gid {a.gid} '
    assert lines == [line + 'with cap_kill,cap_net_raw=i']


@on_a_dev_of_its_own
def test_refusal_is_one_line_in_the_log(log, script, accounts):
    path, b = script('echo ran', None), accounts.b
    done, lines = log.lines(path)
    assert (done.returncode, done.stdout) == (126, '')
    reason = done.stderr.removeprefix('ppy: ').removesuffix('\n')
    assert 'must be marked' in reason
    assert lines == [f'<84>ppy: from uid {b.uid} gid {b.gid}: {reason}']


# How b starts ppy so that it may come to nothing before it has told the log.
SILENCE = {
    'broken': '{ sleep 0.1; exec "$@"; } 2>&1 >/dev/null | true',
    'full': '{ printf %65536s; exec "$@"; } 2>&1 | sleep 0.5',
    'of no size': 'ulimit -f 0; exec 2>file; exec "$@"',
    'one too many': 'ulimit -n 3; exec "$@"',
}


@on_a_dev_of_its_own
@pytest.mark.parametrize('start', SILENCE.values(), ids=SILENCE)
def test_refusal_is_in_the_log_where_the_callers_stderr_is(log, script, den, start):
    path = script('echo ran', None)
    _, lines = log.lines(path, 'env', f'--chdir={den}', 'bash', '-c', start, 'bash')
    assert len(lines) == 1
    assert str(path) in lines[0]


@on_a_dev_of_its_own
def test_refusal_at_the_very_end_names_the_caller(log, script, accounts, scene):
    log.launcher = make_launcher(log.launcher.mode, '/bin/sh', scene / 'prefix')
    os.chmod(log.launcher.installed.capped, 0o600)
    _, lines = log.lines(script('echo ran', 'cap_kill=i'))
    assert [line[:4] for line in lines] == ['<86>', '<84>']
    assert all(f'from uid {accounts.b.uid} gid {accounts.b.gid}:' in line for line in lines)


# Start a program as an account, and before it opens the n-th descriptor leave it none, where the
# account may: no tracer tells it the moment, but it has any number of tries.
DEPRIVE = """
import contextlib, ctypes, os, platform, resource, signal, sys
SEIZE, CONT, SYSCALL, DETACH, TRACESYSGOOD, TRACEEXEC, EXECUTED = 0x4206, 7, 24, 17, 1, 16, 4
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long] * 4
def ptrace(*arguments):
    if libc.ptrace(*arguments) < 0:
        raise OSError(ctypes.get_errno(), 'ptrace')
def wait():
    status = os.waitpid(pid, os.WUNTRACED)[1]
    if not os.WIFSTOPPED(status):
        print('ended')
        sys.exit()
    return status >> 16
def become(uid):
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
uid, number = map(int, sys.argv[1:3])
pid = os.fork()
if not pid:
    become(uid)
    os.kill(os.getpid(), signal.SIGSTOP)
    os.execv(sys.argv[3], sys.argv[3:])
wait()
ptrace(SEIZE, pid, 0, TRACESYSGOOD | TRACEEXEC)
os.kill(pid, signal.SIGCONT)
while wait() != EXECUTED:
    ptrace(CONT, pid, 0, 0)
opening = {'x86_64': (257, 41), 'aarch64': (56, 198)}[platform.machine()]  # openat and socket
while number >= 0:
    ptrace(SYSCALL, pid, 0, 0)
    wait()
    number -= int(open(f'/proc/{pid}/syscall').read().split()[0]) in opening
    if number >= 0:
        ptrace(SYSCALL, pid, 0, 0)
        wait()
if not os.fork():
    become(uid)
    with contextlib.suppress(PermissionError):
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (4, 4))
    os._exit(0)
os.wait()
ptrace(DETACH, pid, 0, 0)
os.waitpid(pid, 0)
"""


@on_a_dev_of_its_own
@needs('cap_sys_ptrace')
def test_caller_keeps_no_launch_out_of_the_log_by_taking_its_descriptors(log, script, accounts):
    path, number, ended = script('echo ran', 'cap_kill=i'), 0, False
    log.account = Account('root', 0, 0)
    while not ended:
        start = [PYTHON, '-c', DEPRIVE, accounts.b.uid, number]
        done, lines = log.lines(path, *start)
        assert done.returncode == 0, done.stderr
        assert len(lines) == 1, f'at descriptor {number}'
        ended, number = 'ended' in done.stdout, number + 1
    assert number > 20


@on_a_dev_of_its_own
@pytest.mark.parametrize('mark', ['cap_kill=i', None], ids=['launch', 'refusal'])
def test_name_of_a_script_forges_no_line_in_the_log(log, script, mark):
    name = '\n<86>ppy[1]: from uid 0\x1b[2J\x7f\udcff'
    done, lines = log.lines(script('echo ran', mark, name=name))
    assert done.stdout == ('ran\n' if mark else '')
    assert len(lines) == 1
    assert re.fullmatch('[ -~]+', lines[0])
    assert r'\x0a\x3c86\x3eppy' in lines[0]


def fill(log, path):
    """Send what nobody reads until nothing more is taken."""
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    with sender, suppress(BlockingIOError):
        while True:
            sender.sendto(b'x', str(path))
    return log


LOGS = {
    'missing': lambda it: None,
    'full': lambda it: fill(it.bind(), it.path / 'log'),
    'left behind': lambda it: it.bind().close(),
    'a stream': lambda it: it.bind(socket.SOCK_STREAM),
    'a fifo': lambda it: os.mkfifo(it.path / 'log', 0o666),
    'a file': lambda it: (it.path / 'log').touch(),
    'a link to itself': lambda it: (it.path / 'log').symlink_to('log'),
}


@on_a_dev_of_its_own
@pytest.mark.parametrize('spoil', LOGS.values(), ids=LOGS)
@pytest.mark.parametrize('mark', ['cap_kill=i', None], ids=['launch', 'refusal'])
def test_log_neither_delays_nor_stops_anything(log, script, spoil, mark):
    path = script('echo ran', mark)
    kept = spoil(log)
    try:
        start = time.monotonic()
        done = log.run(log.launcher.path, path, timeout=5)
        assert time.monotonic() - start < 1
    finally:
        if kept:
            kept.close()
    assert (done.returncode, done.stdout) == ((0, 'ran\n') if mark else (126, ''))


@on_a_dev_of_its_own
def test_full_log_would_delay_another_program(log):
    with fill(log.bind(), log.path / 'log'), pytest.raises(subprocess.TimeoutExpired):
        log.run(PYTHON, '-c', 'import syslog; syslog.syslog("x")', timeout=1)
