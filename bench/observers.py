"""What other programs say of a command's capabilities: cap-audit, bcc's capable, and strace.

Each observes one run.  The first two have to see it with every capability, and name those that
were granted, or asked for; strace sees it with none, and shows the calls that failed.
"""

import atexit
import ctypes
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from caps import CapSet
from caps.audit import Account
from caps.audit.commands import Program
from caps.audit.keeper import Keeper
from caps.audit.runs import wait
from caps.audit.setup import can_give

PATIENCE = 600.0  # seconds
PR_SET_NAME = 15
OURS = 'caps-bench'  # what a process is called before it is the command
CAPABLE = 'capable-bpfcc', 'capable'
UNIT = """\
[Service]
User={user}
AmbientCapabilities={everything}
CapabilityBoundingSet={everything}
NoNewPrivileges=yes
"""


class Observed(NamedTuple):
    """What a program said of a command: capabilities, or calls that failed."""

    capabilities: CapSet | None
    calls: Sequence[str] = ()


Observer = Callable[[Sequence[str], Account, float | None], Observed]


class AbsentError(Exception):
    """Why an observer does not run here."""


def failed(said: str) -> AbsentError:
    """Why an observer that is built on kprobes does not run, by the last line of what it said."""
    if not os.path.exists('/sys/bus/event_source/devices/kprobe'):
        return AbsentError('this kernel has no kprobes')
    return AbsentError(said.strip().splitlines()[-1])


@contextmanager
def run_with(
    caps: CapSet, argv: Sequence[str], account: Account, seconds: float | None
) -> Iterator[tuple[int, Callable[[], None]]]:
    """A process that is about to be a command, as in a run of an audit; and what has it run."""

    def go() -> None:
        keeper.go()
        wait(keeper, None, time.monotonic() + (seconds or PATIENCE))

    with Keeper(Program(argv, account)) as keeper:
        process = keeper.start(caps)
        yield process, go
        keeper.stop()


def strace() -> Observer:
    """Calls that fail for lack of permission, without any capability."""
    path = shutil.which('strace')
    if not path:
        raise AbsentError('strace is not installed')

    def observe(argv: Sequence[str], account: Account, seconds: float | None) -> Observed:
        with (
            tempfile.NamedTemporaryFile('r') as file,
            run_with(CapSet(), argv, account, seconds) as (process, go),
        ):
            command = [path, '-f', '-qq', '-o', file.name, '-p', str(process)]
            tracing = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            traced = Path(f'/proc/{process}/status')
            while f'TracerPid:\t{tracing.pid}\n' not in traced.read_text():
                time.sleep(0.01)
            go()
            tracing.terminate()
            tracing.wait()
            said = file.read()
        _, _, after = said.partition('execve(')  # of the shell, whose own calls are few
        failed = re.findall(r'^\d+ +(?:<... )?(\w+).* = -1 (EPERM|EACCES) ', after, re.MULTILINE)
        return Observed(None, [*dict.fromkeys(f'{call} {error}' for call, error in failed)])

    observe([shutil.which('true') or 'true'], Account.of('nobody'), None)
    return observe


def cap_audit() -> Observer:
    """The capabilities that cap-audit of libcap-ng calls required."""
    path = os.environ.get('CAP_AUDIT') or shutil.which('cap-audit')
    if not path:
        raise AbsentError('cap-audit is not installed')

    def observe(argv: Sequence[str], account: Account, seconds: float | None) -> Observed:
        unit = UNIT.format(user=account.name, everything=str(can_give()).replace(',', ' ').upper())
        limited = ['timeout', '--signal=INT', str(seconds), *argv] if seconds else argv
        with tempfile.NamedTemporaryFile('w', suffix='.service') as file:
            file.write(unit)
            file.flush()
            command = [path, '--json', '--service', file.name, '--', *limited]
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                timeout=PATIENCE, env=account.environment(),
            )  # fmt: skip
        _, brace, document = done.stdout.partition('{\n  "application"')
        if not brace:
            raise failed(done.stderr)
        required = json.loads(brace + document)['required_capabilities']
        return Observed(CapSet(each['name'] for each in required))

    observe([shutil.which('true') or 'true'], Account.of('nobody'), None)
    return observe


def capable() -> Observer:
    """The capabilities that bcc's capable prints, which has no results of checks."""
    path = next(filter(None, map(shutil.which, CAPABLE)), None)
    if not path:
        raise AbsentError('capable of bcc is not installed')
    # So that what the process does before it is the command can be told.
    ctypes.CDLL(None).prctl(PR_SET_NAME, OURS.encode(), 0, 0, 0)
    output = tempfile.NamedTemporaryFile('r')  # noqa: SIM115  as long as this process
    with open(output.name, 'w') as file:
        command = ['/usr/bin/python3', '-u', path]
        running = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    atexit.register(running.kill)
    said = ''
    while not re.search('^TIME ', said, re.MULTILINE):
        if running.poll() is not None:
            raise failed(said + output.read())
        time.sleep(0.1)
        said += output.read()

    def observe(argv: Sequence[str], account: Account, seconds: float | None) -> Observed:
        output.seek(0, os.SEEK_END)
        with run_with(can_give(), argv, account, seconds) as (process, go):
            go()
        time.sleep(1)  # it prints in rounds
        asked = CapSet()
        for line in output.read().splitlines():
            _, _, pid, *command, _, name, _ = line.split()
            if int(pid) >= process and command != [OURS]:  # who else asks has begun before
                asked.add(name)
        return Observed(asked)

    return observe


OBSERVERS = {'cap-audit': cap_audit, 'capable': capable, 'strace': strace}
