"""caps hooks: each package run brings back what it undid, and nothing else comes of it."""

import json
import os
import shutil
import stat
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from caps import Caps
from caps.admin import hooks
from caps.admin.hooks import KINDS, SYSTEMD, after_packages
from support import needs, needs_root, require, run
from support.packages import PACMAN_CONF, make_deb, make_pacman

KILL = 'cap_kill=ep'
PYTHON = os.path.realpath('/usr/bin/python3')
APT = Path('/etc/apt/apt.conf.d/99caps')
DPKG = Path('/etc/dpkg/dpkg.cfg.d/caps')
pytestmark = [needs('cap_sys_admin', 'cap_sys_chroot'), needs_root]


@contextmanager
def mounted(directory, *mounts):
    """Mount one after the other, and take all away at the end."""
    try:
        for arguments in mounts:
            run('mount', *arguments, check=True)
        yield
    finally:
        run('umount', '--recursive', '--lazy', directory, check=True)


@pytest.fixture
def machine(scene, system_venv):
    """This machine, with a caps of its own, where every change is gone at the end."""
    root = scene / 'root'
    layers = f'lowerdir=/,upperdir={scene}/upper,workdir={scene}/work'
    with mounted(scene, ['-t', 'tmpfs', '-o', 'mode=755', 'none', scene]):
        for name in 'root', 'upper', 'work':
            (scene / name).mkdir()
        with mounted(
            root,
            ['-t', 'overlay', '-o', layers, 'none', root],
            ['--bind', '/proc', root / 'proc'],
            ['--bind', '/dev', root / 'dev'],
            # Managers that know of no package.
            ['-t', 'tmpfs', '-o', 'mode=755', 'none', root / 'var/lib'],
        ):
            (root / 'var/lib/pacman').mkdir()
            for name in 'info', 'updates', 'triggers':
                (root / 'var/lib/dpkg' / name).mkdir(parents=True)
            (root / 'var/lib/dpkg/status').touch()
            python = Path('/opt/caps-tests/bin/python')
            without = shutil.ignore_patterns('pip*', 'setuptools*', 'pkg_resources')
            shutil.copytree(system_venv, root / 'opt/caps-tests', symlinks=True, ignore=without)
            (root / 'etc/caps').mkdir(exist_ok=True)

            def at(path):
                return root / str(path).lstrip('/')

            def do(*command, **environ):
                path = '/usr/sbin:/usr/bin:/sbin:/bin'
                return run('chroot', root, *command, env={'PATH': path, **environ})

            def caps(*words, **environ):
                return do(python, '-I', '-m', 'caps', *words, **environ)

            yield SimpleNamespace(at=at, do=do, caps=caps, python=python, root=root)


@pytest.fixture
def upgradable(machine):
    """The same with apt, a package whose program is marked and listed, and its two versions."""
    require(shutil.which('apt-get'), 'apt')
    tool = '/opt/caps-tests-package/tool'
    for version in 'one', 'two':
        number = 1 + (version == 'two')
        make_deb(machine.at(f'/{version}'), number, {Path(tool): version})
    assert machine.do('dpkg', '-i', '/one.deb').returncode == 0
    Caps(KILL).apply(machine.at(tool))
    assert machine.caps('manifest', 'save', '/opt', '--into', '/etc/caps/manifest').returncode == 0
    machine.tool = machine.at(tool)
    return machine


def mark(path):
    caps = Caps.from_file(path)
    return str(caps) if caps.marked else ''


def ready(machine):
    """Which hooks the machine has, with those of a manager that is not installed here."""
    for kind in KINDS:
        for needed in kind.needed:
            path = machine.at(needed)
            path.parent.mkdir(parents=True, exist_ok=True)
            if '/bin/' in needed or '/sbin/' in needed:
                path.touch()
            else:
                path.mkdir(exist_ok=True)
    return [machine.at(kind.path) for kind in KINDS]


# ---- Real package runs ----


def test_upgrade_renews_what_runs_a_copy_of_its_programs(machine):
    """A ppy and a marked environment; but not while a package is only unpacked."""
    require(shutil.which('apt-get'), 'apt')
    top = Path('/opt/caps-tests-package')
    programs = {top / 'sh': '/bin/sh', top / 'python3': PYTHON}
    for number, fields in (1, ''), (2, ''), (3, 'Depends: caps-tests-no-such\n'):
        files = {path: Path(of).read_bytes() + bytes([number]) for path, of in programs.items()}
        make_deb(machine.at(f'/{number}'), number, files, fields=fields)
    machine.do('dpkg', '-i', '/1.deb').check_returncode()
    venv = Path('/opt/caps-tests-venv')
    machine.do(PYTHON, '-m', 'venv', '--without-pip', venv).check_returncode()
    for path in machine.at(venv / 'bin').glob('python*'):
        path.unlink()
    machine.at(venv / 'bin/python').symlink_to(top / 'python3')
    machine.caps('ppy', 'install', '--prefix', '/opt', '--interpreter', top / 'sh')
    machine.caps('venv', 'mark', venv, 'cap_kill').check_returncode()
    machine.caps('hooks', 'install').check_returncode()

    def states():
        document = json.loads(machine.caps('status', '--json').stdout)
        return [made['state'] for made in document['made']]

    assert states() == ['current', 'current']
    (done := machine.do('apt-get', 'install', '--yes', '--quiet', '/2.deb')).check_returncode()
    assert f'renewed /opt/bin/ppy\nrenewed {venv}\n' in done.stderr
    assert states() == ['current', 'current']
    new = machine.at(top / 'python3').read_bytes()
    assert new[-1] == 2
    assert machine.at(venv / 'bin/python').read_bytes() == new
    assert mark(machine.at(venv / 'bin/python')) == KILL
    done = machine.do('dpkg', '-i', '/3.deb')
    assert 'caps-tests: half configured, so wait, or: dpkg --configure -a' in done.stderr
    assert states() == ['stale', 'stale']


def test_upgrade_by_apt_or_dpkg_brings_the_mark_back(upgradable):
    machine = upgradable
    (done := machine.caps('hooks', 'install')).check_returncode()
    assert [line.split() for line in done.stdout.splitlines()] == [
        ['apt', str(APT), 'installed'],
        ['dpkg', str(DPKG), 'installed'],
    ]
    # Variables of the administrator's that would have Python run something else.
    evil = machine.at('/evil')
    evil.mkdir()
    (evil / 'sitecustomize.py').write_text('open("/evil/ran", "w")')
    environ = {'PYTHONPATH': '/evil', 'PYTHONHOME': '/evil', 'PYTHONINSPECT': '1'}
    machine.do('/usr/bin/python3', '-c', '', PYTHONPATH='/evil')
    assert (evil / 'ran').exists()
    (evil / 'ran').unlink()
    apt = ['apt-get', 'install', '--yes', '--quiet', '--allow-downgrades']
    for command in [*apt, '/two.deb'], ['dpkg', '-i', '/one.deb']:
        done = machine.do(*command, **environ)
        assert done.returncode == 0, done
        assert done.stderr.count(f'restored /opt/caps-tests-package/tool {KILL}') == 1, done
        assert mark(machine.tool) == KILL
    assert not (evil / 'ran').exists()
    # Where dpkg passes on that apt runs it, which not every version does, its hook leaves it to
    # the one of apt.
    machine.at(APT).unlink()
    shell = machine.at(DPKG).read_text().partition('post-invoke=')[2]
    Caps.remove(machine.tool)
    machine.do('sh', '-c', shell, DPKG_FRONTEND_LOCKED='1').check_returncode()
    assert mark(machine.tool) == ''
    machine.do('sh', '-c', shell).check_returncode()
    assert mark(machine.tool) == KILL
    (done := machine.caps('hooks', 'remove')).check_returncode()
    assert done.stdout == f'removed {DPKG}\n'
    assert not [path for path in (APT, DPKG) if machine.at(path).exists()]


def test_upgrade_by_pacman_brings_the_mark_back(machine):
    require(shutil.which('pacman'), 'pacman-package-manager')
    machine.at('/etc/pacman.d').mkdir(exist_ok=True)
    machine.at('/etc/pacman.conf').write_text(PACMAN_CONF)
    tool = Path('/opt/caps-tests-package/tool')
    for number, version in enumerate(['one', 'two'], 1):
        make_pacman(machine.at(f'/{version}'), number, {tool: version})
    pacman = ['pacman', '--upgrade', '--noconfirm']
    machine.do(*pacman, '/one.pkg.tar').check_returncode()
    Caps(KILL).apply(machine.at(tool))
    machine.caps('manifest', 'save', '/opt', '--into', '/etc/caps/manifest').check_returncode()
    machine.caps('hooks', 'install').check_returncode()
    done = machine.do(*pacman, '/two.pkg.tar', PYTHONPATH='/evil', PYTHONHOME='/evil')
    assert (done.returncode, machine.at(tool).read_text()) == (0, 'two'), done
    assert f'restored {tool} {KILL}' in done.stdout + done.stderr
    assert mark(machine.at(tool)) == KILL
    shutil.rmtree(machine.at('/opt/caps-tests'))
    machine.do(*pacman, '/one.pkg.tar').check_returncode()
    assert mark(machine.at(tool)) == ''


GONE = {
    'the python': lambda machine: machine.at(machine.python).unlink(),
    'its environment': lambda machine: shutil.rmtree(machine.at('/opt/caps-tests')),
    'its caps': lambda machine: shutil.rmtree(next(packages(machine).glob('caps'))),
    'its standard library': lambda machine: (
        machine.at(machine.python).unlink(),
        machine.at(machine.python).write_text('#!/bin/sh\nexit 3'),
        machine.at(machine.python).chmod(0o755),
    ),
}


def packages(machine):
    return next(machine.at('/opt/caps-tests').glob('lib/python3*/site-packages'))


def test_package_run_goes_on_where_caps_is_gone_or_broken(upgradable):
    machine = upgradable
    kept = machine.at('/kept')
    shutil.copytree(machine.at('/opt/caps-tests'), kept, symlinks=True)
    machine.caps('hooks', 'install').check_returncode()
    for name, take in GONE.items():
        take(machine)
        for command in ['dpkg', '-i', '/two.deb'], ['apt-get', '-y', 'reinstall', '/two.deb']:
            done = machine.do(*command)
            assert done.returncode == 0, (name, done)
        done = machine.do('/kept/bin/python', '-I', '-m', 'caps', 'hooks', 'status', '--json')
        assert done.returncode == 1
        states = {hook['state'] for hook in json.loads(done.stdout)['hooks']}
        assert states == {'stale'}, done
        shutil.rmtree(machine.at('/opt/caps-tests'), ignore_errors=True)
        shutil.copytree(kept, machine.at('/opt/caps-tests'), symlinks=True)


# ---- The files ----


def test_each_hook_is_written_as_its_manager_reads_it_and_taken_away(machine):
    paths = ready(machine)
    (done := machine.caps('hooks', 'install')).check_returncode()
    assert len(done.stdout.splitlines()) == len(KINDS)
    again = machine.caps('hooks', 'install')
    assert (again.returncode, again.stdout) == (0, done.stdout)
    for path, kind in zip(paths, KINDS, strict=True):
        info = path.lstat()
        assert stat.S_IMODE(info.st_mode) == kind.mode
        assert (info.st_uid, info.st_gid) == (0, 0)
        assert str(machine.python) in path.read_text()
    assert len(machine.caps('hooks', 'remove').stdout.splitlines()) == len(KINDS)
    for path in paths:
        assert not [*path.parent.glob(f'*{path.name}*')]
    assert machine.caps('hooks', 'remove').stdout == ''
    assert machine.caps('hooks', 'status').returncode == 1


# The part of a hook that a shell runs, as its manager passes it on.
SHELLS = {
    'apk': lambda path: [path, 'post-commit'],
    'dnf 4': lambda path: ['sh', '-c', path.read_text().splitlines()[-1].split(':', 2)[2]],
    'dnf 5': lambda path: [
        word.replace('\0', ' ')
        for word in path.read_text()
        .splitlines()[-1]
        .split(':', 4)[4]
        .replace('\\ ', '\0')
        .split(' ')
    ],
    'pacman': lambda path: ['sh', '-c', path.read_text().split("sh -c '")[1].split("'")[0]],
}


@pytest.mark.parametrize('manager', SHELLS)
def test_hook_of_another_manager_brings_back_marks(machine, manager):
    paths = ready(machine)
    shutil.copy('/bin/true', machine.at('/opt/tool'))
    Caps(KILL).apply(machine.at('/opt/tool'))
    machine.caps('manifest', 'save', '/opt', '--into', '/etc/caps/manifest').check_returncode()
    Caps.remove(machine.at('/opt/tool'))
    machine.caps('hooks', 'install').check_returncode()
    (path,) = [path for path, kind in zip(paths, KINDS, strict=True) if kind.manager == manager]
    command = [str(word).removeprefix(str(machine.root)) for word in SHELLS[manager](path)]
    if manager == 'apk':
        machine.do(command[0], 'pre-commit').check_returncode()
        assert mark(machine.at('/opt/tool')) == ''
    done = machine.do(*command)
    assert (done.returncode, done.stdout) == (0, ''), done  # of which dnf 5 would take settings
    assert mark(machine.at('/opt/tool')) == KILL
    Caps.remove(machine.at('/opt/tool'))
    os.chown(machine.at('/opt/tool'), 1, 1)
    assert machine.do(*command).returncode == 0
    assert 'belongs to daemon' in machine.do(*command).stderr
    shutil.rmtree(machine.at('/opt/caps-tests'))
    assert machine.do(*command).returncode == 0


def test_path_unit_is_written_where_there_is_no_other_way(machine):
    require(shutil.which('systemctl'), 'systemd')
    for kind in KINDS:
        shutil.rmtree(machine.at(kind.path).parent, ignore_errors=True)
    (done := machine.caps('hooks', 'install')).check_returncode()
    assert [line.split()[0] for line in done.stdout.splitlines()] == ['systemd', 'systemd']
    wanted = machine.at('/etc/systemd/system/multi-user.target.wants/caps-hooks.path')
    assert wanted.is_symlink()
    if machine.at('/usr/bin/systemd-analyze').exists():
        verified = machine.do('systemd-analyze', 'verify', *(kind.path for kind in SYSTEMD))
        assert 'caps-hooks' not in verified.stderr, verified.stderr
    machine.caps('hooks', 'remove').check_returncode()
    assert not wanted.is_symlink()
    assert not [kind for kind in SYSTEMD if machine.at(kind.path).exists()]


# ---- Who else could come in ----


def owned(path):
    return lambda machine, uid: os.chown(machine.at(path), uid, uid)


def foreign(machine, uid):
    machine.at(DPKG).write_text('post-invoke=true\n')


def linked(machine, uid):
    machine.at('/etc/secret').write_text('# Written by caps hooks install for /opt.\n')
    machine.at(APT).symlink_to('/etc/secret')


def planted(machine, uid):
    path = packages(machine) / 'evil.pth'
    path.write_text('import os\n')
    os.chown(path, uid, uid)


def opened(path, mode):
    return lambda machine, uid: machine.at(path).chmod(mode)


def in_a_strange_place(machine, uid):
    machine.python = Path('/opt/a place/bin/python')
    machine.at('/opt/caps-tests').rename(machine.at('/opt/a place'))
    machine.caps = lambda *words: machine.do(machine.python, '-I', '-m', 'caps', *words)


REFUSED = {
    'an environment of theirs': (owned('/opt/caps-tests'), 'belongs to uid'),
    'a bin of theirs': (owned('/opt/caps-tests/bin'), 'belongs to uid'),
    'settings of theirs': (owned('/opt/caps-tests/pyvenv.cfg'), 'can change /opt'),
    'code of theirs': (
        lambda machine, uid: os.chown(packages(machine) / 'caps/text.py', uid, uid),
        'can change /opt',
    ),
    'a path file of theirs': (planted, 'evil.pth'),
    'a directory that all can write': (opened('/opt/caps-tests/lib', 0o777), 'can write to'),
    'hooks that all can write': (opened('/etc/apt/apt.conf.d', 0o1777), 'can write to'),
    'hooks of theirs': (owned('/etc/dpkg/dpkg.cfg.d'), 'belongs to uid'),
    'another file there': (foreign, f'{DPKG} is not from caps: move it away'),
    'a link there': (linked, f'{APT} is not from caps: move it away'),
    'a pipe there': (lambda machine, uid: os.mkfifo(machine.at(APT)), 'is not from caps'),
    'a name that a shell reads otherwise': (in_a_strange_place, 'has characters'),
}


@pytest.mark.parametrize(('spoil', 'reason'), REFUSED.values(), ids=REFUSED)
def test_nothing_is_written_by_which_others_could_come_in(machine, accounts, spoil, reason):
    require(machine.at('/etc/apt').exists(), 'apt')
    spoil(machine, accounts.attacker.uid)
    before = {path: machine.at(path).read_bytes() for path in (DPKG,) if machine.at(path).exists()}
    done = machine.caps('hooks', 'install')
    assert done.returncode == 1
    assert reason in done.stderr
    assert {path: machine.at(path).read_bytes() for path in before} == before
    secret = machine.at('/etc/secret')
    if secret.exists():
        machine.caps('hooks', 'remove')
        assert secret.read_text().startswith('# Written')


def test_hook_whose_python_others_can_change_is_stale(machine, accounts):
    machine.caps('hooks', 'install').check_returncode()
    assert machine.caps('hooks', 'status').returncode == 0
    os.chown(machine.at('/opt/caps-tests'), accounts.attacker.uid, -1)
    done = machine.do('/usr/bin/env', '-C', '/', machine.python, '-Im', 'caps', 'hooks', 'status')
    assert done.returncode == 1
    assert f'{DPKG}: /opt/caps-tests belongs to uid {accounts.attacker.uid}' in done.stderr


# ---- run ----


def test_what_waits_for_ever_is_ended(scene, monkeypatch):
    waiting = scene / 'python'
    waiting.write_text('#!/bin/sh\nsleep 1000\n')
    waiting.chmod(0o755)
    monkeypatch.setattr(hooks.sys, 'executable', str(waiting))
    monkeypatch.setattr(hooks, 'SECONDS', 0.2)
    monkeypatch.setattr(hooks, 'places', lambda: ['/etc/caps/manifest'])
    assert {(status, 'has not ended' in text) for status, text in after_packages()} == {(1, True)}


def test_account_that_is_not_root_runs_nothing(machine, accounts):
    machine.at('/etc/caps/manifest').write_text('nonsense\n')
    assert machine.caps('hooks', 'run').returncode == 1
    setpriv = ['setpriv', '--reuid', accounts.owner.uid, '--clear-groups']
    done = machine.do(*setpriv, machine.python, '-I', '-m', 'caps', 'hooks', 'run')
    assert (done.returncode, done.stdout + done.stderr) == (0, '')
    for verb in 'install', 'remove':
        done = machine.do(*setpriv, machine.python, '-I', '-m', 'caps', 'hooks', verb)
        assert (done.returncode, done.stderr) == (1, 'caps: this needs root: run it with sudo\n')
