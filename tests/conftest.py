"""What the tests stand on: real accounts, a directory that all can read, an installed ppy."""

import functools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, settings

import caps
from caps import _caps
from caps.admin.ppy import install, remove
from caps.admin.registry import PLACE
from support import MUST_RUN, ROOT, examples, run
from support.accounts import Account
from support.launchers import (
    INTERPRETERS,
    MODES,
    REPORT,
    Ppy,
    build_launchers,
    make_launcher,
)
from support.machine import alone
from support.venvs import make_venv, pip

CLONE_NEWNS = 0x20000

# However busy the machine is.
settings.register_profile(
    'caps',
    max_examples=examples(100),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile('caps')


def pytest_configure(config):
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # in the background of a shell
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if 'PYTEST_XDIST_WORKER' in os.environ:  # which has a thread that waits for orders
        may_fork = 'ignore:.*use of fork(pty)?.. may lead to deadlocks:DeprecationWarning'
        config.addinivalue_line('filterwarnings', may_fork)


# The order in which workers of pytest-xdist take the files: what is long comes first.
ROOMS = 'project', 'ppy', 'admin', 'audit', 'library', 'explain', 'cli'


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: ROOMS.index(item.path.relative_to(ROOT / 'tests').parts[0]))


# What tests need of the machine besides capabilities, and what fails where it is not there.
MACHINE = {'user_namespaces': ['unshare', '--user', 'true'], 'loop_devices': ['losetup', '-f']}


@functools.cache
def has(name):
    """Whether the machine has what a test needs besides capabilities."""
    return run(*MACHINE[name]).returncode == 0


def pytest_runtest_setup(item):
    wanted = {name for mark in item.iter_markers('needs') for name in mark.args}
    machine = wanted & MACHINE.keys()
    missing = [*(caps.CapSet(wanted - machine) - caps.Caps.from_process().effective)]
    missing += [name for name in sorted(machine) if not has(name)]
    if missing:
        (pytest.fail if MUST_RUN else pytest.skip)(f'needs {",".join(missing)}')


@pytest.fixture(scope='session', autouse=True)
def registry():
    """The place of what caps has made here, which is nobody else's while tests run."""
    place = Path(PLACE)
    if not has_own_mounts():
        was_there = place.exists()
        yield place
        if not was_there and not os.geteuid():
            shutil.rmtree(place, ignore_errors=True)
        return
    in_use = marker_in(place)
    run('mount', '-t', 'tmpfs', '-o', 'mode=700', 'tmpfs', place, check=True)
    yield place
    run('umount', '--lazy', place, check=True)  # a process that ends late may still be in it
    in_use.unlink()
    with suppress(OSError):  # other tests mount theirs there, or it lists something
        place.rmdir()


def has_own_mounts():
    """Whether mounts of this process are its own from now on."""
    if not caps.CapSet('cap_sys_admin,cap_dac_override') <= caps.Caps.from_process().effective:
        return False
    assert _caps.system_calls([(_caps.UNSHARE, CLONE_NEWNS)], False) is None
    is_private = run('mount', '--make-rprivate', '/').returncode == 0
    # In a chroot, which need not be where something is mounted, that may fail and be so already.
    return is_private or 'shared:' not in Path('/proc/self/mountinfo').read_text()


def marker_in(place):
    """A file below the mount, which ends where somebody elsewhere can remove its directory."""
    marker = place / f'.caps-tests-{os.getpid()}'
    while True:
        place.mkdir(0o700, exist_ok=True)
        with suppress(FileNotFoundError):
            marker.touch()
            return marker


@pytest.fixture(scope='session')
def accounts():
    """Two accounts: the owner of scripts, and the attacker, who starts them."""
    made = SimpleNamespace()
    names = {role: f'caps-tests-{role}-{os.getpid()}' for role in ('owner', 'attacker')}
    try:
        for role, name in names.items():
            with alone():
                subprocess.run(['useradd', '--no-create-home', '--user-group', name], check=True)
            entry = pwd.getpwnam(name)
            setattr(made, role, Account(name, entry.pw_uid, entry.pw_gid))
        yield made
    finally:
        for name in names.values():
            with alone():
                subprocess.run(['userdel', '--force', name], check=True)


@pytest.fixture(scope='session')
def world():
    """A directory of root's that every account can read, on a mount that honours set-uid.

    Where an ordinary user tests, it is the user's: what needs more is skipped.
    """
    is_root = os.access('/var/lib', os.W_OK)
    path = Path(tempfile.mkdtemp(prefix='caps-tests-', dir='/var/lib' if is_root else None))
    path.chmod(0o755)
    if is_root:
        assert not os.statvfs(path).f_flag & os.ST_NOSUID, f'{path} is on a nosuid mount'
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope='session')
def wheel():
    wheels = sorted((ROOT / 'build' / 'wheel').glob('*.whl'), key=os.path.getmtime)
    assert wheels, "no wheel in build/wheel: start the tests with 'make test'"
    return wheels[-1]


@pytest.fixture(scope='session')
def system_venv(world, wheel):
    """A virtual environment of the system's Python with our wheel, as a user would make it."""
    venv = world / 'venv'
    make_venv('/usr/bin/python3', venv)
    pip(venv, 'install', '--no-index', '--no-deps', wheel)
    return venv


@pytest.fixture(scope='session')
def launch_under(world):
    """A function from a mode and an interpreter's name to a launcher, each made once."""

    @functools.cache
    def get(mode, interpreter):
        prefix = world / f'attacked-{mode}-{interpreter}'
        return make_launcher(mode, INTERPRETERS[interpreter], prefix)

    return get


@pytest.fixture(scope='session', params=MODES)
def ppy(request, world, system_venv):
    """In one mode as it is built, in the other as the default compiler builds it, without musl."""
    prefix = world / request.param
    with pytest.MonkeyPatch.context() as patch:
        if request.param == 'set-uid':
            build_launchers(world / 'built')
            patch.setattr('caps.admin.installation.TEMPLATES', world / 'built' / 'caps')
        interpreter = str(system_venv / 'bin' / 'python')
        installed = install(interpreter, str(prefix), **MODES[request.param])
    yield Ppy(request.param, installed)
    remove(str(prefix))


@pytest.fixture
def scene(world):
    """A fresh directory of root's below `world`, for one test."""
    path = Path(tempfile.mkdtemp(prefix='test-', dir=world))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def script(scene, accounts):
    """A function that makes a script: its text, owner, mode and capabilities (None: unmarked)."""

    def make(
        text=REPORT, mark='=', *, name='script.py', owner=accounts.owner, group=None, mode=0o755
    ):
        path = scene / name
        path.write_text(text)
        os.chown(path, owner.uid, (group or owner).gid)
        path.chmod(mode)
        if mark is not None:
            caps.Caps(mark).apply(path)
        return path

    return make


@pytest.fixture
def den(scene, accounts):
    """A directory of the attacker's own."""
    path = scene / 'den'
    path.mkdir()
    os.chown(path, accounts.attacker.uid, accounts.attacker.gid)
    path.chmod(0o755)
    return path
