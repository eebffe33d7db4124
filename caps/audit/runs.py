"""One run of a command: from putting things back, to its end and what it was refused."""

from __future__ import annotations

import select
import time
from dataclasses import dataclass

from caps import CapSet
from caps.audit.commands import Today
from caps.audit.keeper import Keeper
from caps.audit.tracing import Tracer
from caps.audit.types import AuditError, Run

DEADLINE = 600.0  # seconds for a command that is to end


@dataclass(frozen=True)
class Options:
    """How a command is run again and again.

    from_all: begin with all capabilities, not with none
    seconds: a daemon has done its work when it still runs after them; None for no daemon
    ready: a shell command that succeeds when the daemon is ready
    before: a shell command that puts things back before each run
    ppy: the launcher that runs the command, which is a script
    deadline: seconds that a command which is no daemon, ready and before may take
    """

    from_all: bool = False
    seconds: float | None = None
    ready: str | None = None
    before: str | None = None
    ppy: str | None = None
    deadline: float = DEADLINE


class Around:
    """What is run before each run, or asks whether it is ready, in a keeper of its own.

    words: a command of the shell, run as this account; None where there is none
    seconds: that it may take
    What it leaves in the background is ended when it is run again, and at the end of all runs.
    """

    def __init__(self, words: str | None = None, seconds: float = DEADLINE) -> None:
        self._keeper = words and Keeper(Today(['/bin/sh', '-c', words], None))
        self._seconds = seconds
        self._is_started = False
        self.said = ''

    def succeeds(self) -> bool:
        """Whether it does, in time; also where there is none. If not, `said` is what it printed."""
        if not self._keeper:
            return True
        self._stop(self._keeper)
        self._keeper.start(CapSet())
        self._is_started = True
        self._keeper.go()
        is_over = wait(self._keeper, None, time.monotonic() + self._seconds)
        if is_over and self._keeper.end()[0] == 0:
            return True
        self.said = self._stop(self._keeper)
        return False

    def _stop(self, keeper: Keeper) -> str:
        said = keeper.stop()[1] if self._is_started else ''
        self._is_started = False
        return said

    def __enter__(self) -> Around:
        return self

    def __exit__(self, *_: object) -> None:
        if self._keeper:
            self._keeper.close()


@dataclass
class Runner:
    """Runs a command as options say, and observes it where there is a tracer."""

    keeper: Keeper
    tracer: Tracer | None
    skipped: int
    options: Options
    before: Around
    ready: Around

    def run(self, caps: CapSet) -> Run:
        """One run with these capabilities."""
        if not self.before.succeeds():
            failed = f'the command before each run failed: {self.options.before}'
            said = self.before.said.strip()
            raise AuditError(f'{failed}; it said: {said.splitlines()[-1]}' if said else failed)
        process = self.keeper.start(caps)
        if not self.tracer:
            status, fault, said = self._to_the_end()
            return Run(caps, status, self._is_done(status, fault), said=said, fault=fault)
        self.tracer.start()
        try:
            status, fault, said = self._to_the_end()
        finally:
            records, lost = self.tracer.stop(process)
        seen = self.tracer.of(records, process, self.skipped)
        is_done = self._is_done(status, fault)
        return Run(caps, status, is_done, seen.calls, seen.granted, lost, said, fault)

    def _is_done(self, status: int | None, fault: str) -> bool:
        return not fault if self.options.seconds else status == 0

    def _to_the_end(self) -> tuple[int | None, str, str]:
        """Its status, None where it still ran; what a daemon did not do; and what it printed."""
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
            return status, '', self.keeper.stop()[1]
        if status or not others:
            return status, self._too_early(), self.keeper.stop()[1]
        self._wait(end)  # it went to the background
        return self._daemon(status)

    def _too_early(self) -> str:
        return f'but was to run for {self.options.seconds:g} s'

    def _daemon(self, status: int | None) -> tuple[int | None, str, str]:
        """The same of a daemon whose time is over; its first process may have ended."""
        is_ready = self.ready.succeeds()
        others, said = self.keeper.stop()
        if status is not None and not others:
            return status, self._too_early(), said
        return None, '' if is_ready else 'but --ready failed', said

    def _wait(self, end: float) -> bool:
        return wait(self.keeper, self.tracer, end)


def wait(keeper: Keeper, tracer: Tracer | None, end: float) -> bool:
    """Take what is recorded until the keeper says that the command has ended, or until a time.

    Returns whether the keeper said so.
    """
    poll = select.poll()
    poll.register(keeper, select.POLLIN)
    for fd in tracer.readable if tracer else ():
        poll.register(fd, select.POLLIN)
    while (left := end - time.monotonic()) > 0:
        ready = {fd for fd, _ in poll.poll(min(left, 3600) * 1000)}
        if keeper.fileno() in ready:
            return True
        if ready and tracer:
            tracer.drain()
    return False
