"""ppy's part of an explanation: how it is started, what it checks, and what it becomes."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterator
from contextlib import suppress

from caps import CapSet, SecureBits
from caps.explain.execve import Outcome, execve
from caps.explain.rules import Reason
from caps.explain.types import Check, Step
from caps.system.files import Executable, look_at_file
from caps.system.launcher import LAUNCHER_CAPS
from caps.system.path import strangers
from caps.system.records import dataclass, replace
from caps.system.types import File, Ids, Process


@dataclass(frozen=True)
class Given:
    """A ppy that is started, and its script.

    script: the file that is meant to be its script
    options: the arguments before it, which ppy takes for the script
    is_by_env: whether env(1) starts it, which the first line names
    """

    ppy: Executable
    script: Executable
    options: tuple[str, ...] = ()
    is_by_env: bool = False


def given_to_ppy(started: Executable, argument: Executable | None) -> Given | None:
    """The ppy that an execution leads to; None where it leads to none.

    started: the file that is executed.
    argument: its argument, where there is one.
    """
    script = argument
    line = None
    for member in started.chain:
        if member.record and script:
            options = (line.argument,) if line and line.argument else ()
            return Given(member, script, options)
        script, line = member, member.first_line
    members = [*started.chain]
    if len(members) > 1 and os.path.basename(members[-1].real_path) == 'env':
        return _by_env(members[-2])
    return None


def _by_env(script: Executable) -> Given | None:
    from shutil import which

    argument = (script.first_line and script.first_line.argument) or ''
    try:
        words = shlex.split(argument[2:]) if argument.startswith('-S') else [argument]
        program, *options = words
        path = program if '/' in program else which(program)
        ppy = look_at_file(path) if path else None
    except (OSError, ValueError):  # not the execution that is asked about
        return None
    return Given(ppy, script, tuple(options), True) if ppy and ppy.record else None


def own_checks(outcome: Outcome) -> Iterator[Check]:
    """The rules that ppy-check cannot judge, as it has no privilege: what ppy itself is given."""
    if outcome.process is None:
        yield Check(False, 'ppy: must be executable')
    elif missing := LAUNCHER_CAPS.permitted - outcome.process.permitted:
        yield Check(False, f'{missing}: must have been given to ppy')


def checks_of(given: Given, process: Process, is_other: bool) -> Iterator[Check]:
    """What the ppy-check of a ppy says; it is started as the user where that is possible."""
    from caps.system.run import Account, RunError, run_as

    ppy, script = given.ppy, given.script
    if given.options:
        text = f'{script.path}: its first line must be #!{ppy.path} alone, since ppy takes '
        yield Check(False, f'{text}{given.options[0]} for the script')
        return
    program = f'{ppy.real_path}-check'
    if not ppy.has_path or not _belongs_to_root(program):
        yield Check(False, f'{program}: must be there, and nobody but root may change it')
        return
    account = None
    if is_other and os.geteuid() == 0:
        account = Account(process.uid.real, process.gid.real, process.groups)
    try:
        done = run_as([program, '--tsv', os.path.abspath(script.path)], account)
    except (OSError, RunError) as error:
        yield Check(False, f'{program}: must run, and not fail: {error}')
        return
    said = []
    for line in os.fsdecode(done.output).splitlines():
        verdict, *fields = line.split('\t')
        if len(fields) == 3:
            subject, rule, fix = fields
            said.append(Check(verdict == 'ok', f'{subject}: {rule}', fix or None))
    yield from said
    if not said or (done.status and all(check.holds for check in said)):
        yield Check(False, f'{program}: must print the rules, and not exit with {done.status}')
    marked = script.file.caps.inheritable if script.file.caps else CapSet()
    if missing := marked - process.bounding:
        yield Check(False, f'{missing}: must be in the bounding set of the process')


def _belongs_to_root(path: str) -> bool:
    """Whether nobody but root can have put a program there, so that it may be run."""
    with suppress(OSError):
        info = os.lstat(path)
        if stat.S_ISREG(info.st_mode) and not info.st_uid and not info.st_mode & 0o022:
            return not any(strangers(os.path.dirname(path)))
    return False


def launch(outcome: Outcome, given: Given) -> Iterator[Step]:
    """What ppy makes of itself, and its execution of the capped copy."""
    before, ppy, script, record = outcome.process, given.ppy, given.script, given.ppy.record
    assert before  # else a check does not hold
    assert record
    capped = look_at_file(record.capped)
    state = ppy_state(before, script.file)
    reasons = (
        Reason(
            'ppy-ids', 'ids', f"ppy becomes the script's owner, user {script.file.uid} (ppy(8))"
        ),
        Reason('ppy-inheritable', 'inheritable', "ppy takes the script's inheritable set (ppy(8))"),
        Reason('ppy-permitted', 'permitted', 'ppy keeps what it needs to execute the capped copy'),
        Reason('ppy-effective', 'effective', 'ppy keeps what it needs to execute the capped copy'),
        Reason('ppy-ambient', 'ambient', 'ppy clears ambient (ppy(8))'),
        Reason('ppy-bounding', 'bounding', 'ppy drops the whole bounding set (ppy(8))'),
        Reason('ppy-securebits', 'securebits', 'ppy sets noroot and locks it (capabilities(7))'),
    )
    changed = Outcome(state, 0, outcome.secure, ppy.file, reasons)
    yield Step(f'{ppy.path} makes itself ready', before, changed)
    yield Step(
        f'Executing {record.capped}, the capped copy of {record.original}',
        state,
        execve(state, capped.file),
    )


def ppy_state(process: Process, script: File) -> Process:
    """What ppy makes of its process before it executes the capped copy of an interpreter.

    process: ppy as it is started.
    script: the marked script.
    Returns the state; see ppy(8).
    """
    own = CapSet('cap_dac_override')  # to execute the copy; it is gone after that
    return replace(
        process,
        effective=own,
        permitted=own,
        inheritable=script.caps.inheritable if script.caps else CapSet(),
        ambient=CapSet(),
        bounding=CapSet(),
        uid=Ids(script.uid, script.uid, script.uid),
        gid=Ids(script.gid, script.gid, script.gid),
        groups=frozenset(),
        securebits=SecureBits(['noroot', 'noroot_locked', 'keep_caps']),
    )
