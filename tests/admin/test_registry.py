"""What caps has made is recorded, by every way it is made and wherever the command is killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from caps import Caps
from caps.admin import registry as room
from caps.admin.mark import mark as mark_script
from caps.admin.mark import unmark as unmark_script
from caps.admin.ppy import InstallError, install, installation_at, remove
from caps.admin.registry import FILE, Ppy, RegistryError, Script, Venv, forget, read, record
from caps.admin.venv import environment_at, mark, unmark
from caps.cli import main
from support import CHILDREN, PATIENCE, SOAK, needs, needs_root, run
from support.venvs import make_venv

pytestmark = needs_root
SH = '/bin/sh'
RAW = Caps('cap_net_raw=ep')
ONE = Venv('/srv/one', 'cap_kill=ep', 'a group')
OTHERS = [Script('/srv/\udcff "x"'), Ppy('/usr/local', '#ppy')]


@pytest.fixture
def place(registry, scene, monkeypatch):
    """A registry of the test's own, for this process."""
    monkeypatch.setattr(room, 'PLACE', f'{scene}/registry')
    return scene / 'registry'


def of(path):
    """What is recorded below a directory."""
    return [entry for entry in read() if entry.path.startswith(f'{path}')]


def test_everything_is_recorded_until_it_is_gone(scene, accounts):
    install(SH, scene)
    make_venv('/usr/bin/python3', scene / 'venv')
    mark(scene / 'venv', RAW, accounts.owner.name)
    script = scene / 'x.sh'
    script.write_text('')
    mark_script(script, Caps('cap_kill=i'), accounts.owner.name, prefix=scene)
    assert of(scene) == [
        Ppy(str(scene), 'ppy'),
        Venv(str(scene / 'venv'), 'cap_net_raw=ep', accounts.owner.name),
        Script(str(script)),
    ]
    unmark_script(script)
    unmark(scene / 'venv')
    remove(scene)
    assert of(scene) == []


def test_what_is_gone_without_us_is_forgotten_by_the_command_that_takes_it_away(scene):
    for entry in Ppy(f'{scene}', 'ppy'), Venv(f'{scene}/venv', 'x'), Script(f'{scene}/x.sh'):
        record(entry)
        command = entry.forgetting[1:]
        assert main(command) == 0
        assert of(scene) == []
        assert main(command) == 1


def test_environment_that_was_made_anew_is_forgotten_by_unmark(scene):
    venv = make_venv('/usr/bin/python3', scene / 'venv')
    mark(venv, RAW)
    make_venv('/usr/bin/python3', venv, '--clear')
    assert of(venv) != []
    unmark(venv)
    assert of(venv) == []


def test_failed_command_leaves_the_record_as_it_was(scene, monkeypatch):
    venv = make_venv('/usr/bin/python3', scene / 'venv')

    def fail(*_):
        raise OSError(5, 'Input/output error')

    for before in [], [Venv(str(venv), 'cap_net_raw=ep')]:
        with monkeypatch.context() as patch:
            patch.setattr('caps.admin.venv._replace', fail)
            with pytest.raises(OSError, match='Input/output'):
                mark(venv, Caps('cap_kill=ep'))
        assert of(venv) == before
        mark(venv, RAW)
    with monkeypatch.context() as patch:
        patch.setattr('caps.admin.ppy.put', fail)
        with pytest.raises(OSError, match='Input/output'):
            install(SH, scene / 'prefix')
    assert of(scene / 'prefix') == []


def test_what_was_made_before_there_was_a_registry_is_told_and_recorded_by_the_next_command(scene):
    install(SH, scene)
    make_venv('/usr/bin/python3', scene / 'venv')
    mark(scene / 'venv', RAW)
    for entry in of(scene):
        forget(entry)
    text = 'is not recorded, so caps refresh does not renew it: caps '
    for problems in installation_at(scene).problems, environment_at(scene / 'venv').problems:
        assert [text in problem for problem in problems] == [True]
    assert install(prefix=scene).problems == mark(scene / 'venv', RAW).problems == []
    assert len(of(scene)) == 2


def killed(point, *arguments):
    done = run(sys.executable, CHILDREN / 'killed.py', point, 'SIGKILL', *arguments)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode == 0


STEPS = range(1, 10_000, 1 if SOAK > 1 else 11)


def test_killed_commands_leave_nothing_that_is_not_recorded(scene):
    """Those of a script; those of ppy and of environments are killed in their own tests."""
    install(SH, scene)
    script = scene / 'x.sh'
    words = ['--owner', 'nobody', '--group', 'nogroup', '--prefix', scene]
    for arguments in ['mark', script, 'kill', *words], ['unmark', script]:
        for point in STEPS:
            script.unlink(missing_ok=True)
            script.write_text('')
            forget(Script(str(script)))
            if arguments[0] == 'unmark':
                mark_script(script, Caps('cap_kill=i'), 'nobody', 'nogroup', prefix=scene)
            is_over = killed(point, 'ppy', *arguments)
            if Caps.from_file(script).marked:
                assert Script(str(script)) in read()
            if is_over:
                break


@needs('cap_sys_admin')
def test_killed_writer_leaves_a_whole_file_and_the_next_one_sweeps(registry, scene):
    """At every step: what was is listed, or what is to be."""
    install(SH, scene)
    before = read()
    entry = Venv(f'{scene}/venv', 'cap_kill=ep')
    outcomes = set()
    for point in range(1, 10_000, 1 if SOAK > 1 else 5):
        record(entry)
        is_over = killed(point, 'venv', 'unmark', entry.path)
        outcomes.add(entry in read())
        assert [other for other in read() if other != entry] == before
        record(Script(f'{scene}/x.sh'))
        assert os.listdir(registry) == ['registry']
        forget(Script(f'{scene}/x.sh'))
        if is_over:
            break
    assert outcomes == {True, False}


def test_commands_at_once_lose_no_record(place):
    code = (
        'import sys; from caps.admin import registry; registry.PLACE = sys.argv[1]\n'
        'for number in range(20):\n'
        '    registry.record(registry.Script(f"/{sys.argv[2]}/{number}"))\n'
        '    if number % 2: registry.forget(registry.Script(f"/{sys.argv[2]}/{number}"))\n'
    )
    each = [subprocess.Popen([sys.executable, '-c', code, place, str(n)]) for n in range(4)]
    assert [child.wait(PATIENCE) for child in each] == [0] * 4
    assert len(read()) == 40
    for entry in read():
        forget(entry)
    assert not place.exists()


def test_it_is_roots_alone_and_gone_with_the_last_record(place):
    os.umask(before := os.umask(0))
    os.umask(0)
    try:
        record(ONE)
    finally:
        os.umask(before)
    assert place.stat().st_mode & 0o7777 == 0o700
    assert (place / 'registry').stat().st_mode & 0o7777 == 0o600
    assert forget(ONE) == ONE
    assert not place.exists()
    assert forget(ONE) is None
    assert not place.exists()


def test_names_of_any_bytes_survive(place):
    for entry in ONE, *OTHERS:
        assert record(entry) is None
    assert read() == [ONE, *OTHERS]
    assert record(Venv('/srv/one', 'cap_chown=ep')) == ONE
    assert forget(ONE) == Venv('/srv/one', 'cap_chown=ep')


def link(place, other):
    place.rename(other)
    place.symlink_to(other)


def file_link(place, other):
    (place / 'registry').rename(other)
    (place / 'registry').symlink_to(other)


UNSAFE = {
    'group can look': lambda place, _: place.chmod(0o750),
    "another's directory": lambda place, _: os.chown(place, 12345, 0),
    'link': link,
    'file': lambda place, other: (place.rename(other), place.write_text('')),
    'place above': lambda place, _: place.parent.chmod(0o777),
    'owner above': lambda place, _: os.chown(place.parent, 12345, 0),
    "another's file": lambda place, _: os.chown(place / FILE, 12345, 0),
    'file that others write': lambda place, _: (place / FILE).chmod(0o622),
    'link to a file': file_link,
    'FIFO': lambda place, other: ((place / FILE).rename(other), os.mkfifo(place / FILE)),
    'hard link': lambda place, other: os.link(place / FILE, other),
    'directory': lambda place, _: ((place / FILE).unlink(), (place / FILE).mkdir()),
    'rubbish': lambda place, _: (place / FILE).write_bytes(bytes(range(256)) * 9),
    'half a line': lambda place, _: (place / FILE).write_text('venv "/sr'),
    'no UTF-8': lambda place, _: (place / FILE).write_bytes(b'script /\xff\n'),
    'zero byte': lambda place, _: (place / FILE).write_text('script "/a\\x00b"\n'),
    'no path': lambda place, _: (place / FILE).write_text('script ../x\n'),
    'dots': lambda place, _: (place / FILE).write_text('venv /srv/../etc =ep\n'),
    'name': lambda place, _: (place / FILE).write_text('ppy /usr ../x\n'),
    'other kind': lambda place, _: (place / FILE).write_text('sudo /usr x\n'),
    'too long': lambda place, _: os.truncate(place / FILE, room.SIZE + 1),
}


@pytest.mark.parametrize('kind', UNSAFE)
def test_what_others_could_have_written_or_nobody_understands_is_a_sentence(
    place, scene, kind, capsys
):
    record(ONE)
    info = scene.stat()
    UNSAFE[kind](place, scene / 'other')
    try:
        for deed in read, lambda: record(ONE), lambda: record(OTHERS[0]), lambda: forget(ONE):
            with pytest.raises(RegistryError, match=r'^(/|users other than root)'):
                deed()
        # What it is asked to install is there all the same, and it says what is missing.
        installation = install(SH, scene / 'prefix') if 'above' not in kind else None
        if installation:
            assert all('caps refresh' in problem for problem in installation.problems)
            assert installation.problems
            with pytest.raises(RegistryError):
                remove(scene / 'prefix')
            assert not os.path.exists(installation.ppy)
    finally:
        os.chown(scene, info.st_uid, info.st_gid)
        scene.chmod(info.st_mode & 0o7777)


def test_account_that_is_not_root_learns_nothing(place, accounts):
    record(ONE)
    done = run('ls', place, account=accounts.owner)
    assert 'Permission denied' in done.stderr


@needs('cap_sys_admin')
@pytest.mark.parametrize('options', ['size=4k,nr_inodes=3', 'ro'], ids=['full', 'read-only'])
def test_no_room_for_the_record_is_told_and_nothing_is_lost(place, scene, options):
    place.mkdir(0o700)
    run('mount', '-t', 'tmpfs', '-o', 'mode=700,size=4k,nr_inodes=4', 'tmpfs', place, check=True)
    try:
        record(ONE)
        if options == 'ro':
            run('mount', '-o', 'remount,ro', place, check=True)
        else:
            (place / 'filling').write_bytes(b'')
        assert record(ONE) == ONE
        with pytest.raises(OSError, match=r'No space|Read-only'):
            record(OTHERS[0])
        problems = install(SH, scene / 'prefix').problems
        assert any('No space' in text or 'Read-only' in text for text in problems)
        assert read() == [ONE]
        assert {*os.listdir(place)} <= {'registry', 'filling'}
    finally:
        run('umount', place, check=True)
    with pytest.raises(InstallError):
        remove(Path('/srv'), 'no-such-ppy')
