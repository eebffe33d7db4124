"""What a run begins with, how it ends, and that nothing outlives it."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from caps import Caps, CapSet, _caps, raised
from caps.audit import Account, AuditError, Options, audit
from caps.audit import keeper as module
from caps.audit.auditing import needs, why_untraced
from caps.audit.commands import Program, Today
from caps.audit.keeper import Keeper
from caps.audit.setup import can_give
from caps.audit.tracing import TRACEFS
from support import PATIENCE, needs_root, older_kernel, program, python, run
from support.attacks import LIBC
from support.child import in_a_child
from support.children.inside import wait_for
from support.processes import sleeping

pytestmark = needs_root


@pytest.fixture
def room(scene, accounts):
    """A directory of the account's own."""
    os.chown(scene, accounts.owner.uid, accounts.owner.gid)
    return scene


def sh(command):
    return ['sh', '-c', command]


def status_of(run):
    lines = (line.split(':\t', 1) for line in run.said.splitlines())
    return {line[0]: line[1].strip() for line in lines if len(line) == 2}


def test_run_has_exactly_its_capabilities_in_all_five_sets(account):
    closed = Path('/etc/shadow')
    found = audit(sh(f'cat {closed} >/dev/null && cat /proc/self/status'), account)
    assert found.needs == CapSet('cap_dac_read_search')
    status = status_of(found.runs[-1])
    for name in 'CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb':
        assert CapSet.from_mask(int(status[name], 16)) == found.needs


def test_run_is_its_account_without_privilege_to_gain(account):
    status = status_of(audit(['cat', '/proc/self/status'], account).runs[0])
    assert status['Uid'].split() == [str(account.uid)] * 4
    assert status['Gid'].split() == [str(account.gid)] * 4
    assert status['Groups'] == ''
    assert status['NoNewPrivs'] == '1'


def test_run_as_root_has_only_what_it_is_given():
    found = audit(['cat', '/proc/self/status'], Account.of('root'))
    status = status_of(found.runs[0])
    assert status['Uid'].split() == ['0'] * 4
    assert int(status['CapPrm'], 16) == 0
    assert found.needs == CapSet()


def test_run_has_its_groups(accounts):
    user = accounts.owner
    account = Account(user.name, user.uid, user.gid, (4, 24))
    assert status_of(audit(['cat', '/proc/self/status'], account).runs[0])['Groups'] == '4 24'


def test_run_has_a_session_of_its_own_and_nothing_to_read(account):
    found = audit(sh('cat; ps -o sid= -p $$ | tr -d " "; echo $$'), account)
    session, process = found.runs[0].said.split()
    assert session == process


def test_run_has_the_environment_of_its_account(accounts):
    account = Account('someone', accounts.owner.uid, accounts.owner.gid, (), '/srv', '/bin/dash')
    said = audit(sh('echo $USER $LOGNAME $HOME $SHELL'), account).runs[0].said
    assert said.split() == ['someone', 'someone', '/srv', '/bin/dash']


def test_marks_and_set_user_id_bits_neither_add_nor_refuse(room, account):
    for name in 'marked', 'setuid':
        (room / name).write_bytes(Path('/bin/cat').read_bytes())
        (room / name).chmod(0o755)
    Caps('cap_sys_admin,cap_dac_read_search=ep').apply(room / 'marked')
    (room / 'setuid').chmod(0o4755)
    for name in 'marked', 'setuid':
        found = audit([str(room / name), '/etc/shadow'], account)
        assert found.needs == CapSet('cap_dac_read_search'), found.reason


def test_what_a_command_mounts_goes_away_with_it(scene):
    root = Account.of('root')
    found = audit(sh(f'mount -t tmpfs x {scene} && touch {scene}/it'), root)
    assert found.needs == CapSet('cap_sys_admin'), found.reason
    assert not list(scene.iterdir())
    assert str(scene) not in Path('/proc/self/mounts').read_text()


def test_what_a_command_leaves_in_the_background_is_ended(account, sleeper):
    found = audit(sh(f'setsid sleep {sleeper} & sleep {sleeper} & exit 0'), account)
    assert found.needs == CapSet()
    assert sleeping(sleeper) == []


def test_command_may_print_more_than_a_pipe_holds_and_reopen_it(account):
    found = audit(sh('head -c 1000000 /dev/zero; echo the end >/dev/stderr'), account)
    assert (found.needs, found.reason) == (CapSet(), '')
    assert found.runs[0].said.endswith('the end\n')


def test_status_of_a_signal_is_negative(account):
    found = audit(sh('kill -KILL $$'), account)
    assert found.needs is None
    assert found.runs[0].status == -signal.SIGKILL
    assert 'is killed by signal 9, and asked for nothing. It may look at' in found.reason


def test_descriptors_of_the_audit_are_closed(account):
    leaked = os.open('/etc/shadow', os.O_RDONLY)
    os.set_inheritable(leaked, True)
    try:
        assert audit(sh(f'test ! -e /proc/self/fd/{leaked}'), account).needs == CapSet()
    finally:
        os.close(leaked)


def test_before_puts_things_back_as_who_runs_the_audit(scene):
    node = scene / 'null'
    root = Account.of('root')
    command = ['mknod', str(node), 'c', '1', '3']
    assert audit(command, root).needs is None  # the second run finds what the first one made
    found = audit(command, root, Options(before=f'rm -f {node}'))
    assert found.needs == CapSet('cap_mknod'), found.reason


def test_before_that_fails_ends_the_audit(account):
    with pytest.raises(AuditError, match='the command before each run failed: exit 3'):
        audit(['true'], account, Options(before='exit 3'))


@pytest.mark.parametrize(
    ('command', 'options', 'needed'),
    [
        ('exec sleep 1000', Options(seconds=0.2), ''),
        ('sleep 1000 & exit 0', Options(seconds=0.2), ''),  # it goes to the background
        ('exec sleep 1000', Options(seconds=0.2, ready='true'), ''),
        ('exec sleep 1000', Options(seconds=0.2, ready='false'), None),
        ('exec sleep 1000', Options(seconds=0.2, ready='sleep 1000', deadline=0.2), None),
        ('exit 0', Options(seconds=PATIENCE), None),  # a daemon that ended
        ('cat /etc/shadow && exec sleep 1000', Options(seconds=2), 'cap_dac_read_search'),
    ],
)
def test_daemon_has_done_its_work_when_it_still_runs_and_is_ready(
    account, command, options, needed
):
    found = audit(sh(command), account, options)
    assert found.needs == (None if needed is None else CapSet(needed)), found.reason


@pytest.mark.parametrize(
    ('command', 'ready', 'reason'),
    [
        ('exit 0', None, 'it exits 0 but was to run for 0.2 s, and '),
        ('exec sleep 1000', 'false', 'it still runs but --ready failed, and '),
    ],
)
def test_daemon_that_did_not_do_its_work_says_what_it_did_not(account, command, ready, reason):
    found = audit(sh(command), account, Options(seconds=0.2, ready=ready))
    assert found.reason.startswith(reason)


def test_command_that_does_not_end_is_ended_and_says_how_to_audit_a_daemon(account, sleeper):
    with pytest.raises(AuditError, match=r'still runs after 0\.2 seconds: a daemon needs --for'):
        audit(['sleep', sleeper], account, Options(deadline=0.2))
    assert sleeping(sleeper) == []


def test_program_that_is_not_there_is_named(account):
    with pytest.raises(AuditError, match='there is no program no-such-program'):
        audit(['no-such-program'], account)


def test_program_that_the_account_cannot_execute_is_named(scene, account):
    program = scene / 'closed'
    program.write_text('#!/bin/sh\n')
    program.chmod(0o700)
    with pytest.raises(AuditError, match='closed cannot be executed: Permission denied'):
        audit([str(program)], account)


def test_program_that_cannot_be_read_is_observed_all_the_same(scene, account):
    program = scene / 'closed'
    program.write_bytes(Path('/bin/cat').read_bytes())
    program.chmod(0o711)
    found = audit([str(program), '/etc/shadow'], account)
    assert found.needs == CapSet('cap_dac_read_search')
    assert found.runs[0].failures()


def test_without_privilege_the_audit_says_what_is_missing(accounts, system_venv):
    code = 'from caps.audit import audit; audit(["true"])'
    result = run(system_venv / 'bin/python', '-c', code, account=accounts.owner, cwd='/')
    assert 'cap_setgid,cap_setuid,cap_setpcap is missing: an audit needs root' in result.stderr


@pytest.mark.needs('user_namespaces')
def test_account_that_a_user_namespace_does_not_have_is_said():
    code = 'from caps.audit import audit; audit(["true"])'
    result = run('unshare', '--user', '--map-root-user', sys.executable, '-c', code, cwd='/')
    assert 'this user namespace has no such account: name another with --as' in result.stderr


def test_without_proc_the_audit_says_so():
    code = 'from caps.audit import audit; audit(["true"])'
    words = 'mount -t tmpfs none /proc && exec "$@"'
    result = run('unshare', '--mount', 'sh', '-c', words, 'sh', sys.executable, '-c', code, cwd='/')
    assert '/proc is not mounted here, and an audit needs it' in result.stderr


def test_nothing_outlives_an_audit_that_is_killed(account, sleeper, scene):
    """It is killed while a command runs that has others in sessions of their own."""
    words = (
        f'sleep {sleeper} & setsid sleep {sleeper} & (setsid sleep {sleeper} &) ; sleep {sleeper}'
    )
    code = 'import sys; from caps.audit import *; audit(["sh", "-c", sys.argv[1]])'
    audit_process = subprocess.Popen([sys.executable, '-c', code, words], cwd='/')
    try:
        wait_for(lambda: len(sleeping(sleeper)) == 4)
        children = Path(f'/proc/{audit_process.pid}/task/{audit_process.pid}/children').read_text()
    finally:
        audit_process.kill()
        audit_process.wait()
    wait_for(lambda: not sleeping(sleeper))
    wait_for(lambda: not any(Path('/proc', pid).exists() for pid in children.split()))


def test_nothing_outlives_an_audit_that_is_interrupted(sleeper):
    code = 'import sys; from caps.audit import *; audit(["sleep", sys.argv[1]])'
    audit_process = subprocess.Popen(
        [sys.executable, '-c', code, sleeper], cwd='/', stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: len(sleeping(sleeper)) == 1)
    finally:
        audit_process.send_signal(signal.SIGINT)
        audit_process.wait(PATIENCE)
    assert sleeping(sleeper) == []


def test_run_ends_with_a_keeper_that_is_killed(account, sleeper):
    """Nobody is there to end it but the kernel; see PR_SET_PDEATHSIG."""
    code = 'import sys; from caps.audit import *; audit(["sleep", sys.argv[1]])'
    audit_process = subprocess.Popen(
        [sys.executable, '-c', code, sleeper], cwd='/', stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: len(sleeping(sleeper)) == 1)
    children = Path(f'/proc/{audit_process.pid}/task/{audit_process.pid}/children').read_text()
    (keeper,) = map(int, children.split())
    os.kill(keeper, signal.SIGKILL)
    _, errors = audit_process.communicate(timeout=PATIENCE)
    assert 'the process that starts the command was killed' in errors
    wait_for(lambda: not sleeping(sleeper))


def test_account_that_is_none_is_refused():
    with pytest.raises(LookupError, match='there is no user'):
        Account.of('no-such-account')


def test_usual_account_is_who_called_sudo_or_nobody(monkeypatch, accounts):
    monkeypatch.setenv('SUDO_UID', str(accounts.owner.uid))
    assert Account.usual().uid == accounts.owner.uid
    monkeypatch.setenv('SUDO_UID', '0')
    assert Account.usual().name == 'nobody'


# As root in most containers: neither traced, nor with mounts of its own.
CONTAINED = 'setpriv', '--bounding-set=-sys_admin,-perfmon'


def audited(start, *prefix):
    """What an audit finds out in a process that a command starts."""
    return json.loads(python(program('audits'), start, prefix=prefix, cwd='/'))


@pytest.mark.parametrize('start', ['none', 'all'])
def test_without_tracing_the_audit_proves_the_same_and_says_so(start):
    needed, count, method, failures = audited(start, *CONTAINED)
    assert needed == ['cap_dac_read_search']
    assert count < 20
    assert method.startswith('not traced: ')
    assert '(cap_perfmon is missing)' in method
    assert failures is None


def test_processes_are_told_apart_in_a_pid_namespace_too():
    needed, _, method, failures = audited('none', 'unshare', '--pid', '--fork', '--mount-proc')
    assert (needed, failures) == (['cap_dac_read_search'], [[['openat', 'EACCES'], 1]])
    assert method.startswith('traced by ')


def test_kernel_that_is_too_old_is_named():
    mount_setattr = 442
    done = run(*older_kernel(mount_setattr), sys.executable, '-m', 'caps', 'audit', '--', 'true')
    saying = 'an audit of a program needs Linux 5.12 or later, for mount_setattr(2)'
    assert (done.returncode, done.stdout, done.stderr) == (1, '', f'caps: {saying}\n')


@pytest.mark.parametrize(
    ('error', 'said'),
    [
        (
            PermissionError(errno.EPERM, 'no', f'{TRACEFS}/x'),
            f'{TRACEFS}/x: no (a seccomp filter, or',
        ),
        (
            OSError(errno.ENOSYS, 'perf_event_open(2): no'),
            'perf_event_open(2): no (a seccomp filter',
        ),
        (OSError(2, 'this kernel has no tracepoint x'), 'this kernel has no tracepoint x'),
    ],
    ids=['lockdown', 'seccomp', 'kernel'],
)
def test_what_keeps_an_audit_from_tracing_is_said_with_what_it_may_come_from(error, said):
    assert why_untraced(error).startswith(said)


def test_all_is_what_this_process_can_give():
    assert can_give() <= CapSet.all()


def read_shadow():
    Path('/etc/shadow').read_text()


def test_function_needs_what_it_does():
    assert needs(read_shadow) == {'cap_dac_read_search'}
    assert needs(lambda: None) == set()


def test_function_that_looks_at_its_own_capabilities_first_begins_with_all():
    def send():
        with raised('cap_kill'):
            os.kill(1, 0)

    with pytest.raises(AuditError, match='It may look at its own capabilities first'):
        needs(send)
    assert needs(send, from_all=True) == {'cap_kill'}


def test_function_that_fails_whatever_it_has_says_how():
    def fail():
        raise RuntimeError('no way')

    with pytest.raises(AuditError, match=r'(?s)fail: it exits 1, and .*no way'):
        needs(fail)


def test_function_changes_nothing_in_this_process():
    before = os.getresuid(), os.getgroups(), str(Caps.from_process()), os.getcwd()
    value = []
    needs(lambda: value.append(os.chdir('/')))
    assert (os.getresuid(), os.getgroups(), str(Caps.from_process()), os.getcwd()) == before
    assert value == []


COMMANDS = {'program': Program, 'once': Today}


@pytest.mark.parametrize('command', COMMANDS.values(), ids=COMMANDS)
def test_account_cannot_reach_a_process_before_it_is_the_command(account, accounts, command):
    """Until then it has the memory of the audit, and descriptors of root's."""
    with Keeper(command(['true'], account)) as keeper:
        process = keeper.start(CapSet())
        for words in ('ls', f'/proc/{process}/fd'), ('cat', f'/proc/{process}/environ'):
            done = run(*words, account=accounts.owner)
            assert (done.stdout, 'Permission denied' in done.stderr) == ('', True), done


def test_account_that_stops_a_process_does_not_keep_the_audit_waiting(account, monkeypatch):
    monkeypatch.setattr(module, 'BEGINNING', 2, raising=False)
    with Keeper(Program(['true'], account)) as keeper:
        process = keeper.start(CapSet())
        os.kill(process, signal.SIGSTOP)
        with pytest.raises(AuditError, match='has not begun'):
            keeper.go()
        assert not os.path.exists(f'/proc/{process}')


def test_process_that_the_account_stops_ends_with_the_audit(account):
    keeper = Keeper(Program(['true'], account))
    process = keeper.start(CapSet())
    os.kill(process, signal.SIGSTOP)
    audit = os.fork()
    if not audit:
        keeper.go()
    time.sleep(0.2)
    os.kill(audit, signal.SIGKILL)
    os.waitpid(audit, 0)
    keeper.close()
    assert not os.path.exists(f'/proc/{process}')


def test_keys_of_root_are_out_of_reach(account):
    keyring = f'import ctypes; print(ctypes.CDLL(None).syscall({_caps.KEYCTL}, 0, -3, 0))'

    @in_a_child
    def keyrings():
        """Of this process, which has one that others may not see, and of each run."""
        assert LIBC.syscall(_caps.KEYCTL, 1, 0) > 0
        runs = audit(['/usr/bin/python3', '-c', keyring], account).runs
        return LIBC.syscall(_caps.KEYCTL, 0, -3, 0), {int(run.said) for run in runs}

    ours, theirs = keyrings()
    assert ours not in theirs
