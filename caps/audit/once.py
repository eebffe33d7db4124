"""One run of a command in today's state: what it is refused, and what would help."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress

from caps import Caps, CapSet
from caps.audit.auditing import why_untraced
from caps.audit.commands import Today
from caps.audit.keeper import Keeper
from caps.audit.records import Seen
from caps.audit.runs import wait
from caps.audit.setup import Account
from caps.audit.tracing import Tracer
from caps.audit.types import AuditError, Observation, Refusal


def once(
    argv: Sequence[str], account: Account | None = None, seconds: float = math.inf
) -> Observation:
    """Run a command once, and change nothing.

    argv: the words of the command
    account: who it runs as; by default the account of this process
    seconds: after which it is ended, if it still runs
    Raises AuditError where nothing can be traced, or the command cannot be started.
    """
    command = Today(argv, account)
    with Keeper(command) as keeper, closing(_tracer()) as tracer:
        process = keeper.start(CapSet())
        tracer.start()
        keeper.go()
        status = None
        if wait(keeper, tracer, time.monotonic() + seconds):
            status, _ = keeper.end()
        records, lost = tracer.stop(process)
        seen = tracer.of(records, process, command.skipped)
        refusals = [*_refusals(seen, _permitted(seen))]  # before anyone waits for the process
        keeper.stop()
    return Observation(argv, command.account.name, status, refusals, tracer.method, lost)


def _tracer() -> Tracer:
    try:
        return Tracer(refusals_only=True)
    except OSError as error:
        raise AuditError(
            f'nothing can be traced, and one run alone proves nothing: {why_untraced(error)}'
        ) from None


def _permitted(seen: Seen) -> dict[int, CapSet]:
    """What each process has permitted, unless its parent has waited for it."""
    permitted = {}
    for process in {process for callers in seen.callers.values() for process in callers}:
        with suppress(OSError):
            permitted[process] = Caps.from_process(process).permitted
    return permitted


def _refusals(seen: Seen, permitted: dict[int, CapSet]) -> Iterable[Refusal]:
    for call, count in seen.calls.items():
        if not call.refused:
            yield Refusal(call, count, None, 'nothing')
        if not call.means_something:
            continue
        known = [permitted[process] for process in seen.callers[call] if process in permitted]
        for name in call.refused:
            if any(name in caps for caps in known):
                help = 'activate'
            else:
                help = 'mark' if len(known) == len(seen.callers[call]) else 'unknown'
            yield Refusal(call, count, name, help)
