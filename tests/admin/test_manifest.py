"""caps manifest: what is listed comes back, and only to the file that was meant."""

import hashlib
import json
import mmap
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caps import Caps
from caps.admin import listed_copies, manifest_files, registry, restoring, rewriting
from caps.admin import survey as surveying
from caps.admin.listed import Listed, Manifest
from caps.admin.manifest import check, restore
from caps.admin.manifest_files import ManifestFiles, save
from caps.admin.manifest_text import lines_of
from caps.admin.ppy import install, remove
from caps.admin.quoting import ManifestError, quoted, words_of
from caps.admin.survey import survey
from caps.admin.transaction import AdminError
from caps.admin.venv import mark as mark_environment
from caps.admin.venv import unmark as unmark_environment
from caps.cli import main
from caps.system.packages import recorded_digests
from support import SOAK, needs, needs_root, require, run
from support.attacks import PYTHON
from support.mounts import mount_idmapped
from support.packages import MAKE, PACMAN_CONF, make_deb
from support.venvs import make_venv

KILL = 'cap_kill=ep'
NAMES = st.binary(min_size=1).filter(lambda name: b'\0' not in name).map(os.fsdecode)


def listed_as_is(path, text=KILL, **changes):
    """A file as it is, but with a mark."""
    info = os.lstat(path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    mode = stat.S_IMODE(info.st_mode)
    values = {'owner': str(info.st_uid), 'group': str(info.st_gid), 'mode': mode, 'sha256': sha256}
    return Listed(str(path), text, **(values | changes))


def of(*listed, searched=()):
    return Manifest({file.path: file for file in listed}, [*map(str, searched)])


def state(path):
    info, caps = path.lstat(), None
    if path.is_file() and not path.is_symlink():
        caps = Caps.from_file(path)
    mark = str(caps) if caps and caps.marked else None
    return info.st_ino, info.st_mode, info.st_uid, info.st_gid, mark


@pytest.fixture
def tool(scene):
    """A program of root's own."""
    path = scene / 'tool'
    shutil.copy('/bin/true', path)
    path.chmod(0o755)
    return path


# ---- The text ----


@given(st.lists(NAMES))
def test_words_of_any_bytes_survive_in_one_printable_line(words):
    line = ' '.join(map(quoted, words))
    assert line.isprintable()
    assert words_of(line) == (words, '')
    assert words_of(f'{line} # why')[0] == words


@given(NAMES, NAMES, NAMES, st.integers(0, 0o7777), st.integers(0, 2**32 - 2), st.booleans())
def test_listed_file_is_read_as_it_was_written(name, owner, group, mode, root_id, is_owned):
    sha256 = None if is_owned else 64 * 'a'
    path = os.path.normpath('/' + name.strip('/')).replace('//', '/')
    listed = Listed(path, '=ep cap_kill-ep', owner, group, mode, root_id, sha256)
    assert [said for _, said, _ in lines_of([f'{listed}\n'.encode()], 'manifest')] == [listed]


HOSTILE = {
    'relative': 'file usr/bin/ping cap_kill=ep root root 755',
    'upwards': 'file /srv/../bin/sh cap_kill=ep root root 755',
    'an upward search': 'search /srv/..',
    'a plain zero byte': 'file /bin/s\0h cap_kill=ep root root 755',
    'an owner with a zero byte': 'file /bin/sh cap_kill=ep ro\0ot root 755',
    'a quoted zero byte': 'file /bin/sh cap_kill=ep "ro\0ot" root 755',
    'an endless owner': f'file /bin/sh cap_kill=ep {5000 * "9"} root 755',
    'an endless root id': f'file /bin/sh cap_kill=ep root root 755 rootid={5000 * "9"}',
    'an owner in other digits': 'file /bin/sh cap_kill=ep \u0660 root 755',
    'the end of a line of DOS': 'file /bin/sh cap_kill=ep root root 755\r',
    'a zero byte': r'file "/bin/sh\x00" cap_kill=ep root root 755',
    'too short': 'file /bin/sh cap_kill=ep root',
    'no mode': 'file /bin/sh cap_kill=ep root root rwx',
    'too much mode': 'file /bin/sh cap_kill=ep root root 77777',
    'an unknown option': 'file /bin/sh cap_kill=ep root root 755 unchecked=yes',
    'two digests': f'file /bin/sh = root root 755 sha256={64 * "a"} sha256={64 * "b"}',
    'a short digest': 'file /bin/sh = root root 755 sha256=aa',
    'a root id that is none': 'file /bin/sh = root root 755 rootid=4294967295',
    'an unknown word': 'include /tmp/manifest',
    'an open quote': 'file "/bin/sh = root root 755',
    'an unknown escape': r'search "/\n"',
    'half an escape': r'search "/\x4"',
    'text beside a quote': 'search "/a"b',
    'a ppy without an interpreter': 'ppy /usr/local ppy',
    'a ppy elsewhere': 'ppy /usr/local ../ppy /usr/bin/python3',
    'a ppy with half an option': 'ppy /usr/local ppy /usr/bin/python3 allow=',
    'a ppy with an unknown option': 'ppy /usr/local ppy /usr/bin/python3 proof=no',
    'a relative environment': 'venv srv cap_kill=ep root',
    'an environment of nobody': 'venv /srv cap_kill=ep',
    'an environment for root': 'venv /srv cap_kill=ep root setuid',
    'no owner': 'file /bin/sh = "" root 755',
    'Latin-1': b'search /\xe4',
    'endless': 'search /' + 'a' * (1 << 22),
}


@pytest.mark.parametrize('line', HOSTILE.values(), ids=HOSTILE)
def test_manifest_with_a_line_that_is_not_understood_is_refused_whole(tool, scene, line):
    line = line if isinstance(line, bytes) else line.encode()
    file = scene / 'manifest'
    file.write_bytes(f'# mine\n{listed_as_is(tool)}\n'.encode() + line + b'\n')
    with pytest.raises(ManifestError, match=f'{file}:3: '):
        ManifestFiles([file], is_trusted=False)
    assert main(['manifest', 'restore', str(file)]) == 1
    assert not Caps.from_file(tool).marked


WORDS = st.sampled_from(
    ['/bin/sh', '/bin/../sh', '//bin', '/bin/', '/', '/.x', '0', '9' * 11, '755', '8', '#', '']
)


@given(st.lists(WORDS | st.text(max_size=3), min_size=5, max_size=6))
def test_line_that_is_read_fast_says_what_it_says(words):
    line = ' '.join(['file', *words])

    def said(line):
        with suppress(ManifestError):
            ((_, said, _),) = lines_of([line.encode(errors='surrogatepass')], '')
            return said

    assert said(line) == said(f'{line} #')  # which is never read fast


def test_of_two_lines_about_a_file_the_later_one_counts(tool, scene):
    other = scene / 'other'
    shutil.copy(tool, other)
    Caps('cap_chown=p').apply(other)
    lines = [listed_as_is(tool), listed_as_is(other, 'cap_chown=p'), listed_as_is(tool, mode=0o700)]
    first, second = scene / 'first', scene / 'second'
    first.write_text(''.join(f'{line}\n' for line in lines))
    second.write_text(f'{listed_as_is(tool, "cap_setgid=p", mode=0o755)}\n')
    manifest = ManifestFiles([first, second], is_trusted=True)
    assert [str(file) for file in manifest.each()] == [str(lines[1]), second.read_text().rstrip()]
    restore(manifest)
    assert str(Caps.from_file(tool)) == 'cap_setgid=p'
    assert check(manifest) == ([], [])


def test_manifest_in_a_pipe_is_compared(tool, scene):
    Caps(KILL).apply(tool)
    command = f'echo "$0" | {sys.executable} -m caps manifest check /dev/stdin'
    assert run('sh', '-c', command, listed_as_is(tool)).returncode == 0
    assert run('sh', '-c', command, listed_as_is(tool, mode=0o700)).returncode == 1


# ---- save ----


@needs_root
def test_saving_again_keeps_comments_order_and_what_is_not_there(tool, scene, capsys):
    other = scene / 'other \xff\n'
    shutil.copy(tool, other)
    Caps(KILL).apply(tool)
    Caps(KILL).apply(other)
    file = scene / 'manifest'
    gone = Listed(f'{scene}/gone', KILL, 'root', 'root', 0o755)
    head = f'# mine\n\nsearch {scene}\n{gone}  # comes back\n'
    file.write_text(f'{head}file {tool} = root root 700 # the tool\n# end\n')
    assert main(['manifest', 'save', str(scene), '--into', str(file)]) == 0
    assert file.read_text().startswith(head)
    assert file.read_text().splitlines()[4:] == [
        f'{listed_as_is(tool, owner="root", group="root")} # the tool',
        '# end',
        str(listed_as_is(other, owner='root', group='root')),
    ]
    before = file.read_bytes()
    assert main(['manifest', 'save', str(scene), '--into', str(file)]) == 0
    assert file.read_bytes() == before
    capsys.readouterr()
    assert main(['manifest', 'check', str(file), '--json']) == 1
    (drift,) = json.loads(capsys.readouterr().out)['files']
    assert (drift['kind'], drift['path']) == ('missing', gone.path)


@needs_root
def test_empty_file_is_listed_and_compared_like_others(tool, scene):
    tool.write_bytes(b'')
    Caps(KILL).apply(tool)
    manifest, problems = survey([scene])
    assert problems == []
    assert [listed.text for listed in manifest.files.values()] == [KILL]
    assert check(manifest) == ([], [])
    Caps.remove(tool)
    assert [drift.kind for drift in check(manifest)[0]] == ['lost']


@needs_root
@pytest.mark.parametrize('step', ['write', 'fsync', 'rename'])
def test_save_that_fails_leaves_what_was_there(tool, scene, monkeypatch, step):
    file = scene / 'manifest'
    file.write_text('# mine\n')
    found, _ = survey([scene])

    def fail(*arguments, **options):
        raise OSError(28, 'No space left on device')

    if step == 'write':
        monkeypatch.setattr(rewriting, 'write_copy', fail)
    else:
        monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match='No space'):
        save(found, file)
    monkeypatch.undo()
    assert file.read_text() == '# mine\n'
    assert sorted(os.listdir(scene)) == ['manifest', 'tool']


KILLED_SAVE = """
import os, signal, sys
from caps import Caps
from caps.admin import manifest_files, rewriting, survey
step, directory = sys.argv[1:]
where = rewriting if hasattr(rewriting, step) else os
real = getattr(where, step)
def kill(*arguments, **options):
    if step != 'write_copy':
        os.kill(os.getpid(), signal.SIGKILL)
    real(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(where, step, kill)
manifest_files.save(survey.survey([directory])[0], directory + '/manifest')
"""


@needs_root
@pytest.mark.parametrize(
    'step', ['lock', 'fchown', 'fchmod', 'fsync', 'write_copy', 'rename', 'sync', 'unlock']
)
def test_save_that_is_killed_leaves_one_whole_manifest_and_nothing_beside_the_next(
    tool, scene, step
):
    Caps(KILL).apply(tool)
    (scene / 'manifest').write_text('# mine\n')
    assert run(sys.executable, '-c', KILLED_SAVE, step, scene).returncode == -signal.SIGKILL
    content = (scene / 'manifest').read_text()
    save(survey([scene])[0], scene / 'manifest')
    assert content in ('# mine\n', (scene / 'manifest').read_text())
    assert sorted(os.listdir(scene)) == ['manifest', 'tool']


@needs_root
def test_saves_at_once_lose_nothing(tool, scene):
    for name in 'one', 'two', 'three':
        (scene / name).mkdir()
        shutil.copy(tool, scene / name)
        Caps(KILL).apply(scene / name / 'tool')
    command = [sys.executable, '-m', 'caps', 'manifest', 'save', '--into', scene / 'manifest']
    names = ['one', 'two', 'three'] * 2
    started = [subprocess.Popen([*command, scene / name]) for name in names]
    assert [process.wait() for process in started] == [0] * len(names)
    manifest = ManifestFiles([scene / 'manifest'], is_trusted=True)
    assert sorted(file.path for file in manifest.each()) == [
        f'{scene}/{name}/tool' for name in sorted(set(names))
    ]
    assert sorted(os.listdir(scene)) == sorted(['manifest', 'tool', *set(names)])


@needs('cap_sys_admin')
@needs_root
@pytest.mark.parametrize('kind', ['full', 'read-only'])
def test_manifest_on_a_disk_that_takes_nothing_stays(tool, scene, kind):
    disk = scene / 'disk'
    disk.mkdir()
    run('mount', '-t', 'tmpfs', '-o', 'size=64k,mode=755', 'none', disk, check=True)
    try:
        (disk / 'manifest').write_text('# mine\n')
        if kind == 'full':
            with suppress(OSError):
                (disk / 'rest').write_bytes(bytes(1 << 16))
        else:
            run('mount', '-o', 'remount,ro', disk, check=True)
        Caps(KILL).apply(tool)
        assert main(['manifest', 'save', str(scene), '--into', str(disk / 'manifest')]) == 1
        assert (disk / 'manifest').read_text() == '# mine\n'
        assert set(os.listdir(disk)) <= {'manifest', 'rest'}
    finally:
        run('umount', disk, check=True)


UNTRUSTED = {
    'a link': ('is a symbolic link', lambda file, _: file.rename(f'{file}-') and link(file)),
    'writable': ('can be written by others', lambda file, _: file.chmod(0o664)),
    "another's": ('belongs to', lambda file, them: os.chown(file, them.uid, them.gid)),
    'in an open directory': ('users other than root can write', lambda file, _: open_to_all(file)),
    "in another's directory": (
        'belongs to uid',
        lambda file, them: os.chown(file.parent, them.uid, them.gid),
    ),
    'a pipe': ('not a regular file', lambda file, _: (file.unlink(), os.mkfifo(file))),
}


@needs_root
def test_what_is_left_beside_a_manifest_is_not_read(tool, scene, monkeypatch):
    monkeypatch.setattr(manifest_files, 'PLACE', str(scene / 'manifest'))
    (scene / 'manifest.d').mkdir()
    names = ['10-web.conf', 'tools']
    left = ['.tools.swp', 'tools~', 'tools.dpkg-old', 'tools.rpmsave', 'tools.pacnew', 'tools.bak']
    for name in names + left:
        (scene / 'manifest.d' / name).write_text(f'search /{name}\n')
    assert ManifestFiles([], is_trusted=True).searched == ['/10-web.conf', '/tools']
    (scene / 'manifest.d/README').write_text('These are the marks of this machine.\n')
    with pytest.raises(ManifestError, match='README:1'):
        ManifestFiles([], is_trusted=True)


def link(file):
    file.symlink_to(f'{file}-')


def open_to_all(file):
    file.parent.chmod(0o777)


@needs_root
@pytest.mark.parametrize(('match', 'spoil'), UNTRUSTED.values(), ids=UNTRUSTED)
@pytest.mark.parametrize('deed', ['restore', 'save'])
def test_manifest_that_others_could_change_is_not_acted_on(
    tool, scene, accounts, match, spoil, deed
):
    (scene / 'etc').mkdir(mode=0o755)
    file = scene / 'etc/manifest'
    file.write_text(f'{listed_as_is(tool)}\n')
    spoil(file, accounts.attacker)
    deeds = {
        'restore': lambda: ManifestFiles([file], is_trusted=True),
        'save': lambda: save(of(), file),
    }
    with pytest.raises(AdminError, match=match):
        deeds[deed]()


@needs_root
@pytest.mark.parametrize('is_setuid', [False, True], ids=['file-caps', 'set-uid'])
def test_installed_ppy_is_not_listed_but_what_looks_like_one_is(scene, system_venv, is_setuid):
    for _ in range(2):  # of which the second keeps the copy of the first
        install(system_venv / 'bin/python', scene, setuid=is_setuid)
    fake = scene / 'other'
    for name in 'bin/ppy', 'libexec/ppy-aaaaaaaa/python':
        (fake / name).parent.mkdir(parents=True)
        shutil.copy('/bin/true', fake / name)
        Caps('cap_setuid=ep').apply(fake / name)
    marked = {*map(str, scene.glob('other/*/ppy')), *map(str, scene.glob('other/*/*/python'))}
    assert len(marked) == 2
    assert set(survey([scene])[0].files) == marked
    assert {drift.path for drift in check(of(searched=[scene]))[0]} == marked


@needs_root
def test_file_that_is_exchanged_after_it_was_found_is_not_listed(app, monkeypatch):
    """A digest of what only root can read would be in a file that all can read."""
    Caps(KILL).apply(app.den / 'app/tool')
    real = surveying.find

    def find(directory):
        findings = real(directory)
        exchange_directories(app.den)
        return findings

    monkeypatch.setattr(surveying, 'find', find)
    assert survey([app.den])[0].files == {}


# ---- check and restore ----


@needs_root
def test_mark_that_a_copy_lost_comes_back_with_owner_group_and_mode(tool, scene, accounts):
    owner = accounts.owner
    tool.write_text('#!/usr/local/bin/ppy\n')
    os.chown(tool, owner.uid, owner.gid)
    tool.chmod(0o750)
    Caps('cap_kill=i').apply(tool)
    listed, problems = survey([scene])
    assert (problems, check(listed)) == ([], ([], []))
    before = state(tool)[1:]
    shutil.copy(tool, scene / 'copy')
    (scene / 'copy').rename(tool)
    (drift,) = check(listed)[0]
    assert drift.kind == 'lost'
    assert f'has none, not cap_kill=i; owner root, not {owner.name}' in drift.reason
    was = state(tool)
    assert [drift.refusal for drift in restore(listed, is_dry=True)] == [None]
    assert state(tool) == was
    assert [drift.refusal for drift in restore(listed)] == [None]
    assert state(tool)[1:] == before
    assert restore(listed) == []


def differ(**changes):
    return lambda tool, listed, uid: [setattr(listed, *change) for change in changes.items()]


LOOKED_AT = {
    'owner': differ(owner='1'),
    'group': differ(group='1'),
    'mode': differ(mode=0o700),
    'mark': differ(text='cap_kill=p'),
    'root id': differ(root_id=1000),
    'content': differ(sha256=64 * '0'),
    'unverified': differ(sha256=None),
    'account': differ(owner='nobody-here'),
    'newer kernel': differ(text='cap_of_tomorrow=ep'),
    'no mark': lambda tool, listed, uid: Caps.remove(tool),
    'hard link': lambda tool, listed, uid: os.link(tool, f'{tool}-'),
    'writable': lambda tool, listed, uid: (tool.chmod(0o775), setattr(listed, 'mode', 0o775)),
    'open directory': lambda tool, listed, uid: tool.parent.chmod(0o777),
    'their directory': lambda tool, listed, uid: os.chown(tool.parent, uid, uid),
    'a link': lambda tool, listed, uid: (tool.rename(f'{tool}-'), link(tool)),
    'their link above': lambda tool, listed, uid: (
        tool.parent.rename(f'{tool.parent}-'),
        tool.parent.symlink_to(f'{tool.parent}-'),
        os.chown(tool.parent.parent, uid, uid),
    ),
}


@needs_root
@pytest.mark.parametrize('spoil', LOOKED_AT.values(), ids=LOOKED_AT)
def test_nothing_that_differs_passes_for_the_same(scene, accounts, spoil):
    """Files that are as listed are told by a glance, which must not take any other for one."""
    (scene / 'above/bin').mkdir(mode=0o755, parents=True)
    tool = scene / 'above/bin/tool'
    shutil.copy('/bin/true', tool)
    Caps(KILL).apply(tool)
    listed = listed_as_is(tool)
    assert check(of(listed)) == ([], [])
    spoil(tool, listed, accounts.attacker.uid)
    assert [drift.path for drift in check(of(listed))[0]] == [str(tool)]


@needs_root
def test_drift_is_said_by_kind_and_first_what_amounts_to_root(tool, scene, capsys):
    names = ['changed', 'lost', 'missing', 'python3', 'same', 'setuid', 'unexpected', 'unsafe']
    for name in names:
        shutil.copy(tool, scene / name)
        Caps('cap_net_raw=ep').apply(scene / name)
    file = scene / 'manifest'
    assert main(['manifest', 'save', str(scene), '--into', str(file)]) == 0
    Caps(KILL).apply(scene / 'changed')
    Caps.remove(scene / 'lost')
    (scene / 'missing').unlink()
    Caps('cap_setuid=ep').apply(scene / 'setuid')
    (scene / 'unsafe').chmod(0o775)
    Caps.remove(scene / 'python3')
    lines = file.read_text().splitlines(keepends=True)
    file.write_text(''.join(line for line in lines if 'unexpected' not in line))
    capsys.readouterr()
    assert main(['manifest', 'check', str(file), '--json']) == 1
    drifts = json.loads(capsys.readouterr().out)['files']
    assert [(drift['kind'], os.path.basename(drift['path'])) for drift in drifts] == [
        ('lost', 'python3'),
        ('changed', 'setuid'),
        ('changed', 'changed'),
        ('lost', 'lost'),
        ('missing', 'missing'),
        ('unexpected', 'unexpected'),
        ('changed', 'unsafe'),
    ]
    assert [drift['amounts_to_root'] for drift in drifts] == 2 * [True] + 5 * [False]
    assert main(['manifest', 'restore', str(file)]) == 1
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        f'caps: {scene}/missing is not restored: is not there',
        f'caps: {scene}/unsafe is not restored: '
        'users other than its owner can write to it: chmod go-w',
    ]
    assert captured.out.count('restored') == 4


def test_account_that_is_not_root_is_told_to_use_sudo(tool, scene, accounts, system_venv):
    file = scene / 'manifest'
    Caps(KILL).apply(tool)
    file.write_text(f'{listed_as_is(tool)}\n')
    command = [system_venv / 'bin/caps', 'manifest']
    assert run(*command, 'check', file, account=accounts.owner).returncode == 0
    tool.chmod(0o700)
    done = run(*command, 'check', file, account=accounts.owner)
    assert (done.returncode, done.stdout.split()[0]) == (1, 'unknown')
    done = run(*command, 'restore', file, account=accounts.owner)
    assert (done.returncode, done.stderr) == (1, 'caps: this needs root: run it with sudo\n')


def hard_link(tool, *_):
    os.link(tool, f'{tool}-too')


def replaced_by_link(tool, *_):
    tool.rename(f'{tool}-')
    tool.symlink_to(f'{tool}-')


def replaced_by_pipe(tool, *_):
    tool.unlink()
    os.mkfifo(tool)


def set_user_id(tool, listed, _):
    listed.mode = 0o4755


def writable(tool, listed, _):
    tool.chmod(0o775)


def to_be_writable(tool, listed, _):
    listed.mode = 0o777


def of_the_attacker(tool, listed, attacker):
    os.chown(tool, attacker.uid, attacker.gid)


def other_content(tool, listed, _):
    tool.write_bytes(tool.read_bytes() + b'x')


def unverified(tool, listed, _):
    listed.sha256 = None


def of_a_newer_kernel(tool, listed, _):
    listed.text = 'cap_of_tomorrow=ep'


def half_effective(tool, listed, _):
    listed.text = 'cap_kill=ep cap_chown+p'


def of_nobody_here(tool, listed, _):
    listed.owner = 'nobody-here'


def open_directory(tool, *_):
    tool.parent.chmod(0o777)


def directory_of_the_attacker(tool, listed, attacker):
    os.chown(tool.parent, attacker.uid, attacker.gid)


REFUSED = {
    hard_link: 'several hard links',
    replaced_by_link: 'is a symbolic link',
    replaced_by_pipe: 'is not a regular file',
    set_user_id: 'set-user-ID',
    writable: 'users other than its owner can write',
    to_be_writable: 'users other than its owner can write',
    of_the_attacker: 'belongs to caps-tests-attacker',
    other_content: 'has other content than listed',
    unverified: 'no package that is wholly installed',
    of_a_newer_kernel: "'cap_of_tomorrow' is not a capability",
    half_effective: 'the effective set of a file',
    of_nobody_here: "there is no user 'nobody-here'",
    open_directory: 'users other than root can write',
    directory_of_the_attacker: 'belongs to uid',
}


@needs_root
@pytest.mark.parametrize('spoil', REFUSED, ids=lambda spoil: spoil.__name__)
def test_file_that_is_not_the_one_that_was_meant_stays_as_it_is(scene, accounts, spoil):
    (scene / 'bin').mkdir(mode=0o755)
    tool = scene / 'bin/tool'
    shutil.copy('/bin/true', tool)
    tool.chmod(0o755)
    listed = listed_as_is(tool)
    spoil(tool, listed, accounts.attacker)
    before = state(tool)
    (drift,) = restore(of(listed))
    assert REFUSED[spoil] in drift.refusal
    assert state(tool) == before
    if not stat.S_ISFIFO(before[1]):
        naive(listed)
        assert state(tool) != before or tool.is_symlink() or spoil in UNREACHED


UNREACHED = {of_a_newer_kernel, half_effective, of_nobody_here, other_content}


def naive(listed, between=lambda: None):
    """What restores by name, as a script with setcap in it does, after a look at the content."""
    with suppress(ValueError, OSError):
        with open(listed.path, 'rb') as file:
            content = file.read()
        if listed.sha256 in (None, hashlib.sha256(content).hexdigest()):
            between()
            os.chown(listed.path, int(listed.owner), int(listed.group))
            os.chmod(listed.path, listed.mode)
            Caps(listed.text).apply(listed.path)


def exchange_files(den):
    """Put a program of one's own in the place of the one that is listed."""
    os.rename(den / 'evil', den / 'app/tool')


def exchange_directories(den):
    """Have the path lead to a file of root's."""
    os.rename(den / 'app', den / 'gone')
    os.symlink('../secret', den / 'app')


@pytest.fixture
def app(scene, accounts):
    """A directory of the attacker's with a program that is listed, and what they want marked."""
    them, den = accounts.attacker, scene / 'den'
    for directory in den, den / 'app', scene / 'secret':
        directory.mkdir(mode=0o755)
    for path in den / 'app/tool', den / 'evil', scene / 'secret/tool':
        path.write_text('listed' if path.parent.name == 'app' else 'evil')
        path.chmod(0o755)
    for path in den, den / 'app', den / 'app/tool', den / 'evil':
        os.chown(path, them.uid, them.gid)
    listed = listed_as_is(den / 'app/tool')
    # Open, since their names are exchanged.
    with (
        open(den / 'app/tool') as tool,
        open(den / 'evil') as evil,
        open(scene / 'secret/tool') as secret,
    ):
        yield SimpleNamespace(
            den=den, listed=listed, tool=tool, wanted=[evil, secret], secret=scene / 'secret'
        )


@needs_root
@pytest.mark.parametrize('exchange', [exchange_files, exchange_directories])
@pytest.mark.parametrize('is_naive', [True, False], ids=['naive', 'ours'])
def test_file_that_is_exchanged_after_the_look_is_not_marked(app, monkeypatch, exchange, is_naive):
    if is_naive:
        naive(app.listed, lambda: exchange(app.den))
    else:
        real = restoring._judge

        def judge(*arguments):
            real(*arguments)
            exchange(app.den)

        monkeypatch.setattr(restoring, '_judge', judge)
        restore(of(app.listed))
    assert is_marked_evil(app) == is_naive
    assert (app.secret.joinpath('tool').stat().st_uid != 0) == (
        is_naive and exchange is exchange_directories
    )


def is_marked_evil(app):
    return any(Caps.from_file(file).marked for file in app.wanted)


@needs('cap_sys_admin')
@needs_root
@pytest.mark.parametrize('is_naive', [True, False], ids=['naive', 'ours'])
def test_file_of_another_mount_namespace_is_not_marked(scene, is_naive):
    """Where a directory has the same path and is open to all."""
    place = scene / 'place'
    place.mkdir()
    script = 'mount -t tmpfs -o mode=777 none "$0"; printf good > "$0/tool"; echo; exec sleep 60'
    command = ['unshare', '--mount', 'sh', '-c', script, place]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        try:
            other.stdout.readline()
            tool = Path(f'/proc/{other.pid}/root{place}/tool')
            listed = listed_as_is(tool, mode=0o755)
            if is_naive:
                naive(listed)
            else:
                (drift,) = restore(of(listed))
                assert 'has no path here' in drift.refusal
                Caps(KILL).apply(tool)
                assert check(of(listed))[0]
                Caps.remove(tool)
            assert Caps.from_file(tool).marked == is_naive
        finally:
            other.kill()


@needs('cap_sys_admin', 'user_namespaces')
@needs_root
@pytest.mark.parametrize('is_naive', [True, False], ids=['naive', 'ours'])
def test_file_that_a_mount_shows_as_roots_is_not_marked(scene, app, accounts, is_naive):
    them, mapped = accounts.attacker, scene / 'mapped'
    mapped.mkdir()
    run('chgrp', '-R', str(them.uid), app.den, check=True)
    try:
        mount_idmapped(app.den, mapped, f'{them.uid} 0 1')
    except OSError as error:
        pytest.skip(str(error))
    try:
        listed = listed_as_is(mapped / 'app/tool')
        assert listed.owner == '0'
        if is_naive:
            naive(listed)
        else:
            (drift,) = restore(of(listed))
            assert 'idmapped' in drift.refusal
        assert bool(is_xattr(app.den / 'app/tool')) == is_naive
    finally:
        run('umount', mapped, check=True)


def is_xattr(path):
    return 'security.capability' in os.listxattr(path)


@needs('cap_sys_admin')
@needs_root
def test_overlay_is_marked_and_what_is_below_it_is_not(memory, accounts):
    for name in 'lower', 'upper', 'work', 'merged':
        (memory / name).mkdir()
    below, tool = memory / 'lower/tool', memory / 'merged/tool'
    below.write_text('good')
    below.chmod(0o755)
    layers = ','.join(f'{name}dir={memory}/{name}' for name in ('lower', 'upper', 'work'))
    run('mount', '-t', 'overlay', '-o', layers, 'none', memory / 'merged', check=True)
    try:
        listed = listed_as_is(tool)
        assert [drift.refusal for drift in restore(of(listed))] == [None]
        assert check(of(listed)) == ([], [])
        assert not Caps.from_file(below).marked
        Caps.remove(tool)
        os.chown(tool, accounts.owner.uid, -1)
        listed.owner = str(accounts.owner.uid)
        with open(tool, 'r+b'):
            (drift,) = restore(of(listed))
        assert drift.refusal == 'somebody has it open to write to it'
    finally:
        run('umount', memory / 'merged', check=True)


EXCHANGING = """
import ctypes, sys
libc = ctypes.CDLL(None)
one, two = (name.encode() for name in sys.argv[1:])
assert libc.renameat2(-100, one, -100, two, 2) == 0
print('begun', flush=True)
while libc.renameat2(-100, one, -100, two, 2) == 0:
    pass
"""


@needs_root
@pytest.mark.parametrize('is_naive', [True, False], ids=['naive', 'ours'])
def test_race_for_a_mark_is_lost(app, is_naive, accounts):
    one, two = app.den / 'app/tool', app.den / 'evil'
    command = [PYTHON, '-c', EXCHANGING, one, two]
    options = {'user': accounts.attacker.uid, 'stdout': subprocess.PIPE}
    with subprocess.Popen(command, **options) as attacker:
        try:
            assert attacker.stdout.readline() == b'begun\n'
            given = 0
            for _ in range(200_000 if is_naive else 500 * SOAK):
                naive(app.listed) if is_naive else restore(of(app.listed))
                if is_marked_evil(app):
                    break
                with suppress(OSError):  # so that the next try has to give it one
                    Caps.remove(app.tool)
                    given += 1
        finally:
            attacker.send_signal(signal.SIGKILL)
    assert is_marked_evil(app) == is_naive
    assert given or is_naive


@needs_root
@pytest.mark.parametrize('is_naive', [True, False], ids=['naive', 'ours'])
@pytest.mark.parametrize('way', ['descriptor', 'mapping'])
def test_owner_who_can_already_write_to_the_file_gets_no_mark(app, is_naive, way):
    tool = app.den / 'app/tool'
    fd = os.open(tool, os.O_RDWR)
    mapping = mmap.mmap(fd, 0) if way == 'mapping' else None
    if mapping:
        os.close(fd)
    if is_naive:
        naive(app.listed)
    else:
        (drift,) = restore(of(app.listed))
        assert drift.refusal == 'somebody has it open to write to it'
    if mapping:
        mapping[:4] = b'evil'
        mapping.close()
        assert tool.read_text() == 'evil' + 'ed'
        assert Caps.from_file(tool).marked == is_naive
    else:  # the kernel takes the mark away by itself
        os.write(fd, b'evil')
        os.close(fd)
        assert not Caps.from_file(tool).marked


@needs_root
def test_owner_who_opens_the_file_meanwhile_has_the_mark_taken_back(app, monkeypatch):
    tool = app.den / 'app/tool'
    real = restoring._change

    def change(*arguments):
        real(*arguments)
        with pytest.raises(BlockingIOError):
            os.open(tool, os.O_RDWR | os.O_NONBLOCK)

    monkeypatch.setattr(restoring, '_change', change)
    before = state(tool)
    (drift,) = restore(of(app.listed))
    assert drift.refusal == 'somebody opened it meanwhile to write to it'
    assert state(tool) == before


@needs_root
@pytest.mark.parametrize('step', ['fchown', 'fchmod', 'fsync', 'apply'])
def test_step_that_fails_leaves_the_file_as_it_was(tool, accounts, monkeypatch, step):
    owner = accounts.owner
    listed = listed_as_is(tool, owner=str(owner.uid), group=str(owner.gid), mode=0o750)
    Caps('cap_chown=p').apply(tool)
    before = state(tool)
    where = Caps if step == 'apply' else os
    real, calls = getattr(where, step), []

    def fail(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise OSError(30, 'Read-only file system')
        return real(*arguments)

    monkeypatch.setattr(where, step, fail)
    (drift,) = restore(of(listed))
    assert drift.refusal == 'Read-only file system'
    assert state(tool) == before
    assert restore(of(listed))[0].refusal is None
    assert str(Caps.from_file(tool)) == KILL


KILLED = """
import os, signal, sys
from caps import Caps
from caps.admin import manifest, manifest_files
step, file = sys.argv[1:]
where = Caps if step == 'apply' else os
real = getattr(where, step)
def kill(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(where, step, kill)
manifest.restore(manifest_files.ManifestFiles([file], is_trusted=True))
"""


@needs_root
@pytest.mark.parametrize('step', ['fchown', 'fchmod', 'apply', 'fsync'])
def test_restore_that_is_killed_has_granted_nothing_else_and_can_be_repeated(
    tool, scene, accounts, step
):
    owner = accounts.owner
    listed = listed_as_is(tool, owner=str(owner.uid), group=str(owner.gid), mode=0o750)
    (scene / 'manifest').write_text(f'{listed}\n')
    done = run(sys.executable, '-c', KILLED, step, scene / 'manifest')
    assert done.returncode == -signal.SIGKILL
    if Caps.from_file(tool).marked:
        assert state(tool)[1:] == (stat.S_IFREG | 0o750, owner.uid, owner.gid, KILL)
    (drift,) = restore(of(listed)) or [None]
    assert drift is None or drift.refusal is None
    assert state(tool)[1:] == (stat.S_IFREG | 0o750, owner.uid, owner.gid, KILL)


@pytest.fixture
def memory(scene):
    """A directory of root's that needs no disk."""
    run('mount', '-t', 'tmpfs', '-o', 'mode=755', 'none', scene, check=True)
    yield scene
    run('umount', scene, check=True)


@needs('cap_sys_admin')
@needs_root
def test_file_on_a_read_only_file_system_is_refused_before_it_is_changed(memory):
    tool = memory / 'tool'
    tool.write_bytes(b'tool')
    listed = of(listed_as_is(tool))
    run('mount', '-o', 'remount,ro', memory, check=True)
    for is_dry in True, False:
        (drift,) = restore(listed, is_dry=is_dry)
        assert drift.refusal == 'is on a read-only file system'
    assert state(tool)[-1] is None


@needs('cap_sys_admin')
@needs_root
def test_random_drifts_are_restored_or_refused_as_a_model_says(memory, accounts):
    chance = random.Random(1)
    owners = [0, accounts.owner.uid, accounts.attacker.uid]
    (memory / 'bin').mkdir()
    tool = memory / 'bin/tool'
    for _ in range(1000 * SOAK):
        tool.unlink(missing_ok=True)
        tool.write_text('good')
        wanted = chance.choice(owners[:2])
        group, mode = chance.choice(owners), chance.choice([0o755, 0o750, 0o700])
        listed = listed_as_is(tool, owner=str(wanted), group=str(group), mode=mode)
        content = chance.choices(['good', 'evil'], [4, 1])[0]
        tool.write_text(content)
        actual, directory = chance.choice(owners), chance.choices(owners, [4, 1, 1])[0]
        actual_mode = chance.choices([0o755, 0o644, 0o664, 0o757], [4, 4, 1, 1])[0]
        directory_mode = chance.choices([0o755, 0o700, 0o775, 0o1777], [4, 1, 1, 1])[0]
        os.chown(tool, actual, actual)
        tool.chmod(actual_mode)
        mark = chance.choice([None, KILL, 'cap_chown=p'])
        if mark:
            Caps(mark).apply(tool)
        os.chown(memory / 'bin', directory, -1)
        (memory / 'bin').chmod(directory_mode)
        before = state(tool)
        is_granted = (
            content == 'good'
            and actual in (0, wanted)
            and directory in (0, wanted)
            and not actual_mode & 0o022
            and not directory_mode & 0o022
        )
        drifts = restore(of(listed))
        after = (stat.S_IFREG | mode, wanted, group, KILL)
        assert [drift.refusal is None for drift in drifts] == (
            [is_granted] if before[1:] != after or not is_granted else []
        )
        assert state(tool) == ((before[0], *after) if is_granted else before)


# ---- What caps has made ----


@pytest.fixture
def made(scene, system_venv, accounts, monkeypatch):
    """A manifest of an installed ppy and of a marked environment of an account's."""
    monkeypatch.setattr(registry, 'PLACE', str(scene / 'registry'))
    (scene / 'prefix').mkdir()
    python = str(system_venv / 'bin/python')
    options = {'allow': 'cap_net_raw,cap_kill', 'group': accounts.owner.name}
    install(python, scene / 'prefix', 'ppy-app', allow_root=True, **options)
    venv, owner = scene / 'app/venv', accounts.owner
    make_venv('/usr/bin/python3', venv)
    run('chown', '-R', f'{owner.uid}:{owner.gid}', scene / 'app', check=True)
    mark_environment(venv, Caps('cap_net_raw=ep'), owner.name)
    manifest, problems = survey([scene])
    assert problems == []
    return SimpleNamespace(scene=scene, venv=venv, manifest=manifest, python=python, owner=owner)


@needs_root
def test_ppy_and_environment_are_entries_that_are_made_again(made):
    prefix, venv, owner = made.scene / 'prefix', made.venv, made.owner.name
    file = made.scene / 'manifest'
    comment = '# mine'
    file.write_text(f'venv {venv} cap_kill=ep root {comment}\n')
    save(made.manifest, file)
    assert file.read_text().splitlines() == [
        f'venv {venv} cap_net_raw=ep {owner} group={owner} {comment}',
        f'search {made.scene}',
        f'ppy {prefix} ppy-app {made.python} allow=cap_kill,cap_net_raw group={owner} allow-root',
    ]
    listed = ManifestFiles([file], is_trusted=True)
    assert check(listed) == ([], [])
    install(made.python, prefix, 'ppy-app', reset=True)
    unmark_environment(venv)
    kinds = {(drift.kind, drift.path, drift.amounts_to_root) for drift in check(listed)[0]}
    assert kinds == {('changed', f'{prefix}/bin/ppy-app', False), ('lost', str(venv), False)}
    assert [drift.refusal for drift in restore(listed)] == [None, None]
    assert check(listed) == ([], [])
    remove(prefix, 'ppy-app')
    assert [drift.kind for drift in check(listed)[0]] == ['missing']
    assert [drift.refusal for drift in restore(listed)] == [None]
    assert check(listed) == ([], [])


@needs_root
def test_nothing_is_made_again_while_a_package_is_half_configured(made, monkeypatch):
    unmark_environment(made.venv)
    monkeypatch.setattr(listed_copies, 'unfinished', lambda: ['python3-minimal'])
    (drift,) = restore(made.manifest)
    assert drift.refusal == 'python3-minimal is half configured, so wait, or: dpkg --configure -a'
    assert not [path for path in (made.venv / 'bin').iterdir() if is_marked(path)]


def of_another(made, uid):
    run('chown', '-R', f'{uid}:{uid}', made.scene / 'app', check=True)


def in_a_directory_of_another(made, uid):
    os.chown(made.scene / 'app', uid, uid)


def in_an_open_directory(made, uid):
    (made.venv / 'bin').chmod(0o777)


def gone(made, uid):
    shutil.rmtree(made.venv)


def linked_to_another(made, uid):
    made.venv.rename(made.scene / 'evil')
    made.venv.symlink_to(made.scene / 'evil')
    os.chown(made.scene / 'evil/bin', uid, uid)


@needs_root
@pytest.mark.parametrize(
    'spoil',
    [of_another, in_a_directory_of_another, in_an_open_directory, gone, linked_to_another],
    ids=lambda spoil: spoil.__name__,
)
def test_environment_that_is_not_the_one_that_was_meant_is_not_marked(made, accounts, spoil):
    unmark_environment(made.venv)
    spoil(made, accounts.attacker.uid)
    (drift,) = restore(made.manifest)
    assert drift.refusal
    assert not [path for path in made.scene.rglob('app/venv/bin/*') if is_marked(path)]


def is_marked(path):
    return path.is_file() and Caps.from_file(path).marked


@needs_root
def test_ppy_is_not_installed_where_others_can_change_it(made, accounts):
    remove(made.scene / 'prefix', 'ppy-app')
    os.chown(made.scene / 'prefix/bin', accounts.attacker.uid, -1)
    (drift,) = restore(made.manifest)
    assert 'belongs to uid' in drift.refusal
    assert os.listdir(made.scene / 'prefix/bin') == []


# ---- Packages ----


def test_digests_are_those_of_the_files_as_their_packages_have_them():
    if not os.path.exists('/usr/bin/dpkg-query'):
        assert recorded_digests(['/usr/bin/env']) == {}
        return
    paths = [os.path.realpath(path) for path in ('/bin/sh', '/bin/ls', '/usr/bin/env')]
    strange = ['/etc/passwd', '/absent', '/usr/bin/l*', '/usr/bin/[', '-L', '/usr/bin/']
    recorded = recorded_digests([*paths, *strange])
    for path in paths:
        with open(path, 'rb') as file:
            assert recorded.pop(path) == ('md5', hashlib.md5(file.read()).hexdigest())
    assert recorded == {}


@needs_root
def test_no_variable_leads_to_another_database(scene, monkeypatch, accounts):
    """Which an account that has sudo for caps alone could have filled."""
    for name in 'DPKG_ADMINDIR', 'DPKG_ROOT', 'RPM_CONFIGDIR', 'HOME', 'PATH':
        monkeypatch.setenv(name, str(scene))
    test_digests_are_those_of_the_files_as_their_packages_have_them()


# In a mount namespace whose package manager knows of this package alone.
UPGRADE = """
set -e
caps="$1 -m caps"
for directory in /var/lib/dpkg /var/lib/pacman $4; do
    ! test -d $directory || mount -t tmpfs -o mode=755 none $directory
done
if test -d /var/lib/dpkg; then
    mkdir /var/lib/dpkg/info /var/lib/dpkg/updates /var/lib/dpkg/triggers
    touch /var/lib/dpkg/status
fi
cd "$0"
$2 one.* >&2
$caps set cap_kill=ep opt/tool
$caps set cap_kill=i opt/settings
$caps manifest save "$0/opt" --into "$0/manifest"
$2 two.* >&2
$caps manifest check manifest || echo "check $?"
$caps manifest restore manifest; echo "restore $?"
$caps manifest check manifest; echo "check $?"
$caps remove opt/tool
if test -n "$3"; then
    dpkg --unpack one.deb >&2
    $caps manifest restore manifest || echo "unpacked $?"
    dpkg --configure caps-tests >&2
    $caps manifest restore manifest; echo "configured $?"
fi
echo evil >> opt/tool
$caps manifest restore manifest || echo "changed $?"
"""
# The same, where what dpkg says of a path is true and the path is not its package's any more.
LIES = """
set -e
caps="$1 -m caps"
mount -t tmpfs -o mode=755 none /var/lib/dpkg
mkdir /var/lib/dpkg/info /var/lib/dpkg/updates /var/lib/dpkg/triggers
touch /var/lib/dpkg/status
cd "$0"
dpkg-divert --local --no-rename --divert "$0/opt/diverted.real" --add "$0/opt/diverted" >&2
dpkg -i one.deb >&2
test -e opt/diverted.real
echo evil > opt/diverted
chmod 755 opt/diverted
chown "$2:$2" den
printf one > theirs
chmod 755 theirs
$caps manifest restore manifest >&2 || echo "refused $?"
"""


@needs('cap_sys_admin')
@needs_root
def test_path_that_is_not_a_packages_any_more_is_not_marked(scene, accounts):
    require(shutil.which('dpkg'), 'dpkg')
    diverted, owned, theirs = scene / 'opt/diverted', scene / 'den/tool', scene / 'theirs'
    make_deb(scene / 'one', 1, {diverted: 'one', owned: 'one'})
    lines = [Listed(str(path), KILL, 'root', 'root', 0o755) for path in (diverted, owned, theirs)]
    (scene / 'manifest').write_text(''.join(f'{line}\n' for line in lines))
    command = ['unshare', '--mount', 'sh', '-c', LIES, scene, sys.executable]
    done = run(*command, accounts.attacker.uid)
    assert done.stdout == 'refused 1\n', done
    for path, reason in (
        (diverted, "has other content than its package's"),
        (owned, f'{owned.parent} belongs to uid {accounts.attacker.uid}, not to root'),
        (theirs, 'is of no package that is wholly installed'),
    ):
        assert f'{path} is not restored: {reason}' in done.stderr
        assert not Caps.from_file(path).marked


INSTALL = {
    'dpkg': ['dpkg -i', 'dpkg'],
    'rpm': ['rpm --upgrade --nodeps', ''],
    'pacman': ['pacman --config pacman.conf --upgrade --noconfirm', ''],
}


@needs('cap_sys_admin')
@needs_root
@pytest.mark.parametrize('manager', INSTALL)
def test_mark_comes_back_after_an_upgrade(scene, manager):
    require(shutil.which(manager), manager)
    tool, settings = scene / 'opt/tool', scene / 'opt/settings'
    (scene / 'pacman.conf').write_text(PACMAN_CONF)
    for number, version in enumerate(['one', 'two'], 1):
        MAKE[manager](scene / version, number, {tool: version, settings: 'same'}, [settings])
    database = Path(run('rpm', '-E', '%_dbpath').stdout.strip()) if manager == 'rpm' else scene
    is_there = database.exists()
    database.mkdir(exist_ok=True, parents=True)
    words = [scene, sys.executable, *INSTALL[manager], database if manager == 'rpm' else '']
    done = run('unshare', '--mount', 'sh', '-c', UPGRADE, *words)
    if not is_there:
        database.rmdir()
    assert (scene / 'manifest').exists(), done.stdout + done.stderr
    digests = [line for line in (scene / 'manifest').read_text().splitlines() if 'sha256' in line]
    assert [line.split()[1] for line in digests] == [str(settings)]  # which the admin may change
    restored = f'restored {tool} {KILL}'
    unpacked = ['unpacked 1', restored, 'configured 0'] if manager == 'dpkg' else []
    assert [line for line in done.stdout.splitlines() if str(settings) not in line] == [
        f'lost        {tool} has none, not {KILL}',
        'check 1',
        restored,
        'restore 0',
        'check 0',
        *unpacked,
        'changed 1',
    ], done.stdout + done.stderr
    if manager == 'dpkg':
        assert 'is of no package that is wholly installed' in done.stderr
    assert "has other content than its package's" in done.stderr
