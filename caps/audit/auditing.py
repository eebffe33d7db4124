"""An audit: the runs that a search asks for, observed, and what they prove."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from caps import CapSet
from caps.audit.commands import Function, Program, Script
from caps.audit.keeper import Keeper
from caps.audit.runs import Around, Options, Runner
from caps.audit.search import search
from caps.audit.setup import Account, can_give
from caps.audit.tracing import TRACEFS, Tracer
from caps.audit.types import Audit, AuditError
from caps.audit.verdicts import answer, judge

SETUP = CapSet('cap_setgid,cap_setuid,cap_setpcap')
PERF = 'perf_event_open(2)'
CAUSES = {
    errno.EACCES: 'cap_perfmon is missing',
    errno.EPERM: 'a seccomp filter, or a kernel in lockdown',
    errno.ENOSYS: 'a seccomp filter, or a kernel without it',
}


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
    _check_here()
    if options.ppy:
        account = account or Account.of(os.getuid())
        return _audit(Script(argv, account, options.ppy), argv, account, options)
    account = account or Account.usual()
    return _audit(Program(argv, account), argv, account, options)


def needs(
    function: Callable[[], object], user: str | int | None = None, *, from_all: bool = False
) -> CapSet:
    """The capabilities that a function needs, by calling it with less and more in forked children.

    function: has done its work when it returns, and not when it raises an exception
    user: the account that it is called as; by default a number that is no account's. Processes of
    a named account can trace the children, which have this process's memory and open files.
    from_all: begin with all capabilities, for what looks at its own first, as `caps.raised` does
    Raises AuditError where there is no answer; see capabilities(7).
    """
    _check_here()
    account = Account.unused() if user is None else Account.of(user)
    name = getattr(function, '__qualname__', repr(function))
    result = _audit(Function(function, account), [name], account, Options(from_all=from_all))
    if result.needs is None:
        said = result.runs[-1].said if result.runs else ''
        raise AuditError(f'{name}: {result.reason}\n{said}'.rstrip())
    return result.needs


def _check_here() -> None:
    if missing := SETUP - can_give():
        raise AuditError(f'{missing} is missing: an audit needs root')
    if not os.path.exists('/proc/self/fd'):
        raise AuditError('/proc is not mounted here, and an audit needs it')


def _audit(
    command: Program | Function, argv: Sequence[str], account: Account, options: Options
) -> Audit:
    with ExitStack() as stack:
        # Before there are events, which are of the whole machine and which no run is to inherit.
        keeper = stack.enter_context(Keeper(command))
        around = [stack.enter_context(Around(words, options.deadline))
                  for words in (options.before, options.ready)]  # fmt: skip
        tracer, method = _tracer(options)
        if tracer:
            stack.callback(tracer.close)
        runner = Runner(keeper, tracer, command.skipped, options, *around)
        from_all = options.from_all or tracer is None
        result = search(runner.run, can_give(), from_all=from_all)
    verdicts = judge(result)
    needed, reason = answer(result, verdicts)
    return Audit(argv, account.name, needed, verdicts, result.runs, method, reason)


def _tracer(options: Options) -> tuple[Tracer | None, str]:
    try:
        tracer = Tracer(refusals_only=not options.from_all)
    except OSError as error:
        return None, f'not traced: {why_untraced(error)}'
    return tracer, tracer.method


def why_untraced(error: OSError) -> str:
    """What keeps this process from observing, and what that may come from."""
    reason = error.strerror or str(error)
    if error.filename:
        reason = f'{error.filename}: {reason}'
    if reason.startswith((PERF, TRACEFS)) and error.errno in CAUSES:
        return f'{reason} ({CAUSES[error.errno]})'
    return reason
