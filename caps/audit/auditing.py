"""An audit: the runs that a search asks for, observed, and what they prove."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from caps import CapSet
from caps.audit.commands import Function, Program, Script
from caps.audit.keeper import Keeper
from caps.audit.search import search
from caps.audit.setup import Account, can_give
from caps.audit.tracing import Tracer
from caps.audit.types import Audit, AuditError, Run
from caps.audit.verdicts import answer, judge

DEADLINE = 600.0  # seconds for a command that is to end
SETUP = CapSet('cap_setgid,cap_setuid,cap_setpcap')


@dataclass(frozen=True)
class Options:
    """How a command is run again and again.

    from_all: begin with all capabilities, not with none
    seconds: a daemon has done its work when it still runs after them; None for no daemon
    ready: a shell command that succeeds when the daemon is ready
    before: a shell command that puts things back before each run
    ppy: the launcher that runs the command, which is a script
    deadline: seconds after which a command that is no daemon should have ended
    """

    from_all: bool = False
    seconds: float | None = None
    ready: str | None = None
    before: str | None = None
    ppy: str | None = None
    deadline: float = DEADLINE


def audit(
    argv: Sequence[str], account: Account | None = None, options: Options | None = None
) -> Audit:
    """Find out which capabilities a command needs, by running it with less and more.

    argv: the words of the command
    account: who it runs as; by default who called sudo(8), or nobody, and under ppy this account
    options: how it is run
    Raises AuditError where no run can be made.
    """
    options = options or Options()
    if missing := SETUP - can_give():
        raise AuditError(f'{missing} is missing: an audit needs root')
    if options.ppy:
        account = account or Account.of(os.getuid())
        return _audit(Script(argv, account, options.ppy), argv, account, options)
    account = account or Account.usual()
    return _audit(Program(argv, account), argv, account, options)


def needs(function: Callable[[], object], user: str | int = 'nobody') -> CapSet:
    """The capabilities that a function needs, by calling it with less and more in forked children.

    function: has done its work when it returns, and not when it raises an exception
    user: the account that it is called as
    Raises AuditError where there is no answer; see capabilities(7).
    """
    if missing := SETUP - can_give():
        raise AuditError(f'{missing} is missing: an audit needs root')
    account = Account.of(user)
    name = getattr(function, '__qualname__', repr(function))
    found = _audit(Function(function, account), [name], account, Options())
    if found.needs is None:
        said = found.runs[-1].said if found.runs else ''
        raise AuditError(f'{name}: {found.reason}\n{said}'.rstrip())
    return found.needs


def _audit(
    command: Program | Function, argv: Sequence[str], account: Account, options: Options
) -> Audit:
    tracer, method = _tracer(options)
    try:
        with Keeper(command) as keeper:
            runner = _Runner(keeper, tracer, command.skipped, options)
            from_all = options.from_all or tracer is None
            found = search(runner.run, can_give(), from_all=from_all)
    finally:
        if tracer:
            tracer.close()
    verdicts = judge(found)
    needed, reason = answer(found, verdicts)
    return Audit(argv, account.name, needed, verdicts, found.runs, method, reason)


def _tracer(options: Options) -> tuple[Tracer | None, str]:
    try:
        return Tracer(refusals_only=not options.from_all), Tracer.method
    except OSError as error:
        return None, f'not traced: {error.strerror or error}'


@dataclass
class _Runner:
    keeper: Keeper
    tracer: Tracer | None
    skipped: int
    options: Options

    def run(self, caps: CapSet) -> Run:
        """One run with these capabilities."""
        if self.options.before and not _succeeds(self.options.before):
            raise AuditError(f'the command before each run failed: {self.options.before}')
        process = self.keeper.start(caps)
        if not self.tracer:
            status, is_done, said = self._to_the_end()
            return Run(caps, status, is_done, said=said)
        self.tracer.start()
        try:
            status, is_done, said = self._to_the_end()
        finally:
            records, lost = self.tracer.stop()
        seen = self.tracer.of(records, process, self.skipped)
        return Run(caps, status, is_done, seen.calls, seen.granted, lost, said)

    def _to_the_end(self) -> tuple[int | None, bool, str]:
        """Its status, None where it still ran; whether it did its work; and what it printed."""
        self.keeper.go()
        seconds = self.options.seconds
        limit = self.options.deadline if seconds is None else seconds
        end = time.monotonic() + limit
        if not self._wait(end):
            if seconds is not None:
                return self._daemon(None)
            self.keeper.stop()
            raise AuditError(f'it still runs after {limit:g} seconds: a daemon needs --for SECONDS')
        status, others = self.keeper.end()
        if seconds is None:
            return status, status == 0, self.keeper.stop()[1]
        if status or not others:
            return status, False, self.keeper.stop()[1]
        self._wait(end)  # it went to the background
        return self._daemon(status)

    def _daemon(self, status: int | None) -> tuple[int | None, bool, str]:
        """The same of a daemon whose time is over; its first process may have ended."""
        is_ready = not self.options.ready or _succeeds(self.options.ready)
        others, said = self.keeper.stop()
        if status is not None and not others:
            return status, False, said
        return None, is_ready, said

    def _wait(self, end: float) -> bool:
        """Take what is recorded until the keeper says something, or until the end."""
        poll = select.poll()
        poll.register(self.keeper, select.POLLIN)
        for fd in self.tracer.readable if self.tracer else ():
            poll.register(fd, select.POLLIN)
        while (left := end - time.monotonic()) > 0:
            ready = {fd for fd, _ in poll.poll(left * 1000)}
            if self.keeper.fileno() in ready:
                return True
            if ready and self.tracer:
                self.tracer.drain()
        return False


def _succeeds(command: str) -> bool:
    """Whether a command of the shell does, which runs as who runs this."""
    done = subprocess.run(command, shell=True, stdin=subprocess.DEVNULL, capture_output=True)
    return done.returncode == 0
