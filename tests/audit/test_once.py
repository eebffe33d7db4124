"""One run in today's state: each refusal, and what would help."""

import os
from pathlib import Path

from caps import Caps
from caps.audit import once
from support import needs_root, run
from support.processes import sleeping

pytestmark = needs_root


def helps(observation):
    """What would help, by system call and capability."""
    return {
        (refusal.call.name, refusal.capability): refusal.help for refusal in observation.refusals
    }


def test_what_is_not_permitted_is_to_be_marked(account):
    seen = once(['cat', '/etc/shadow'], account)
    assert seen.status == 1
    assert helps(seen)['openat', 'cap_dac_read_search'] == 'mark'
    (refusal,) = [it for it in seen.refusals if it.capability == 'cap_dac_read_search']
    assert (refusal.call.error, refusal.times) == ('EACCES', 1)
    assert refusal.call.site == 'generic_permission'


def test_what_is_permitted_and_not_effective_is_to_be_activated(scene, account):
    """The mark of a program says so, without the flag."""
    program = scene / 'cat'
    program.write_bytes(Path('/bin/cat').read_bytes())
    program.chmod(0o755)
    Caps('cap_dac_read_search=p').apply(program)
    seen = once([str(program), '/etc/shadow'], account)
    assert helps(seen)['openat', 'cap_dac_read_search'] == 'activate'


def test_script_under_ppy_that_forgot_to_activate_is_told_so(ppy, script, account):
    path = script("open('/etc/shadow')", 'cap_dac_read_search=i')
    seen = once([str(ppy.path), str(path)], account)
    assert helps(seen)['openat', 'cap_dac_read_search'] == 'activate'
    path = script("open('/etc/shadow')", 'cap_net_raw=i', name='other.py')
    seen = once([str(ppy.path), str(path)], account)
    assert helps(seen)['openat', 'cap_dac_read_search'] == 'mark'


def test_failure_that_nothing_asked_about_would_not_be_helped(account):
    seen = once(['sh', '-c', 'echo 1 >/proc/sys/kernel/panic'], account)
    assert helps(seen)['openat', None] == 'nothing'


def test_by_default_it_runs_as_who_runs_this_with_all_of_it():
    seen = once(['cat', '/etc/shadow'])
    assert (seen.status, seen.account) == (0, 'root')


def test_set_user_id_program_has_its_privilege(scene, account):
    program = scene / 'cat'
    program.write_bytes(Path('/bin/cat').read_bytes())
    program.chmod(0o4755)
    assert once([str(program), '/etc/shadow'], account).status == 0


def test_process_that_its_parent_has_waited_for_is_unknown(account):
    seen = once(['sh', '-c', 'cat /etc/shadow; true'], account)
    assert helps(seen)['openat', 'cap_dac_read_search'] == 'unknown'


def test_where_nothing_can_be_traced_it_says_why(system_venv, accounts):
    code = 'from caps.audit import once; once(["true"])'
    result = run(system_venv / 'bin/python', '-c', code, account=accounts.owner, cwd='/')
    assert 'nothing can be traced, and one run alone proves nothing: ' in result.stderr


def test_command_that_does_not_end_is_ended(account, sleeper):
    seen = once(['sh', '-c', f'cat /etc/shadow; exec sleep {sleeper}'], account, 1)
    assert seen.status is None
    assert ('openat', 'cap_dac_read_search') in helps(seen)
    assert sleeping(sleeper) == []


def test_nothing_is_changed(account):
    before = os.getresuid(), str(Caps.from_process())
    once(['true'], account)
    assert (os.getresuid(), str(Caps.from_process())) == before
