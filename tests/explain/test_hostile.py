"""A file that somebody else owns is explained at once, with little memory, and as what it is."""

import ctypes
import os
import pty
import re
import resource
import shlex
import shutil
import socket
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from caps import Caps
from caps.explain import explain
from caps.system.launcher import read_record
from caps.system.path import strangers
from support import CHILDREN, PATIENCE, SOAK, needs, needs_root, run
from support.machine import sysctls

pytestmark = [needs_root, needs('cap_net_raw')]
SECONDS, MEMORY = 20, 1 << 30  # for an explanation, which takes a fraction of either


def explained(path, *options):
    """What caps explain says, in a process that may not take long, nor much."""

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))

    command = [sys.executable, '-m', 'caps', 'explain', path, *options]
    return run(*command, preexec_fn=limit)


def mkdir_of(account, path):
    path.mkdir()
    os.chown(path, account.uid, account.gid)
    return path


def test_link_to_a_deleted_file_whose_shown_name_is_a_loop_ends(scene, program):
    path = program('cap_net_raw=i')
    with open(path) as file:
        path.unlink()
        shown = scene / f'{path.name} (deleted)'
        shown.symlink_to(shown.name)
        (scene / 'app').symlink_to(f'/proc/{os.getpid()}/fd/{file.fileno()}')
        done = explained(scene / 'app')
    assert 'cap_net_raw' in done.stdout, done.stderr
    assert 'no path leads to it' in done.stdout
    assert 'setcap' not in done.stdout


def elf(*segments):
    """A program of these segments: (kind, offset, address, length) each."""
    head = b'\x7fELF\2\1\1'.ljust(16, b'\0')
    head += struct.pack('<HHIQQQIHHHHHH', 3, 62, 1, 0, 64, 0, 0, 64, 56, len(segments), 64, 0, 0)
    rows = [struct.pack('<IIQQQQQQ', kind, 4, offset, at, at, length, length, 8)
            for kind, offset, at, length in segments]  # fmt: skip
    return head + b''.join(rows)


LOAD, DYNAMIC, TOP = 1, 2, 1 << 26
START = 1 << 22  # beyond any table of segments


def sparse(path, head, at=(), size=TOP - 4096):
    """A set-user-ID program with a head, and content at some places."""
    with open(path, 'wb') as file:
        file.truncate(size)
        file.write(head)
        for place, content in at:
            file.seek(place)
            file.write(content)
    os.chmod(path, 0o4755)
    return path


def many_libraries():
    entries = struct.pack('<4Q', 5, START + (1 << 21), 29, 0) + struct.pack('<2Q', 1, 0) * 65536
    names = (START + (1 << 21), b'x' * (TOP - 4096 - START - (1 << 21) - 1))
    head = elf((LOAD, 0, 0, TOP), (DYNAMIC, START, START, len(entries)))
    return head, [(START, entries), names]


def many_segments():
    return elf(*[(DYNAMIC, START, START, TOP - START - 4096)] * 65535), []


def one_endless_section():
    return elf((DYNAMIC, START, START, 1 << 62)), [(START, struct.pack('<2Q', 1, 0) * 65536)]


def far_away():
    return elf((LOAD, 1 << 63, 0, 1 << 63), (DYNAMIC, (1 << 64) - 8, 0, 1 << 63)), []


def many_directories():
    entries = [5, START + (1 << 20), 29, 0, *[1, 1 << 13] * 65536, 0, 0]
    text = (b'/a:' * 1365).ljust(1 << 13, b'\0') + b'absent.so\0'
    head = elf((LOAD, 0, 0, TOP), (DYNAMIC, START, START, 8 * len(entries)))
    return head, [(START, struct.pack(f'<{len(entries)}Q', *entries)), (START + (1 << 20), text)]


@pytest.mark.parametrize(
    'shape', [many_libraries, many_segments, one_endless_section, far_away, many_directories]
)
def test_program_that_no_linker_made_takes_little_time_and_memory(scene, accounts, shape):
    head, places = shape()
    path = sparse(scene / 'program', head, places)
    done = explained(path, '--as', accounts.attacker.name)
    assert done.stdout.startswith(f'The file {path}\n'), done.stderr


def test_program_larger_than_any_ppy_is_none(scene):
    path = sparse(scene / 'program', b'\x7fELF', size=1 << 40)
    assert explained(path).stdout.startswith(f'The file {path}\n')
    assert read_record(str(path)) is None


def exchange_until(ended, *names):
    """Exchange two names in a loop; to be run in a thread."""
    libc = ctypes.CDLL(None)
    while not ended.is_set():
        libc.renameat2(-100, os.fsencode(names[0]), -100, os.fsencode(names[1]), 2)


@pytest.mark.parametrize('look', [lambda path: explain(path), read_record], ids=['explain', 'ppy'])
def test_fifo_exchanged_for_the_file_is_not_waited_for(scene, program, look):
    path, fifo = program('cap_net_raw=ep'), scene / 'fifo'
    os.mkfifo(fifo)
    ended = threading.Event()
    thread = threading.Thread(target=exchange_until, args=(ended, path, fifo))
    thread.start()
    try:
        for _ in range(100 * SOAK):
            with suppress(PermissionError):  # of the FIFO
                look(str(path))
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize('kind', ['fifo', 'socket', 'directory', 'device'])
def test_what_is_no_regular_file_is_not_opened(scene, kind):
    path = scene / kind
    if kind == 'fifo':
        os.mkfifo(path)
    elif kind == 'device':
        os.mknod(path, 0o020666, os.makedev(1, 5))  # which has no end
    elif kind == 'directory':
        path.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
    for name in path, f'{path}-link':
        if not os.path.lexists(name):
            os.symlink(path, name)
        assert 'not a regular file, which nothing can execute' in explained(name).stderr
    assert read_record(str(path)) is None


@pytest.mark.parametrize('size', [4, 5, 6, 40, 63, 100])
def test_program_that_is_cut_off_is_explained(scene, size):
    path = scene / 'cut'
    path.write_bytes(Path('/bin/true').read_bytes()[:size])
    path.chmod(0o755)
    done = explained(path)
    assert done.returncode == 0, done.stderr
    assert f'The file {path}' in done.stdout


@pytest.mark.parametrize('path', ['/proc/kmsg', '/proc/self/mem', '/proc/sysrq-trigger'])
def test_file_of_proc_is_not_waited_for(path):
    assert explained(path).returncode == 1


@needs('cap_sys_admin')
def test_lease_is_not_waited_for(scene, program):
    path = program('cap_net_raw=ep')
    command = [sys.executable, CHILDREN / 'leases.py', path]
    pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE}
    with (
        sysctls({'fs/lease-break-time': str(10 * PATIENCE)}),
        subprocess.Popen(command, text=True, **pipes) as holder,
    ):
        assert holder.stdout.readline() == 'leased\n'
        assert 'cap_net_raw' in explained(path).stdout
        holder.stdin.close()


def test_what_is_advised_names_the_file_that_was_looked_at(scene, program, accounts):
    path, theirs = program('cap_net_raw=i'), mkdir_of(accounts.attacker, scene / 'theirs')
    (theirs / 'name').symlink_to(path)
    said = explain(theirs / 'name', user=accounts.attacker.name)
    commands = [advice.command for advice in said.advice if advice.command]
    assert all(str(theirs) not in command for command in commands)
    assert said.executable.real_path == str(path)


def test_huge_attributes_and_names_are_no_trouble(scene, program):
    path = program('cap_net_raw=ep')
    os.setxattr(path, 'user.big', b'x' * 3000)
    for number in range(300):  # a chain of links longer than the kernel follows
        (scene / f'link{number}').symlink_to(f'link{number + 1}')
    (scene / 'link300').symlink_to(path)
    assert 'Too many levels of symbolic links' in explained(scene / 'link0').stderr
    assert explained(scene / 'link290').returncode == 0
    assert 'File name too long' in explained('/x' * 3000).stderr
    Caps.remove(path)


def test_check_as_another_account_has_no_terminal(scene, accounts, probing_ppy, script):
    theirs = mkdir_of(accounts.attacker, scene / 'theirs')
    (scene / 'ppy').write_bytes(Path(probing_ppy.ppy).read_bytes())
    steal = (CHILDREN / 'steals_terminal.py').read_text().replace('SAID', str(theirs / 'said'))
    (scene / 'ppy-check').write_text(steal)
    for path in scene / 'ppy', scene / 'ppy-check':
        path.chmod(0o755)
    path = script('', 'cap_net_raw=i')
    command = [
        '-m',
        'caps',
        'explain',
        '--as',
        accounts.attacker.name,
        '--ppy',
        scene / 'ppy',
        path,
    ]
    pid, terminal = pty.fork()
    if not pid:
        os.execv(sys.executable, [sys.executable, *map(str, command)])
    with suppress(OSError):  # it is closed
        while os.read(terminal, 1 << 16):
            pass
    os.close(terminal)
    os.waitpid(pid, 0)
    assert (theirs / 'said').read_text() == 'No such device or address'


def test_advice_with_a_name_is_a_command_on_that_name_alone(den, accounts):
    """An admin pastes what is advised, and the owner of a file names the directories above it."""
    environment = mkdir_of(accounts.attacker, den / 'x $(id) ; y')
    (environment / 'pyvenv.cfg').touch()
    (environment / 'bin').mkdir()
    (environment / 'bin/shared').symlink_to('/bin/sleep')
    shutil.copy('/bin/sleep', environment / 'bin/own')
    for path in (environment / 'bin').iterdir():
        advice = explain(path, accounts.attacker.name).advice
        (said,) = [each.text for each in advice if each.rule == 'unmarked']
        command = re.search('caps venv mark .* CAPABILITIES', said)
        assert shlex.split(command[0]) == ['caps', 'venv', 'mark', str(environment), 'CAPABILITIES']
    environment.chmod(0o777)
    *_, said = strangers(str(environment))
    assert shlex.split(said.partition(': ')[2]) == ['chmod', 'go-w', str(environment)]


def test_name_of_a_ppy_in_another_mount_namespace_has_nothing_run(scene, probing_ppy, script):
    """The kernel calls it like a file of root's here, beside which a check lies."""
    ran, bin = scene / 'ran', scene / 'bin'
    bin.mkdir()
    (bin / 'other').write_bytes(b'')
    (bin / 'other-check').write_text(f'#!/bin/sh\n: > {ran}\n')
    (bin / 'other-check').chmod(0o755)
    fake = shutil.copy(probing_ppy.ppy, scene / 'fake')
    command = f'mount --bind {fake} {bin}/other; echo; exec cat'
    pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE}
    with subprocess.Popen(['unshare', '--mount', 'sh', '-c', command], **pipes) as other:
        other.stdout.readline()
        path = script(f'#!/proc/{other.pid}/root{bin}/other\n', 'cap_net_raw=i')
        said = explain(path)
        other.stdin.close()
    assert not ran.exists()
    assert not said.checks[-1].holds


def test_file_without_content_is_not_opened(scene, program):
    """As to read one that the kernel makes up, such as /proc/kmsg, takes it away from others."""
    libc, empty = ctypes.CDLL(None), scene / 'empty'
    empty.touch()
    empty.chmod(0o755)
    watch = libc.inotify_init1(os.O_NONBLOCK)
    try:
        for path in empty, program('cap_net_raw=i'):
            assert libc.inotify_add_watch(watch, os.fsencode(path), 0x21) > 0  # access, open
        explain(empty)
        with pytest.raises(BlockingIOError):
            os.read(watch, 4096)
        explain(path)
        assert os.read(watch, 4096)
    finally:
        os.close(watch)
    assert not explain(empty).executable.file.is_program
