"""Marked scripts under the real ppy: what they need, and that their own mark stays as it was."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from caps import Caps, CapSet
from caps.audit import AuditError, Options, audit
from caps.audit.setup import give_mark, own_mounts
from support import PATIENCE, needs_root, program
from support.attacks import LIBC
from support.children.inside import wait_for
from support.processes import sleeping

pytestmark = needs_root

ACTIVATE = 'from caps import Caps\nCaps.from_process().activate().apply()\n'
READ = "open('/etc/shadow').close()\n"
MARKS = None, '=', 'cap_net_raw=i', 'cap_dac_read_search=i', 'cap_dac_read_search=ep'


def mark_of(path):
    caps = Caps.from_file(path)
    return str(caps) if caps.marked else None


@pytest.mark.parametrize('mark', MARKS, ids=str)
def test_script_is_run_with_what_it_needs_whatever_its_own_mark_is(ppy, script, mark):
    path = script(ACTIVATE + READ, mark)
    before = mark_of(path), path.stat().st_ino, path.stat().st_ctime_ns
    found = audit([str(path)], None, Options(ppy=str(ppy.path)))
    assert found.needs == CapSet('cap_dac_read_search'), found.reason
    assert (mark_of(path), path.stat().st_ino, path.stat().st_ctime_ns) == before
    assert found.runs[0].caps == CapSet()


def test_script_that_needs_nothing_needs_nothing(ppy, script):
    assert audit([str(script(''))], None, Options(ppy=str(ppy.path))).needs == CapSet()


def test_script_that_does_not_activate_is_told_to(ppy, script):
    found = audit([str(script(READ))], None, Options(ppy=str(ppy.path)))
    assert found.needs is None
    assert 'cap_dac_read_search was refused although it was permitted' in found.reason


RAISE = """
import os
from caps import raised
with raised('cap_kill'):
    os.kill(1, 0)
"""


def test_script_that_looks_first_at_what_it_is_permitted_begins_with_all(ppy, script):
    path = str(script(RAISE))
    found = audit([path], None, Options(ppy=str(ppy.path)))
    assert found.needs is None
    assert '--from all finds out' in found.reason
    found = audit([path], None, Options(ppy=str(ppy.path), from_all=True))
    assert found.needs == CapSet('cap_kill'), found.reason


def test_script_gets_its_arguments_and_has_its_path(ppy, script):
    path = script("import sys; assert sys.argv == [__file__, 'x'], sys.argv; print(__file__)")
    found = audit([str(path), 'x'], None, Options(ppy=str(ppy.path)))
    assert found.needs == CapSet(), found.runs[0].said
    assert found.runs[0].said == f'{path}\n'


def test_script_that_ppy_refuses_gets_its_words(ppy, script):
    found = audit([str(script('', mode=0o777))], None, Options(ppy=str(ppy.path)))
    assert found.needs is None
    assert found.runs[-1].status == 126
    assert 'ppy: ' in found.runs[-1].said


def test_script_that_is_not_there_is_named(ppy, scene):
    with pytest.raises(AuditError, match=f'there is no script {scene}/none'):
        audit([f'{scene}/none'], None, Options(ppy=str(ppy.path)))


ENDINGS = {'killed': signal.SIGKILL, 'interrupted': signal.SIGINT, 'ended': signal.SIGTERM}


@pytest.mark.parametrize('ending', ENDINGS.values(), ids=ENDINGS)
def test_mark_is_what_it_was_however_the_audit_ends(ppy, script, sleeper, ending):
    text = f"import subprocess; subprocess.run(['sleep', '{sleeper}'])"
    path = script(text, 'cap_net_raw=i')
    code = (
        'import sys; from caps.audit import *; audit([sys.argv[1]], None, Options(ppy=sys.argv[2]))'
    )
    command = [sys.executable, '-c', code, str(path), str(ppy.path)]
    running = subprocess.Popen(command, cwd='/', stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: sleeping(sleeper))
        assert mark_of(path) == 'cap_net_raw=i'  # also meanwhile
        running.send_signal(ending)
        running.wait(PATIENCE)
    finally:
        running.kill()
        running.wait()
    wait_for(lambda: not sleeping(sleeper))
    assert mark_of(path) == 'cap_net_raw=i'
    assert [entry.name for entry in Path(path).parent.iterdir()] == [path.name]
    assert str(path.parent) not in Path('/proc/self/mounts').read_text()


def by_name(script, caps):
    """The naive way to give a mark, which names everything anew."""
    place = os.fsencode(os.path.dirname(os.path.realpath(script)))
    info, content = os.stat(script), Path(script).read_bytes()
    assert LIBC.mount(b'tmpfs', place, b'tmpfs', 0, None) == 0
    copy = os.path.join(place, b'script')
    Path(os.fsdecode(copy)).write_bytes(content)
    os.chown(copy, info.st_uid, info.st_gid)


@pytest.mark.parametrize('give', [by_name, give_mark])
def test_owner_of_a_script_has_no_other_file_written(give, den, scene, accounts, script):
    (den / 'room').mkdir()
    (den / 'trap').mkdir()
    victim = scene / 'victim'
    (den / 'trap' / 'script').symlink_to(victim)
    for path in den / 'room', den / 'room' / 'script.py', den / 'trap' / 'script.py':
        if path.name == 'script.py':
            path.write_text('print()')
        os.chown(path, accounts.attacker.uid, accounts.attacker.gid)
    attacker = accounts.attacker
    exchanging = subprocess.Popen(
        ['/usr/bin/python3', '-c', program('exchange_room'), den],
        user=attacker.uid, group=attacker.gid, extra_groups=[],
    )  # fmt: skip
    try:
        for _ in range(300):
            if os.path.lexists(victim) or exchanging.poll() is not None:
                break
            child = os.fork()
            if not child:
                with suppress(BaseException):
                    own_mounts(nosuid=False)
                    give(f'{den}/room/script.py', CapSet('cap_kill'))
                os._exit(0)
            os.waitpid(child, 0)
    finally:
        exchanging.kill()
        exchanging.wait()
    assert victim.exists() is (give is by_name)
