"""Other processes that reach for the one of a script."""

import subprocess

import pytest

from support import needs_root, program, run
from support.attacks import PYTHON, assert_only_naive_loses
from support.launchers import MODES

pytestmark = needs_root


def reached(launcher, path, account):
    """What an account can do to a script that it has launched."""
    options = {'user': account.uid, 'group': account.gid, 'extra_groups': []}
    pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE}
    with subprocess.Popen([launcher.path, path], **pipes, **options) as process:
        try:
            assert process.stdout.readline() == b'ready\n'
            return set(
                run(PYTHON, '-c', program('reach'), process.pid, account=account).stdout.split()
            )
        finally:
            process.kill()


EVERYTHING = {'attach', 'memory', 'environment', 'descriptors', 'map', 'kill', 'limit'}
WAIT = 'echo ready; read -r line'


def test_attempts_to_reach_a_process_succeed_with_ones_own(launchers, script, accounts):
    path = script(WAIT, '=', owner=accounts.attacker)
    assert reached(launchers('bash'), path, accounts.attacker) == EVERYTHING


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize(
    ('who', 'mark', 'could'),
    [
        ('attacker', '=', set()),
        ('attacker', 'cap_kill=i', set()),
        ('owner', '=', EVERYTHING),
        ('owner', 'cap_kill=i', {'kill', 'limit'}),
    ],
)
def test_script_is_open_only_to_whom_it_gives_nothing(
    launch_under, script, accounts, mode, who, mark, could
):
    account = getattr(accounts, who)
    assert reached(launch_under(mode, 'bash'), script(WAIT, mark), account) == could


def test_child_left_behind_makes_children_of_the_script_that_only_a_wait_for_any_sees(
    launchers, script, accounts
):
    code = 'import os, subprocess\nprint(os.wait()[1], subprocess.call(["false"]))'
    leave = [PYTHON, '-c', program('left_behind'), launchers('python').path]
    done = run(*leave, script(code, 'cap_kill=i'), account=accounts.attacker)
    assert done.stdout == '0 1\n'  # no launcher can prevent it, which SECURITY.md says


def test_launcher_does_not_run_a_script_under_a_debugger(launchers, script, accounts):
    path = script('echo ran', 'cap_kill=i')
    done = run(
        PYTHON, '-c', program('trace'), launchers('sh').path, path, account=accounts.attacker
    )
    assert_only_naive_loses(launchers('sh'), 'ran' in done.stdout, done)
    assert launchers('sh').naive or 'must not be kept from ppy by a debugger' in done.stderr
