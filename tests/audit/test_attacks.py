"""What a command, its account and other users can do to an audit, and to whom it runs as."""

import os
import pwd
import subprocess
import sys
from contextlib import suppress

import pytest

from caps import CapSet
from caps.audit import AuditError, Options, audit, needs, perf
from caps.audit.commands import Program
from caps.audit.keeper import Keeper
from support import needs_root
from support.children.inside import wait_for
from support.processes import sleeping

pytestmark = needs_root


def test_function_cannot_read_what_the_whole_machine_is_asked_for():
    """It would by the events of the tracer, which are not of one process."""

    def look():
        names = []
        for fd in os.listdir('/proc/self/fd'):
            with suppress(FileNotFoundError):  # the one that lists them
                names.append(os.readlink(f'/proc/self/fd/{fd}'))
        assert not [name for name in names if 'perf' in name], names

    assert needs(look) == CapSet()


def reach_into(processes, answers):
    """As nobody, try to open the memory of each process that is told; say whether that worked."""
    nobody = pwd.getpwnam('nobody')
    os.setgroups([])
    os.setresgid(*[nobody.pw_gid] * 3)
    os.setresuid(*[nobody.pw_uid] * 3)
    while process := os.read(processes, 16).strip():
        try:
            os.close(os.open(f'/proc/{process.decode()}/mem', os.O_RDONLY))
            os.write(answers, b'!')
        except PermissionError:
            os.write(answers, b'.')
    os._exit(0)


def test_other_processes_cannot_reach_into_a_function():
    """It has the memory and the files of root's process, and must be open to its own account."""
    processes, told = os.pipe()
    said, answers = os.pipe()
    attacker = os.fork()
    if not attacker:
        os.close(told)
        reach_into(processes, answers)

    def be_looked_at():
        os.write(told, f'{os.getpid():16}'.encode())
        assert os.read(said, 1) == b'.'
        assert os.listdir('/proc/self/fd')

    try:
        assert needs(be_looked_at) == CapSet()
    finally:
        for fd in processes, told, said, answers:
            os.close(fd)
        os.waitpid(attacker, 0)


def test_records_that_others_make_do_not_fill_the_memory(account, monkeypatch):
    """Every refusal on the machine is one, and a run can last for minutes."""
    monkeypatch.setattr(perf, 'KEPT', 1000, raising=False)
    found = audit(['sh', '-c', 'cat /etc/shadow; cat /etc/shadow; sleep 0.1'], account)
    assert 'events were lost, and 3 runs did not help' in found.reason


HELPERS = {
    'before': 'from caps.audit import *; import sys; '
    'audit(["true"], None, Options(before=sys.argv[1]))',
    'ready': 'from caps.audit import *; import sys; '
    'audit(["sleep", "1000"], None, Options(seconds=0.1, ready=sys.argv[1]))',
}


@pytest.mark.parametrize('code', HELPERS.values(), ids=HELPERS)
def test_command_around_a_run_ends_with_an_audit_that_is_killed(sleeper, code):
    words = f'setsid sleep {sleeper} & sleep {sleeper}; true'
    running = subprocess.Popen([sys.executable, '-c', code, words], cwd='/')
    try:
        wait_for(lambda: len(sleeping(sleeper)) == 2)
    finally:
        running.kill()
        running.wait()
    wait_for(lambda: not sleeping(sleeper))


@pytest.mark.parametrize('words', ['sleep {}; true', 'setsid sleep {} & exit 1'])
def test_command_before_a_run_leaves_nothing(account, sleeper, words):
    options = Options(before=words.format(sleeper), deadline=0.3)
    with pytest.raises(AuditError, match='the command before each run failed'):
        audit(['true'], account, options)
    assert sleeping(sleeper) == []


def test_command_before_a_run_may_start_what_the_run_needs(account, sleeper):
    options = Options(before=f'sleep {sleeper} &')
    found = audit(['pgrep', '-f', f'^sleep {sleeper}'], account, options)
    assert found.needs == CapSet(), found.reason
    assert sleeping(sleeper) == []


def test_program_with_any_name_that_cannot_be_executed_is_named(scene, account):
    program = os.fsdecode(os.fsencode(scene) + b'/\xff')
    with open(program, 'w') as file:
        os.chmod(file.fileno(), 0o755)
        file.write('\0')
    with pytest.raises(AuditError, match='cannot be executed: Exec format error'):
        audit([program], account)


def test_account_cannot_signal_the_keeper(account):
    """Its processes have no parent but it, and it is not theirs."""
    command = ['sh', '-c', 'kill -STOP $PPID; kill -KILL $PPID']
    with Keeper(Program(command, account)) as keeper:
        keeper.start(CapSet())
        keeper.go()
        assert keeper.end() == (1, False)
        assert keeper.stop()[1].count('not permitted') == 2


CHAIN = """
import os
import pwd
while True:
    if os.fork():
        os._exit(0)
"""


def test_processes_that_end_as_soon_as_they_have_a_child_are_ended(account):
    command = ['/usr/bin/python3', '-c', CHAIN]
    with Keeper(Program(command, account)) as keeper:
        keeper.start(CapSet())
        keeper.go()
        assert keeper.end() == (0, True)
        assert keeper.stop()[0] is True
        assert keeper.start(CapSet()) > 0
