"""Attacks on ppy by real accounts: the attacker wants what is the owner's or root's.

Every attack is made on three launchers: the naive one, where it must succeed, or the test would
show nothing, and ppy in both installation modes, where it must not.
"""

import functools
import os
import secrets
from pathlib import Path

import pytest

from support import MUST_RUN, run
from support.attacks import Den
from support.children.inside import wait_for
from support.launchers import MODES
from support.machine import sysctls


@pytest.fixture(params=['naive', *MODES])
def launchers(request, launch_under):
    """A function from an interpreter's name to a launcher: every attack is tried on three."""
    return functools.partial(launch_under, request.param)


@pytest.fixture
def loot(scene, accounts):
    """A file that is there only if the attack was won: none but the owner and root can make it."""
    path = scene / 'vault'
    path.mkdir()
    os.chown(path, accounts.owner.uid, accounts.owner.gid)
    path.chmod(0o755)
    return path / 'loot'


@pytest.fixture
def hard_links():
    """Anybody may make a hard link of anything, as before Linux 3.6."""
    with sysctls({'fs/protected_hardlinks': '0'}):
        yield


@pytest.fixture
def core_files():
    """A program that crashes leaves its memory where it is working."""
    with sysctls({'kernel/core_pattern': 'core', 'kernel/core_uses_pid': '0'}):
        yield


@pytest.fixture
def core_handler():
    """The memory of a program that crashes is handed to a program of root's."""
    with sysctls({'kernel/core_pattern': '|/bin/dd of=/dev/null'}):
        yield


def count_keys(account):
    """How many keys of an account's there are; the kernel collects those without a user late."""
    for line in Path('/proc/key-users').read_text().splitlines():
        uid, _, _, quota, *_ = line.split()
        if uid == f'{account.uid}:':
            return int(quota.split('/')[0])
    return 0


@pytest.fixture
def few_keys(accounts):
    """An account may have as many keys as by default, and the attacker has none left over."""
    wait_for(lambda: count_keys(accounts.attacker) <= 4)
    with sysctls({'kernel/keys/maxkeys': '200'}):
        yield


@pytest.fixture
def nest(den, loot):
    return Den(den, loot)


@pytest.fixture
def secret(scene):
    """A file that none but root can read."""
    path = scene / 'secret'
    path.write_text(secrets.token_hex())
    path.chmod(0o600)
    return path


@pytest.fixture
def namespaces(accounts):
    """The attacker may make user namespaces."""
    if run('unshare', '-Ur', 'true', account=accounts.attacker).returncode:
        (pytest.fail if MUST_RUN else pytest.skip)('ordinary accounts cannot make user namespaces')
