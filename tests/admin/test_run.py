"""What runs as another account reaches nothing of root's, and nothing of it stays."""

import os
import pty
import signal
import subprocess
from ctypes import CDLL

import pytest

from caps import Caps, SecureBits, _caps
from caps.system.run import Account, RunError, run_as
from support import needs, needs_root, program, run
from support.child import in_a_child
from support.children.inside import wait_for

pytestmark = needs_root

SLEEP = '/bin/sleep'


def naively(argv, account):
    ids = {'user': account.uid, 'group': account.gid, 'extra_groups': []}
    return subprocess.run(argv, capture_output=True, **ids).stdout


def by_run_as(argv, account):
    return run_as(argv, account).output


@pytest.fixture
def account(accounts):
    return Account(accounts.attacker.uid, accounts.attacker.gid)


def on_terminal(start, argv, account):
    """What a program prints that a child starts, which has a terminal of its own."""
    pid, terminal = pty.fork()
    if not pid:
        try:
            signal.signal(signal.SIGTTOU, signal.SIG_IGN)
            os.write(1, start(argv, account))
        finally:
            os._exit(0)
    said = b''
    while True:
        try:
            part = os.read(terminal, 1 << 16)
        except OSError:  # it is closed
            part = b''
        if not part:
            break
        said += part
    os.close(terminal)
    os.waitpid(pid, 0)
    return said.decode()


def sleepers(seconds):
    return run('pgrep', '-f', f'^{SLEEP} {seconds}$').stdout.split()


@pytest.mark.parametrize('start', [naively, by_run_as])
def test_terminal_of_root_is_out_of_reach(start, account):
    said = on_terminal(start, ['/usr/bin/python3', '-c', program('on_terminal')], account)
    falls = start is naively
    assert ('opened' in said) is falls
    assert ('took the foreground' in said) is falls


def test_program_is_the_account_and_has_nothing_of_this_process(account, monkeypatch, tmp_path):
    monkeypatch.setenv('SECRET', 'of root')
    with open(tmp_path / 'secret', 'w') as file:
        os.set_inheritable(file.fileno(), True)
        code = (
            'import os; print(os.getresuid(), os.getresgid(), os.getgroups(), dict(os.environ), '
            'os.getcwd(), os.umask(0), sorted(os.listdir("/proc/self/fd")), '
            'os.getsid(0) == os.getpgrp() == os.getpid(), '
            '[line for line in open("/proc/self/status") if line.startswith(("CapI", "CapP"))])'
        )
        finished = run_as(['/usr/bin/python3', '-c', code], account)
    uid, gid = account.uid, account.gid
    said = finished.output.decode()
    assert said.startswith(f'({uid}, {uid}, {uid}) ({gid}, {gid}, {gid}) [] ')
    assert "'SECRET'" not in said
    assert said.endswith(
        " / 63 ['0', '1', '2', '3'] True "
        "['CapInh:\\t0000000000000000\\n', 'CapPrm:\\t0000000000000000\\n']\n"
    )


def test_groups_are_those_that_are_given(account):
    with_groups = account._replace(groups=(7, 8))
    assert run_as(['/usr/bin/id', '-G'], with_groups).output.decode().split()[1:] == ['7', '8']


@needs('cap_setpcap')
def test_capabilities_that_secure_bits_would_keep_are_dropped(account):
    @in_a_child
    def permitted():
        SecureBits(['no_setuid_fixup']).apply()
        return run_as(['/usr/bin/grep', 'CapPrm', '/proc/self/status'], account).output

    assert permitted() == b'CapPrm:\t0000000000000000\n'


KEYRING = f'import ctypes; print(ctypes.CDLL(None).syscall({_caps.KEYCTL}, 0, -3, 0))'


def test_keys_of_root_are_out_of_reach(account):
    @in_a_child
    def keyrings():
        """Of this process, which has one that others may not see, and of a program."""
        assert CDLL(None).syscall(_caps.KEYCTL, 1, 0) > 0
        program = run_as(['/usr/bin/python3', '-c', KEYRING], account)
        return CDLL(None).syscall(_caps.KEYCTL, 0, -3, 0), int(program.output)

    ours, theirs = keyrings()
    assert theirs not in (-1, ours)


def test_error_of_the_start_is_an_oserror(account, tmp_path):
    with pytest.raises(FileNotFoundError, match='/no/such/program'):
        run_as(['/no/such/program'], account)
    with pytest.raises(PermissionError):
        run_as(['/etc/passwd'], account)
    (tmp_path / 'text').write_text('no program')
    (tmp_path / 'text').chmod(0o755)
    with pytest.raises(OSError, match='Exec format error'):
        run_as([str(tmp_path / 'text')], None)


def test_status_output_and_errors_are_told(account):
    finished = run_as(['/bin/sh', '-c', 'echo out; echo err >&2; exit 3'], account)
    assert finished == (3, b'out\n', b'err\n')
    finished = run_as(['/bin/sh', '-c', 'kill -SEGV $$; :'], None)
    assert finished.status in (0, -signal.SIGSEGV)  # the first process of a namespace is spared


def test_endless_output_is_ended(account):
    for stream in 1, 2:
        with pytest.raises(RunError, match='prints more than 100000 bytes'):
            run_as(['/bin/sh', '-c', f'exec yes >&{stream}'], account, limit=100_000)


@pytest.mark.parametrize('drop', ['', 'cap_sys_admin'], ids=['namespace', 'no namespace'])
@pytest.mark.parametrize(
    ('name', 'command'),
    [
        ('alone', 'exec {sleep}'),
        ('group', '{sleep} & wait'),
        ('session', 'setsid {sleep} & wait'),
        ('orphan', '(setsid sh -c "{sleep} & exec {sleep}" &) ; exec {sleep}'),
    ],
)
def test_nothing_stays_after_the_deadline_or_the_end(account, drop, name, command):
    seconds = 100_000 + os.getpid() % 10_000
    script = command.format(sleep=f'{SLEEP} {seconds}')

    @in_a_child
    def start():
        if drop:
            Caps.from_process().clear(drop).apply()
        with pytest.raises(RunError, match=r'has not ended within 0\.3 seconds'):
            run_as(['/bin/sh', '-c', script], account, seconds=0.3)
        # and where the program itself ends at once
        run_as(['/bin/sh', '-c', f'({script}) & sleep .1'], account)

    start()
    assert sleepers(seconds) == []


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_stays_when_this_process_is_ended(account, number):
    seconds = 200_000 + os.getpid() % 10_000
    child = os.fork()
    if not child:
        try:
            run_as(['/bin/sh', '-c', f'setsid {SLEEP} {seconds} & {SLEEP} {seconds}'], account)
        finally:
            os._exit(0)
    wait_for(lambda: len(sleepers(seconds)) == 2)
    os.kill(child, number)
    os.waitpid(child, 0)
    wait_for(lambda: not sleepers(seconds))  # the supervisor has to learn of it


def test_supervisor_that_is_killed_is_told_of():
    @in_a_child
    def start():
        Caps.from_process().clear('cap_sys_admin').apply()  # else the program does not see it
        with pytest.raises(RunError, match='the process that started it was killed'):
            run_as(['/bin/sh', '-c', 'kill -KILL $PPID'], None)

    start()
