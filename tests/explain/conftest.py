"""Programs to execute, which say what they have become."""

import subprocess

import pytest

from caps import Caps
from caps.admin.ppy import install, remove
from support import SUPPORT
from support.executions import as_account


@pytest.fixture(scope='session')
def probe(world):
    path = world / 'explained-probe'
    source = SUPPORT / 'execve_probe.c'
    subprocess.run(['cc', '-static', '-s', '-o', path, source], check=True)
    return path


@pytest.fixture
def program(scene, probe):
    """A function that makes a program: its capabilities, mode and name."""

    def make(mark=None, mode=0o755, name='program', directory=scene):
        path = directory / name
        path.write_bytes(probe.read_bytes())
        path.chmod(mode)
        if mark is not None:
            Caps(mark).apply(path)
        return path

    return make


@pytest.fixture
def as_attacker(accounts):
    return as_account(accounts.attacker)


@pytest.fixture
def tmpfs(scene):
    """A function that mounts a tmpfs with options."""
    mounted = []

    def mount(options):
        path = scene / 'mounted'
        path.mkdir()
        subprocess.run(
            ['mount', '-t', 'tmpfs', '-o', f'mode=755,{options}', 'none', path], check=True
        )
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(['umount', path], check=True)


@pytest.fixture
def probing_ppy(scene, program):
    """A ppy whose interpreter is a program that says what it is."""
    prefix = scene / 'prefix'
    yield install(program(name='interpreter'), prefix)
    remove(prefix)
