"""What the tests stand on: real accounts, a directory that all can read, an installed ppy."""

import functools
import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

import caps
from caps.install import Installation, install, remove

ROOT = Path(__file__).parent.parent
MUST_RUN = os.environ.get('CAPS_MUST_RUN') == '1'
SOAK = 10 if os.environ.get('CAPS_SOAK') == '1' else 1  # how many times as many tries

needs = pytest.mark.needs
# What it takes to make accounts, mark files and start programs as somebody else.
needs_root = needs(
    'cap_chown', 'cap_dac_override', 'cap_fowner', 'cap_setfcap', 'cap_setgid', 'cap_setuid'
)


def pytest_runtest_setup(item):
    wanted = {name for mark in item.iter_markers('needs') for name in mark.args}
    missing = caps.CapSet(wanted) - caps.Caps.from_process().effective
    if missing:
        (pytest.fail if MUST_RUN else pytest.skip)(f'needs {missing}')


def require(found, package):
    """Go on only where a program or a module has been found; its package is what to install."""
    if not found:
        (pytest.fail if MUST_RUN else pytest.skip)(f'needs {package}')


def run(*command, account=None, **options):
    """A command's result as text, as another account where one is given."""
    if account:
        options |= {'user': account.uid, 'group': account.gid, 'extra_groups': []}
    options = {'capture_output': True, 'text': True, 'timeout': 60} | options
    return subprocess.run([str(word) for word in command], **options)


def python(code, *arguments, **options):
    """Run code in a child, since what it does to its process cannot be undone; its output."""
    result = run(sys.executable, '-c', code, *arguments, **options)
    assert result.returncode == 0, result.stderr
    return result.stdout


def make_venv(python, directory, *options):
    """A virtual environment without pip, which is made at once."""
    run(python, '-m', 'venv', '--without-pip', *options, directory, check=True)
    return directory


def pip(venv, *arguments, **options):
    """Our own pip, on another environment."""
    command = [sys.executable, '-m', 'pip', '--quiet', '--python', venv / 'bin' / 'python']
    result = run(*command, *arguments, **{'timeout': 300} | options)
    assert result.returncode == 0, result.stderr


@dataclass
class Account:
    name: str
    uid: int
    gid: int


@pytest.fixture(scope='session')
def accounts():
    """Two accounts: a owns scripts, b starts and attacks them."""
    made = SimpleNamespace()
    names = {letter: f'caps-{letter}-{os.getpid()}' for letter in 'ab'}
    try:
        for letter, name in names.items():
            subprocess.run(['useradd', '--no-create-home', '--user-group', name], check=True)
            entry = pwd.getpwnam(name)
            setattr(made, letter, Account(name, entry.pw_uid, entry.pw_gid))
        yield made
    finally:
        for name in names.values():
            subprocess.run(['userdel', '--force', name], check=True)


@pytest.fixture(scope='session')
def world():
    """A directory of root's that every account can read, on a mount that honours set-uid."""
    path = Path(tempfile.mkdtemp(prefix='caps-tests-', dir='/var/lib'))
    path.chmod(0o755)
    assert not os.statvfs(path).f_flag & os.ST_NOSUID, f'{path} is on a nosuid mount'
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope='session')
def wheel():
    wheels = sorted((ROOT / 'build' / 'wheel').glob('*.whl'), key=os.path.getmtime)
    assert wheels, "no wheel in build/wheel: start the tests with 'make test'"
    return wheels[-1]


@pytest.fixture(scope='session')
def released():
    """The wheel as it would be released, beside its sdist."""
    result = run('make', 'dist', cwd=ROOT, timeout=300)
    assert result.returncode == 0, result.stderr
    (wheel,) = (ROOT / 'dist').glob('*.whl')
    return wheel


@pytest.fixture(scope='session')
def system_venv(world, wheel):
    """A virtual environment of the system's Python with our wheel, as a user would make it."""
    venv = world / 'venv'
    make_venv('/usr/bin/python3', venv)
    pip(venv, 'install', '--no-index', '--no-deps', wheel)
    return venv


@dataclass
class Ppy:
    """An installed ppy; run() starts a script as an account."""

    mode: str
    installed: Installation
    naive = False

    @property
    def path(self):
        return Path(self.installed.ppy)

    def run(self, script, *arguments, account=None, **options):
        return run(self.path, script, *arguments, account=account, **options)

    def report(self, script, *arguments, account=None, **options):
        """What a script made of REPORT says about its process."""
        result = self.run(script, *arguments, account=account, **options)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)


class Naive(Ppy):
    """The stand-in of tests/naive.c, which ppy would be without its protections."""

    naive = True

    @property
    def path(self):
        return self.installed / 'naive'


MODES = {'file-capabilities': {}, 'set-uid': {'setuid': True}}
INTERPRETERS = {'python': '/usr/bin/python3', 'bash': '/bin/bash', 'sh': '/bin/sh'}


def make_launcher(mode, program, prefix, **options):
    """ppy installed in a mode, or the naive one, for an interpreter of the system."""
    if mode != 'naive':
        return Ppy(mode, install(program, prefix, **MODES[mode], **options))
    prefix.mkdir(0o755)
    naive = Naive(mode, prefix)
    run('cc', '-fno-builtin', '-o', naive.path, ROOT / 'tests/naive.c', '-lcap', check=True)
    naive.path.chmod(0o4755)
    (prefix / 'interpreter').symlink_to(program)
    return naive


@pytest.fixture(scope='session')
def launch_under(world):
    """A function from a mode and an interpreter's name to a launcher, each made once."""

    @functools.cache
    def get(mode, interpreter):
        prefix = world / f'attacked-{mode}-{interpreter}'
        return make_launcher(mode, INTERPRETERS[interpreter], prefix)

    return get


@pytest.fixture(params=['naive', *MODES])
def launchers(request, launch_under):
    """A function from an interpreter's name to a launcher: every attack is tried on three."""
    return functools.partial(launch_under, request.param)


@pytest.fixture(scope='session', params=MODES)
def ppy(request, world, system_venv):
    prefix = world / request.param
    installed = install(str(system_venv / 'bin' / 'python'), str(prefix), **MODES[request.param])
    yield Ppy(request.param, installed)
    remove(str(prefix))


# A script that says what it is; its first line is for the shebang test.
REPORT = """\
import json, os, sys
status = dict(line.split(':\\t', 1) for line in open('/proc/self/status') if ':\\t' in line)
json.dump({
    'argv': sys.argv, 'executable': sys.executable, 'file': __file__, 'path0': sys.path[0],
    'uid': os.getresuid(), 'gid': os.getresgid(), 'groups': os.getgroups(),
    'environ': dict(os.environ), 'umask': os.umask(0o77), 'cwd': os.getcwd(),
    'descriptors': sorted(int(name) for name in os.listdir('/proc/self/fd'))[:-1],
    'prefix': sys.prefix,
    'status': {name: value.strip() for name, value in status.items()},
    **{short: int(status[name], 16) for short, name in {
        'inheritable': 'CapInh', 'permitted': 'CapPrm', 'effective': 'CapEff',
        'bounding': 'CapBnd', 'ambient': 'CapAmb'}.items()},
}, sys.stdout)
"""


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

    def make(text=REPORT, mark='=', *, name='script.py', owner=accounts.a, group=None, mode=0o755):
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
    """A directory of b's own, from which he attacks."""
    path = scene / 'den'
    path.mkdir()
    os.chown(path, accounts.b.uid, accounts.b.gid)
    path.chmod(0o755)
    return path


@pytest.fixture
def loot(scene, accounts):
    """A file that is there only if the attack was won: none but a and root can make it."""
    path = scene / 'vault'
    path.mkdir()
    os.chown(path, accounts.a.uid, accounts.a.gid)
    path.chmod(0o755)
    return path / 'loot'


@contextmanager
def sysctl(path, value):
    """A setting of the kernel, for a while."""
    file = Path('/proc/sys', path)
    before = file.read_text()
    try:
        file.write_text(value)
        yield
    finally:
        file.write_text(before)


@pytest.fixture
def hard_links():
    """Anybody may make a hard link of anything, as before Linux 3.6."""
    with sysctl('fs/protected_hardlinks', '0'):
        yield


@pytest.fixture
def core_files():
    """A program that crashes leaves its memory where it is working."""
    with sysctl('kernel/core_pattern', 'core'), sysctl('kernel/core_uses_pid', '0'):
        yield


@pytest.fixture
def few_keys():
    """An account may have few keys."""
    with sysctl('kernel/keys/maxkeys', '15'):
        yield
