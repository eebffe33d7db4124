"""caps refresh and status: copies follow an upgrade, and nothing gets privilege by that."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from caps import Caps
from caps.admin import hooks, manifest_files
from caps.admin import refresh as room
from caps.admin.mark import mark as mark_script
from caps.admin.ppy import install, installation_at
from caps.admin.refresh import refresh, status
from caps.admin.registry import Venv, read, record, recorded
from caps.admin.transaction import AdminError
from caps.admin.venv import environment_at, mark, unmark
from caps.cli import main
from support import CHILDREN, PATIENCE, SOAK, needs, needs_root, require, run

pytestmark = [needs_root, needs('cap_sys_admin')]  # for a registry that no other test writes to
RAW = Caps('cap_net_raw=ep')
DPKG = '/usr/bin/dpkg-query'
PACKAGE = """\
Package: {}
Status: install {}
Version: 1
Architecture: all
Maintainer: nobody
Description: none

"""
PYTHON = os.path.realpath('/usr/bin/python3')


@pytest.fixture(scope='module', autouse=True)
def packages(world):
    """A dpkg that knows of one package, which is installed, whatever the machine's own is about."""
    if not os.path.exists(DPKG):
        yield
        return
    own = world / 'dpkg'
    (own / 'updates').mkdir(parents=True)
    (own / 'info').mkdir()
    (own / 'status').write_text(PACKAGE.format('good', 'ok installed'))
    run('mount', '--bind', own, '/var/lib/dpkg', check=True)
    yield
    run('umount', '/var/lib/dpkg', check=True)


@pytest.fixture(autouse=True)
def own(registry):
    """What other tests have recorded is not here."""
    file = registry / 'registry'
    before = file.read_bytes() if file.exists() else b''
    file.unlink(missing_ok=True)
    yield
    registry.mkdir(0o700, exist_ok=True)
    file.write_bytes(before)
    file.chmod(0o600)


def change(program):
    """What an upgrade does: another file in its place, with the same name."""
    new = program.with_name('new')
    shutil.copy2(program, new)
    with open(new, 'ab') as file:
        file.write(b'changed')
    new.replace(program)


@pytest.fixture
def made(scene, accounts):
    """A ppy and a marked environment, of programs that the test can change, and a marked script."""
    sh, python = scene / 'sh', scene / 'python3'
    shutil.copy(os.path.realpath('/bin/sh'), sh)
    shutil.copy(PYTHON, python)
    venv = scene / 'venv'
    run(PYTHON, '-m', 'venv', '--without-pip', venv, check=True)
    for path in (venv / 'bin').glob('python*'):
        path.unlink()
    (venv / 'bin/python3').symlink_to(python)
    (venv / 'bin/python').symlink_to('python3')
    group = accounts.owner.name
    install(sh, scene, setuid=True, group=group, allow='cap_kill,cap_chown', allow_root=True)
    mark(venv, RAW, group)
    script = scene / 'script'
    script.write_text('exit 0\n')
    mark_script(script, Caps('cap_kill=i'), group, prefix=scene)

    def works():
        """Whether both work as they did: what is launched, and what the python gets."""
        launched = run(scene / 'bin/ppy', script, account=accounts.owner).returncode == 0
        code = 'print(open("/proc/self/status").read())'
        done = run(venv / 'bin/python', '-c', code, account=accounts.owner)
        return launched, 'CapEff:\t0000000000002000' in done.stdout

    def change_both():
        change(sh)
        change(python)

    return SimpleNamespace(
        sh=sh, python=python, venv=venv, script=script, works=works, change=change_both
    )


def states(each):
    return [(made.kind, made.state) for made in each]


def copies(scene):
    """Every copy as it is: which file, its mode, group and capabilities."""
    found = {}
    for path in *scene.glob('libexec/*/*'), *scene.glob('bin/*'), *scene.glob('venv/bin/*'):
        if path.is_file() and not path.is_symlink():
            info = path.stat()
            caps = Caps.from_file(path)
            found[path] = info.st_ino, info.st_mode, info.st_gid, str(caps), caps.root_id
    return found


def test_copies_of_changed_programs_are_renewed_with_their_options(scene, made, capsys):
    before = installation_at(scene)
    assert main(['refresh']) == 0
    assert capsys.readouterr().out == ''
    assert installation_at(scene) == before
    made.change()
    assert states(status()) == [('ppy', 'stale'), ('venv', 'stale'), ('script', 'current')]
    assert main(['status']) == 1
    capsys.readouterr()
    assert main(['refresh']) == 0
    assert capsys.readouterr() == (f'renewed {scene}/bin/ppy\nrenewed {made.venv}\n', '')
    after = installation_at(scene)
    assert after.problems == environment_at(made.venv).problems == []
    assert after.capped != before.capped
    before.capped = after.capped
    assert after == before
    assert Path(after.capped).read_bytes() == made.sh.read_bytes()
    assert (made.venv / 'bin/python3').read_bytes() == made.python.read_bytes()
    assert run('getcap', made.venv / 'bin/python3').stdout.endswith('python3 cap_net_raw=ep\n')
    assert made.works() == (True, True)
    assert states(status()) == [('ppy', 'current'), ('venv', 'current'), ('script', 'current')]


def test_dry_run_says_what_would_be_renewed_and_changes_nothing(scene, made, capsys):
    made.change()
    before = copies(scene)
    assert main(['refresh', '--dry-run']) == 0
    lines = f'would be renewed {scene}/bin/ppy\nwould be renewed {made.venv}\n'
    assert capsys.readouterr() == (lines, '')
    assert copies(scene) == before


def test_documents_say_the_same(scene, made, capsys):
    made.change()
    for words in ['refresh', '--dry-run'], ['refresh']:
        assert main([*words, '--json']) == 0
        document = json.loads(capsys.readouterr().out)
        state = 'renewed' if len(words) == 1 else 'stale'
        assert [(each['kind'], each['state']) for each in document['made']] == [
            ('ppy', state),
            ('venv', state),
        ]
    assert main(['status', '--json']) == 0
    document = json.loads(capsys.readouterr().out)
    assert document['made'][0]['caps'] == 'cap_chown,cap_kill'
    assert document['made'][2]['path'] == str(made.script)
    assert document['problems'] == []


@pytest.mark.parametrize('manager', [None, 'apt'])
def test_what_is_made_says_whether_hooks_renew_it(scene, made, manager, monkeypatch, capsys):
    there = [hooks.Hook(manager, '/etc/x', 'installed')] if manager else []
    monkeypatch.setattr(hooks, 'status', lambda: there)
    line = f'renew it after each run of {manager}' if manager else 'sudo caps hooks install'
    for command in (
        ['ppy', 'install', '--prefix', str(scene)],
        ['venv', 'mark', str(made.venv), 'cap_net_raw'],
        ['status'],
    ):
        assert main(command) == 0
        assert line in capsys.readouterr().out.splitlines()[-1]


def test_status_says_in_a_line_what_is_not_as_the_manifest_lists_it(scene, monkeypatch, capsys):
    monkeypatch.setattr(manifest_files, 'PLACE', f'{scene}/manifest')
    tool = scene / 'tool'
    tool.write_text('x')
    assert main(['status']) == 0
    assert 'none; to have one: caps manifest save' in capsys.readouterr().out
    for text, said in (
        ('cap_kill=ep', None),
        ('cap_setuid=ep', '1 not as listed, of which 1'),
    ):
        Caps(text).apply(tool)
        if said is None:
            assert main(['manifest', 'save', str(scene), '--into', f'{scene}/manifest']) == 0
        assert main(['status']) == (said is not None)
        assert (said or 'all as listed') in capsys.readouterr().out
    assert main(['status', '--json']) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document['drifts'], document['amounting_to_root']) == (1, 1)
    (scene / 'manifest').write_text('rubbish')
    assert main(['status']) == 1
    assert 'cannot be read' in capsys.readouterr().out


def test_who_is_not_root_is_told_so(accounts, system_venv):
    for command in 'refresh', 'status':
        done = run(system_venv / 'bin/caps', command, account=accounts.owner)
        assert done.returncode == 1
        assert 'run it with sudo' in done.stderr


# ---- What fails stays, and is told ----


@contextmanager
def listening(scene):
    """How to start a program where /dev is the test's, and what caps then leaves in the log."""
    dev = scene / 'dev'
    dev.mkdir()
    os.mknod(dev / 'null', stat.S_IFCHR | 0o666, os.makedev(1, 3))
    enter = ['unshare', '-m', 'sh', '-c', 'mount --bind "$0" /dev && exec "$@"', dev]
    lines = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as log:
        log.bind(f'{dev}/log')
        yield enter, lines
        with suppress(BlockingIOError):
            while True:
                line = log.recv(1 << 16).decode()
                if 'caps[' in line:  # ppy leaves one, too
                    lines.append(line.partition(']: ')[2])


def test_what_does_not_work_leaves_the_old_one_and_a_line_in_the_log(scene, made):
    made.sh.write_bytes(b'\x7fELF' + bytes(100))
    change(made.python)
    with listening(scene) as (enter, lines):
        done = run(*enter, sys.executable, '-m', 'caps', 'refresh')
    assert done.returncode == 1
    assert done.stdout == f'renewed {made.venv}\n'
    assert done.stderr.startswith(f'caps: {scene}/bin/ppy: the new ppy cannot launch a script: ')
    assert len(lines) == 2
    assert lines[0] + '\n' == done.stderr.removeprefix('caps: ')
    assert lines[1] == f'{made.venv} is renewed'
    assert made.works() == (True, True)
    assert len(os.listdir(scene / 'libexec')) == 1


def test_line_in_the_log_cannot_look_like_two(monkeypatch):
    lines = []
    monkeypatch.setattr('syslog.syslog', lambda priority, line: lines.append(line))
    room._log(3, 'one\ntwo\0\x1b[m\udcff"')
    assert lines == ['one\\ntwo\\x00\\x1b[m\\udcff"']


@pytest.mark.parametrize('kind', ['full', 'read-only'])
def test_full_or_read_only_file_system_leaves_the_old_one(scene, made, kind, capsys):
    prefix = scene / 'prefix'
    prefix.mkdir()
    options = 'size=4m,mode=755'
    run('mount', '-t', 'tmpfs', '-o', options, 'tmpfs', prefix, check=True)
    try:
        install(made.sh, prefix)
        if kind == 'full':
            with suppress(OSError), open(prefix / 'filling', 'wb') as file:
                file.write(bytes(1 << 23))
        else:
            run('mount', '-o', 'remount,ro', prefix, check=True)
        before = copies(prefix)
        made.change()
        assert main(['refresh']) == 1
        reason = 'No space left' if kind == 'full' else 'Read-only file system'
        assert reason in capsys.readouterr().err
        assert copies(prefix) == before
        assert run(prefix / 'bin/ppy', '--version').returncode == 0
    finally:
        run('umount', prefix, check=True)
    assert made.works() == (True, True)  # these are elsewhere, and renewed


def test_program_that_is_gone_is_told(scene, made, capsys):
    made.sh.unlink()
    made.python.unlink()
    assert main(['refresh']) == 1
    errors = capsys.readouterr().err.splitlines()
    assert errors[0] == f'caps: {scene}/bin/ppy: {made.sh}: No such file or directory'
    assert errors[1].startswith(f'caps: {made.venv}/bin/python3.unmarked leads to no program')
    assert made.works()[1]


def test_program_that_has_become_a_pipe_keeps_nobody_waiting(scene, made):
    for program in made.sh, made.python:
        program.unlink()
        os.mkfifo(program, 0o755)
    done = run(sys.executable, '-m', 'caps', 'refresh')
    assert done.returncode == 1
    assert f'caps: {scene}/bin/ppy: {made.sh}: not a regular file' in done.stderr
    assert run(sys.executable, '-m', 'caps', 'status').returncode == 1


def test_what_is_gone_is_told_with_the_way_to_forget_it(scene, made, capsys):
    shutil.rmtree(made.venv)
    made.script.unlink()
    for directory in 'bin', 'libexec':
        shutil.rmtree(scene / directory)
    assert main(['status']) == 1
    commands = [
        line.split(' to forget it: caps ')[1] for line in capsys.readouterr().err.splitlines()
    ]
    assert len(commands) == 3
    assert main(['refresh']) == 1
    for command in commands:
        assert main(command.split()) == 0
    assert main(['refresh']) == 0
    assert read() == []


@pytest.mark.parametrize(
    ('state', 'reason'),
    [
        ('ok unpacked', 'bad: half configured, so wait, or: dpkg --configure -a'),
        ('ok half-configured', 'bad: half configured, so wait, or: dpkg --configure -a'),
        ('reinstreq half-installed', 'bad: half configured, so wait, or: dpkg --configure -a'),
        ('rubbish', 'dpkg does not say which packages are half configured: '),
        ('ok config-files', None),
    ],
)
def test_nothing_is_renewed_while_a_package_is_half_configured(scene, made, state, reason):
    """Of a dpkg whose list the test has written."""
    require(os.path.exists(DPKG), 'dpkg')
    status = scene / 'status'
    status.write_text(PACKAGE.format('good', 'ok installed') + PACKAGE.format('bad', state))
    mount = 'mount --bind "$0" /var/lib/dpkg/status && exec "$@"'
    made.change()
    before = copies(scene)
    command = [sys.executable, '-m', 'caps', 'refresh']
    done = run('unshare', '-m', 'sh', '-c', mount, status, *command)
    assert (done.returncode, copies(scene) == before) == ((1, True) if reason else (0, False))
    assert done.stderr.startswith(f'caps: {reason}' if reason else '')


# ---- Nothing is granted ----


def strip(venv):
    Caps.remove(venv / 'bin/python3')


def other_mark(venv):
    Caps('cap_sys_admin=ep').apply(venv / 'bin/python3')


def mark_of_a_namespace(venv):
    """What its owner can write to a file of their own, in a user namespace."""
    caps = Caps('cap_net_raw=ep')
    caps.root_id = 1000
    caps.apply(venv / 'bin/python3')


def file_of_its_owner(venv):
    shutil.copy(venv / 'bin/python3.unmarked', venv / 'bin/own')
    os.chown(venv / 'bin/own', 1000, 1000)
    RAW.apply(venv / 'bin/own')
    (venv / 'bin/own').replace(venv / 'bin/python3')


def hard_link(venv):
    """To something of root's that has the same mark."""
    other = venv / 'ping'
    other.write_bytes(b'\x7fELF')
    RAW.apply(other)
    (venv / 'bin/python3').unlink()
    os.link(other, venv / 'bin/python3')


def link(venv):
    (venv / 'bin/python3').unlink()
    (venv / 'bin/python3').symlink_to(PYTHON)


def closed(venv):
    (venv / 'bin/python3').chmod(0o700)


def other_group(venv):
    """A copy that was made for members of a group, and is now for others."""
    caps = Caps.from_file(venv / 'bin/python3')
    os.chown(venv / 'bin/python3', 0, 12345)
    (venv / 'bin/python3').chmod(0o750)
    caps.apply(venv / 'bin/python3')


def made_anew(venv):
    entry = recorded(Venv(str(venv)))
    unmark(venv)
    record(entry)


VENV_CHANGES = [
    *(strip, other_mark, mark_of_a_namespace, file_of_its_owner, hard_link, link, closed),
    *(other_group, made_anew),
]


@pytest.mark.parametrize('deed', VENV_CHANGES)
def test_environment_that_is_not_as_it_was_marked_gets_nothing(scene, made, deed, capsys):
    made.change()
    deed(made.venv)
    before = {path: what for path, what in copies(scene).items() if 'venv' in str(path)}
    assert ('venv', 'broken') in states(refresh())
    assert {path: what for path, what in copies(scene).items() if 'venv' in str(path)} == before
    assert ('venv', 'broken') in states(status())


@pytest.mark.parametrize('is_naive', [True, False], ids=['naive', 'refresh'])
def test_mark_of_a_namespace_does_not_become_one_of_the_machine(made, is_naive):
    """Its owner wrote it; a refresh that takes the mark from the file gives it to them for good."""
    python = made.venv / 'bin/python3'
    caps = Caps('cap_sys_admin=ep')
    caps.root_id = 1000
    caps.apply(python)
    made.change()
    if is_naive:
        mark(made.venv, Caps(str(environment_at(made.venv).caps)))
    else:
        refresh()
    is_granted = Caps.from_file(python) == Caps('cap_sys_admin=ep')
    assert (is_granted and Caps.from_file(python).root_id == 0) == is_naive


def no_caps(scene):
    (scene / 'bin/ppy').chmod(0o755)


def shut(scene):
    (scene / 'bin/ppy').chmod(0)


def without_copy(scene):
    Path(installation_at(scene).capped).chmod(0)


def stripped_copy(scene):
    Caps.remove(installation_at(scene).capped)


def no_launcher(scene):
    (scene / 'bin/ppy').unlink()


def others_launcher(scene):
    os.chown(scene / 'bin/ppy', 1000, 0)


def open_directory(scene):
    (scene / 'bin').chmod(0o777)


@pytest.mark.parametrize(
    'deed',
    [no_caps, shut, without_copy, stripped_copy, no_launcher, others_launcher, open_directory],
)
def test_ppy_that_was_switched_off_or_may_be_anothers_stays_as_it_is(scene, made, deed):
    made.change()
    deed(scene)
    before = {path: what for path, what in copies(scene).items() if 'venv' not in str(path)}
    assert ('ppy', 'broken') in states(refresh())
    assert {path: what for path, what in copies(scene).items() if 'venv' not in str(path)} == before
    assert ('ppy', 'broken') in states(status())


def test_launcher_of_a_newer_caps_is_not_made_older(scene, made, monkeypatch):
    made.change()
    monkeypatch.setattr('caps.admin.installation._package_version', lambda: '0.0.9')
    (ppy, venv) = refresh()
    assert (ppy.state, venv.state) == ('broken', 'renewed')
    assert ppy.problems == [
        f'{scene}/bin/ppy is of a newer version than this caps, which would make it older again'
    ]


def test_what_is_removed_or_unmarked_meanwhile_is_not_made_again(scene, made, monkeypatch):
    made.change()
    real_install, real_changing = room.install, room.changing

    def install_late(**options):
        assert main(['ppy', 'remove', '--prefix', str(scene)]) == 0
        return real_install(**options)

    @contextmanager
    def changing_late(place):
        unmark(made.venv)
        with real_changing(place) as both:
            yield both

    monkeypatch.setattr(room, 'install', install_late)
    monkeypatch.setattr(room, 'changing', changing_late)
    assert states(refresh()) == [('ppy', 'broken'), ('venv', 'broken')]
    assert not (scene / 'bin/ppy').exists()
    assert not Caps.from_file(made.venv / 'bin/python3').marked


def test_commands_at_once_renew_once(scene, made):
    made.change()
    command = [sys.executable, '-m', 'caps', 'refresh']
    each = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    output = ''.join(child.communicate(timeout=PATIENCE)[0] for child in each)
    assert [child.returncode for child in each] == [0] * 3
    assert sorted(output.splitlines()) == [f'renewed {scene}/bin/ppy', f'renewed {made.venv}']
    assert made.works() == (True, True)


def test_killed_refresh_leaves_what_works_and_is_done_by_the_next(scene, made):
    for point in range(1 if SOAK > 1 else 5, 10_000, 1 if SOAK > 1 else 101):
        made.change()
        done = run(sys.executable, CHILDREN / 'killed.py', point, 'SIGKILL', 'refresh')
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        assert made.works() == (True, True)
        assert {made.state for made in refresh()} <= {'current', 'renewed'}
        assert states(status()) == [('ppy', 'current'), ('venv', 'current'), ('script', 'current')]
        if done.returncode == 0:
            break


def test_registry_that_others_could_write_is_not_acted_on(registry, made):
    made.change()
    registry.chmod(0o755)
    try:
        with pytest.raises(AdminError, match="is not root's alone"):
            refresh()
    finally:
        registry.chmod(0o700)
