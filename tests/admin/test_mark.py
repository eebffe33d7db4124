"""caps ppy mark and unmark: a script is ready for ppy, or everything is as it was."""

import json
import os
import select
import signal
import stat
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

from caps import Caps
from caps.admin import mark as module
from caps.admin import opening
from caps.admin.mark import MarkError, inheritable, mark, unmark
from caps.admin.ppy import install
from caps.cli import main
from support import needs_root, program, run
from support.launchers import REPORT

pytestmark = needs_root

KILL = Caps('cap_kill=i')


@pytest.fixture(scope='module')
def prefix(world, system_venv):
    """Where a ppy is installed that cannot give everything."""
    prefix = world / 'marking'
    install(system_venv / 'bin/python', prefix, allow='cap_kill,cap_chown')
    return prefix


@pytest.fixture
def plain(scene):
    """A script of root's that nobody has prepared."""
    path = scene / 'report.py'
    path.write_text(REPORT)
    path.chmod(0o644)
    return path


def state(path):
    info = path.lstat()
    caps = Caps.from_file(path) if path.is_file() and not path.is_symlink() else None
    return (
        info.st_ino,
        info.st_mode,
        info.st_uid,
        info.st_gid,
        str(caps),
        getattr(caps, 'marked', 0),
    )


def tree(directory):
    return {str(path): state(path) for path in Path(directory).rglob('*')}


def refused(scene, match, *arguments, **options):
    before = tree(scene)
    with pytest.raises(MarkError, match=match):
        mark(*arguments, **options)
    assert tree(scene) == before


def test_script_is_marked_where_it_is_and_runs(plain, prefix, accounts):
    marked = mark(plain, KILL, accounts.owner.name, accounts.attacker.name, prefix=prefix)
    assert marked.command == f'{prefix}/bin/ppy {plain}'
    assert (marked.owner, marked.group) == (accounts.owner.name, accounts.attacker.name)
    info = plain.stat()
    assert (stat.S_IMODE(info.st_mode), info.st_uid) == (0o750, accounts.owner.uid)
    done = run(*marked.command.split(), account=accounts.attacker)
    report = json.loads(done.stdout)
    assert report['uid'] == [accounts.owner.uid] * 3
    assert report['permitted'] == report['inheritable'] == KILL.inheritable.mask


def test_group_is_the_owners_by_default(plain, prefix, accounts):
    assert mark(plain, KILL, accounts.owner.uid, prefix=prefix).group == accounts.owner.name
    again = mark(plain, Caps('cap_chown=i'), prefix=prefix)
    assert (again.owner, again.group) == (accounts.owner.name, accounts.owner.name)
    assert run(f'{prefix}/bin/ppy', plain, account=accounts.owner).returncode == 0
    assert run(f'{prefix}/bin/ppy', plain, account=accounts.attacker).returncode == 126


def test_script_is_copied_and_stays_as_it_was(plain, prefix, scene, accounts):
    before = state(plain)
    (scene / 'srv').mkdir()
    (scene / 'srv').chmod(0o755)
    for content in REPORT, f'#!{prefix}/bin/ppy\n{REPORT}':
        plain.write_text(content)
        marked = mark(plain, KILL, accounts.owner.name, to=scene / 'srv', prefix=prefix)
        assert marked.path == f'{scene}/srv/report.py'
        assert Path(marked.path).read_text() == content
        assert os.listdir(scene / 'srv') == ['report.py']
        done = run(*marked.command.split(), account=accounts.owner)
        assert json.loads(done.stdout)['file'] == marked.path
    assert marked.command == marked.path
    assert state(plain) == before


def test_unmark_takes_the_mark_and_nothing_else(plain, prefix, accounts):
    mark(plain, KILL, accounts.owner.name, prefix=prefix)
    info = plain.stat()
    assert unmark(plain) == str(plain)
    assert Caps.from_file(plain).marked is False
    assert (plain.stat().st_mode, plain.stat().st_uid) == (info.st_mode, info.st_uid)
    with pytest.raises(MarkError, match='is not marked'):
        unmark(plain)


@pytest.mark.parametrize('is_copied', [False, True], ids=['where it is', 'copied'])
def test_what_ppy_would_refuse_leaves_everything_as_it_was(
    plain, prefix, scene, accounts, is_copied
):
    (scene / 'srv').mkdir()
    (scene / 'srv').chmod(0o755)
    options = {'prefix': prefix, 'to': scene / 'srv' if is_copied else None}
    owner = accounts.owner.name
    refused(scene, r'would run as root: say --owner', plain, KILL, **options)
    refused(scene, r'group of root: say --group', plain, KILL, owner, 'root', **options)
    refused(scene, r"no user 'nobody-here'", plain, KILL, 'nobody-here', **options)
    given = Caps('cap_net_raw=i')
    refused(scene, r'cannot give cap_net_raw: caps ppy install', plain, given, owner, **options)
    refused(scene, r'caps ppy install', plain, KILL, owner, prefix=scene, to=options['to'])
    (scene / 'srv').chmod(0o777)
    if is_copied:
        refused(scene, r'users other than root can write', plain, KILL, owner, **options)
    mark(plain, KILL, owner, prefix=prefix)
    run('mount', '--bind', scene, scene, check=True)
    try:
        run('mount', '-o', 'remount,bind,nosuid', scene, check=True)
        (scene / 'srv').chmod(0o755)
        refused(scene, r'would refuse the script: .*nosuid', plain, KILL, owner, **options)
    finally:
        run('umount', scene, check=True)


def test_only_inheritable_capabilities_are_a_mark():
    assert inheritable('cap_kill,net_raw') == Caps('cap_kill,cap_net_raw=i')
    assert inheritable('=') == Caps('=')
    assert inheritable('all').inheritable
    with pytest.raises(ValueError, match='has inheritable: cap_kill=i'):
        inheritable('cap_kill=ep')


@pytest.mark.parametrize('kind', ['link', 'fifo', 'directory', 'hard link', 'absent'])
def test_what_is_no_file_of_its_own_is_refused(plain, prefix, scene, accounts, kind):
    path = scene / 'other'
    match = {
        'link': 'is a symbolic link',
        'fifo': 'is not a regular file',
        'directory': 'is not a regular file',
        'hard link': 'several hard links',
        'absent': 'No such file',
    }[kind]
    if kind == 'link':
        path.symlink_to(plain)
    elif kind == 'fifo':
        os.mkfifo(path)
    elif kind == 'directory':
        path.mkdir()
    elif kind == 'hard link':
        os.link(plain, path)
    refused(scene, match, path, KILL, accounts.owner.name, prefix=prefix)


@pytest.fixture
def secret(scene):
    """A directory of root's with a file that is not meant."""
    directory = scene / 'secret'
    directory.mkdir()
    directory.chmod(0o755)
    (directory / 'report.py').write_text('secret')
    (directory / 'report.py').chmod(0o600)
    return directory


@pytest.mark.parametrize('deed', [mark, unmark])
@pytest.mark.parametrize('is_copied', [False, True], ids=['where it is', 'copied'])
@pytest.mark.parametrize('kind', ['directory', 'link', 'exchanged'])
def test_who_owns_a_directory_above_has_no_other_file_marked(
    den, secret, scene, prefix, accounts, monkeypatch, is_copied, kind, deed
):
    """What the naive way, by name, would have marked."""
    named = den / 'project' / 'report.py'
    if kind == 'directory':  # of the attacker's, with a file of root's
        named.parent.mkdir()
        named.write_text('secret')
    else:
        named.parent.symlink_to(secret)
    for path in den, named.parent:
        os.chown(path, accounts.attacker.uid, accounts.attacker.gid, follow_symlinks=False)
    if kind == 'exchanged':  # as soon as it has been opened
        real = opening.stops

        def stops(path):
            if str(path).startswith(str(den)):
                named.parent.unlink(missing_ok=True)
                named.parent.mkdir()
            return real(path)

        monkeypatch.setattr(opening, 'stops', stops)
    if deed is unmark:
        KILL.apply(named.resolve())
    before = state(named.resolve()), state(secret / 'report.py')
    target = named.resolve()
    options = {'to': scene if is_copied else None, 'prefix': prefix} if deed is mark else {}
    arguments = (KILL, accounts.attacker.name) if deed is mark else ()
    with pytest.raises(MarkError, match=r'belongs to uid|has become another file'):
        deed(named, *arguments, **options)
    assert (state(target), state(secret / 'report.py')) == before
    assert not (scene / 'report.py').exists()


def test_copy_does_not_follow_a_directory_of_another_account(plain, den, secret, prefix, accounts):
    (den / 'srv').symlink_to(secret)
    os.chown(den / 'srv', accounts.attacker.uid, -1, follow_symlinks=False)
    before = tree(secret)
    with pytest.raises(MarkError, match=f'{den} belongs to uid {accounts.attacker.uid}'):
        mark(plain, KILL, accounts.owner.name, to=den / 'srv', prefix=prefix)
    assert tree(secret) == before


def test_script_of_an_account_is_marked_in_its_own_directory(den, prefix, accounts):
    path = den / 'report.py'
    path.write_text(REPORT)
    os.chown(path, accounts.attacker.uid, accounts.attacker.gid)
    marked = mark(path, KILL, prefix=prefix)
    done = run(*marked.command.split(), account=accounts.attacker)
    assert json.loads(done.stdout)['permitted'] == KILL.inheritable.mask
    refused(den, 'belongs to uid', path, KILL, accounts.owner.name, prefix=prefix)


def test_command_line_ends_with_the_line_that_starts_it(plain, prefix, accounts, capsys):
    words = ['ppy', 'mark', str(plain), 'kill', '--owner', accounts.owner.name]
    assert main([*words, '--prefix', str(prefix)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f'{plain} cap_kill=i'
    assert run('sh', '-c', out[-1], account=accounts.owner).returncode == 0
    assert main(['ppy', 'unmark', str(plain)]) == 0
    assert main(['ppy', 'unmark', str(plain)]) == 1
    with pytest.raises(SystemExit):
        main(['ppy', 'mark', str(plain), 'cap_kill=ep'])
    assert 'has inheritable: cap_kill=i' in capsys.readouterr().err


def test_account_that_is_not_root_is_told_to_use_sudo(plain, prefix, accounts, system_venv):
    command = [system_venv / 'bin/caps', 'ppy', 'mark', plain, 'kill', '--prefix', prefix]
    done = run(*command, account=accounts.owner)
    assert (done.returncode, done.stderr) == (1, 'caps: this needs root: run it with sudo\n')


@contextmanager
def writing_later(path, account):
    """What an account does that has a script open for writing: an event that lets it write."""
    with subprocess.Popen(
        ['/usr/bin/python3', '-c', program('write_later'), path],
        user=account.uid, group=account.gid, extra_groups=[],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def test_former_owner_cannot_write_to_a_script_that_is_another_accounts(plain, prefix, accounts):
    os.chown(plain, accounts.attacker.uid, accounts.attacker.gid)
    with writing_later(plain, accounts.attacker) as writer:
        assert writer.stdout.readline() == b'open\n'
        path = mark(plain, KILL, accounts.owner.name, prefix=prefix).path
        assert Caps.from_file(path) == KILL
        writer.communicate(b'\n')
    assert Path(path).read_text() == REPORT


def test_account_that_is_not_given_a_script_in_the_end_cannot_write_to_it(
    plain, prefix, scene, accounts
):
    run('mount', '--bind', scene, scene, check=True)
    try:
        run('mount', '-o', 'remount,bind,nosuid', scene, check=True)
        with writing_later(plain, accounts.owner) as writer:
            for _ in range(10):
                refused(scene, 'nosuid', plain, KILL, accounts.owner.name, prefix=prefix)
            if select.select([writer.stdout], [], [], 0)[0]:
                writer.communicate(b'\n')
        assert plain.read_text() == REPORT
    finally:
        run('umount', scene, check=True)


@pytest.mark.parametrize('deed', [mark, unmark])
def test_what_a_killed_mark_has_left_is_taken_away(plain, prefix, scene, accounts, deed):
    child = os.fork()
    if not child:
        module._check = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        mark(plain, KILL, accounts.owner.name, prefix=prefix)
    os.waitpid(child, 0)
    (left,) = {path for path in scene.iterdir() if path != plain}
    assert Caps.from_file(left) == KILL
    with left.open() as held:
        if deed is mark:
            mark(plain, KILL, accounts.owner.name, prefix=prefix)
        else:
            assert unmark(plain) == str(plain)
        assert not Caps.from_file(held).marked
    assert [*scene.iterdir()] == [plain]
