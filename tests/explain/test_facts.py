"""What peers expect of execve(2), as tables of facts: each is explained, and seen to happen."""

import os

import pytest

from support import needs, needs_root
from support.executions import happens

pytestmark = [needs_root, needs('cap_net_raw', 'cap_setpcap')]
LETTERS = {'e': 'effective', 'i': 'inheritable', 'p': 'permitted', 'a': 'ambient'}


def letters(process):
    """In which sets of a process a capability is, as the kernel's own tests write it."""
    return ''.join(
        letter for letter, name in LETTERS.items() if 'cap_net_raw' in getattr(process, name)
    )


# The kernel's selftests, capabilities/test_execve.c: who executes with the capability inheritable
# (i) and ambient (a) a file of which mode and which owner, and in which sets it is afterwards.
EXECUTIONS = [
    ('root', '', 0o755, 'root', 'ep'),
    ('root', 'i', 0o755, 'root', 'eip'),
    ('root', 'ia', 0o755, 'root', 'eipa'),
    ('root', 'ia', 0o4755, 'root', 'eipa'),
    ('root', 'ia', 0o2755, 'root', 'eipa'),
    ('root', 'ia', 0o2755, 'owner', 'eip'),
    ('user', '', 0o755, 'root', ''),
    ('user', 'i', 0o755, 'root', 'i'),
    ('user', 'ia', 0o755, 'root', 'eipa'),
    ('user', 'ia', 0o2755, 'owner', 'i'),
    ('user', 'ia', 0o2755, 'root', 'i'),
    ('user', 'i', 0o4755, 'root', 'eip'),
    ('user', 'ia', 0o4755, 'root', 'eip'),
    ('user', 'ia', 0o4755, 'owner', 'i'),
]


def setup_of(account, has):
    ids = f', {account.uid}, {account.gid}' if account else ''
    return f'hold({has!r}{ids})'


@pytest.mark.parametrize(('who', 'has', 'mode', 'owner', 'after'), EXECUTIONS)
def test_execution_of_the_kernels_own_tests(program, accounts, who, has, mode, owner, after):
    path = program(name='table')
    ids = (accounts.owner.uid, accounts.owner.gid) if owner == 'owner' else (0, 0)
    os.chown(path, *ids)
    path.chmod(mode)
    account = None if who == 'root' else accounts.attacker
    said, _ = happens(path, setup_of(account, has))
    assert letters(said.after) == after


# LTP's filecaps: what a file has, what the process has inheritable, and what is given.
FILES = [
    ('cap_net_raw=', '', ''),
    ('cap_net_raw=', 'i', 'i'),
    ('cap_net_raw=p', '', 'p'),
    ('cap_net_raw=p', 'i', 'ip'),
    ('cap_net_raw=i', '', ''),
    ('cap_net_raw=i', 'i', 'ip'),
    ('cap_net_raw=ip', '', 'p'),
    ('cap_net_raw=ip', 'i', 'ip'),
    ('cap_net_raw=ep', '', 'ep'),
    ('cap_net_raw=ep', 'i', 'eip'),
    ('cap_net_raw=ei', '', ''),
    ('cap_net_raw=ei', 'i', 'eip'),
    ('cap_net_raw=eip', '', 'ep'),
    ('cap_net_raw=eip', 'i', 'eip'),
]


@pytest.mark.parametrize(('mark', 'has', 'after'), FILES)
def test_file_of_ltps_matrix(program, accounts, mark, has, after):
    said, _ = happens(program(mark), setup_of(accounts.attacker, has))
    assert letters(said.after) == after
