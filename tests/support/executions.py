"""An execution that is explained and then happens, in a process that is in a certain state."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from caps.explain import Advice, Explanation, explain
from caps.system.types import SETS
from support import CHILDREN
from support.accounts import Account
from support.children.inside import PATIENCE

SHORT = {
    'inheritable': 'CapInh', 'permitted': 'CapPrm', 'effective': 'CapEff', 'ambient': 'CapAmb',
    'bounding': 'CapBnd',
}  # fmt: skip


@contextmanager
def waiting(
    path: Path | str, *arguments: str, setup: str = '', **options: Any
) -> Iterator['subprocess.Popen[str]']:
    """A process that executes a file as soon as it is sent a line."""
    command = [sys.executable, str(CHILDREN / 'executes.py'), setup, str(path), *arguments]
    pipes = dict.fromkeys(('stdin', 'stdout', 'stderr'), subprocess.PIPE)
    with subprocess.Popen(command, text=True, **(pipes | options)) as child:
        assert child.stdout
        assert child.stderr
        assert child.stdout.readline() == 'ready\n', child.stderr.read()
        yield child


def happens(
    path: Path | str, setup: str = '', **options: Any
) -> tuple[Explanation, dict[str, str]]:
    """What is said of an execution, and what is seen; they must be the same."""
    with waiting(path, setup=setup, **options) as child:
        said = explain(path, pid=child.pid)
        output, errors = child.communicate('\n', timeout=PATIENCE)
    lines = (line.split(':', 1) for line in output.splitlines() if ':' in line)
    seen = {name: value.strip() for name, value in lines}
    if said.error:
        assert seen.get('Errno') or child.returncode == 126, (said.error, output, errors)
    elif 'Errno' in seen or child.returncode:
        seen['Failure'] = errors or output
    else:
        assert said.after
        masks = {name: int(seen[short], 16) for name, short in SHORT.items()}
        assert {name: getattr(said.after, name).mask for name in SETS} == masks
        ids = said.after.uid, said.after.gid
        assert [number for each in ids for number in (each.real, each.effective, each.saved)] == [
            int(number) for name in ('Uid', 'Gid') for number in seen[name].split()[:3]
        ]
        assert said.steps[-1].outcome.secure == (seen['Secure'] == '1')
    return said, seen


def advice(said: Explanation, rule: str) -> Advice:
    """The advice for a rule; there must be just one."""
    (advice,) = [advice for advice in said.advice if advice.rule == rule]
    return advice


def follow(said: Explanation, rule: str) -> None:
    """Do what is advised."""
    command = advice(said, rule).command
    assert command
    subprocess.run(command, shell=True, check=True, capture_output=True)


def as_account(account: Account) -> str:
    return f'become({account.uid}, {account.gid})\n'
