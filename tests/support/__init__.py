"""What all tests stand on: what they need, and how they start a program."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from support.accounts import Account
from support.children.inside import PATIENCE

ROOT = Path(__file__).parent.parent.parent
SUPPORT = ROOT / 'tests' / 'support'
CHILDREN = SUPPORT / 'children'
MUST_RUN = os.environ.get('CAPS_MUST_RUN') == '1'
os.environ['PATH'] += ':/usr/sbin:/sbin'  # where Debian keeps getpcaps and debugfs
SOAK = 10 if os.environ.get('CAPS_SOAK') == '1' else 1  # how many times as many tries
FEW = (
    os.environ.get('CAPS_FEW') == '1'
)  # where the tests are run again, and what may differ is little

needs = pytest.mark.needs
# What it takes to make accounts, mark files and start programs as somebody else.
needs_root = needs(
    'cap_chown', 'cap_dac_override', 'cap_fowner', 'cap_setfcap', 'cap_setgid', 'cap_setuid'
)


def require(found: object, package: str) -> None:
    """Go on only where a program or a module has been found; its package is what to install."""
    if not found:
        (pytest.fail if MUST_RUN else pytest.skip)(f'needs {package}')


def examples(count: int) -> int:
    """How many examples a property is tried on, of as many as are usual."""
    return max(count // 20, 5) if FEW else count * SOAK


def run(
    *command: object, account: Account | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """A command's result as text, as another account where one is given."""
    if account:
        options |= {'user': account.uid, 'group': account.gid, 'extra_groups': []}
    options = {'capture_output': True, 'text': True, 'timeout': PATIENCE} | options
    return subprocess.run([str(word) for word in command], **options)


def program(name: str) -> str:
    """The text of a program of tests/support/children, for who cannot read the file."""
    return (CHILDREN / f'{name}.py').read_text()


def older_kernel(number: int, answer: str = 'ENOSYS') -> list[str]:
    """What a command is to begin with to run without a system call, as on an older kernel."""
    return [sys.executable, str(CHILDREN / 'older_kernel.py'), str(number), answer]


def python(code: str, *arguments: object, prefix: Sequence[str] = (), **options: Any) -> str:
    """Run code in a child, since what it does to its process cannot be undone; its output.

    prefix: a command that starts the child.
    """
    result = run(*prefix, sys.executable, '-c', code, *arguments, **options)
    assert result.returncode == 0, result.stderr
    return result.stdout
