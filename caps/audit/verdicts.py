"""What the runs of a search prove, capability by capability."""

from __future__ import annotations

from collections.abc import Iterable

from caps import CapSet
from caps.audit.search import SearchResult, ends
from caps.audit.types import Audit, AuditError, Run, Verdict

ORDER = ('needed', 'not proved', 'degrades', 'unused')


def judge(result: SearchResult) -> list[Verdict]:
    """The verdict on each capability that a command needs or has asked for."""
    if result.final is None:
        return []
    verdicts = [_on_needed(name, result.without[name], result.final) for name in result.final.caps]
    verdicts += [_on_helped(name, result.final) for name in result.helped]
    named = CapSet(verdict.capability for verdict in verdicts)
    asked = CapSet()
    for run in result.runs:
        asked |= run.refused | run.granted
    return verdicts + [_on_unused(name, result.runs) for name in asked - named]


def answer(result: SearchResult, verdicts: Iterable[Verdict]) -> tuple[CapSet | None, str]:
    """What the command needs, or None and the reason why there is no answer."""
    if result.final is None:
        return None, result.reason
    for verdict in verdicts:
        if verdict.verdict == 'not proved':
            return None, f'{verdict.capability} is not proved: {verdict.reason}'
    return result.final.caps, ''


def merge(audits: Iterable[Audit]) -> Audit:
    """One audit of all that several have shown: the command needs what it needs in any of them.

    audits: each with an answer.
    Raises AuditError where one has no answer.
    """
    audits = list(audits)
    verdicts: dict[str, Verdict] = {}
    needs = CapSet()
    for audit in audits:
        if audit.needs is None:
            raise AuditError(f'the audit of {" ".join(audit.command)} has no answer')
        needs |= audit.needs
        for verdict in audit.verdicts:
            known = verdicts.get(verdict.capability)
            if known is None or ORDER.index(verdict.verdict) < ORDER.index(known.verdict):
                verdicts[verdict.capability] = verdict
    methods = ', '.join(dict.fromkeys(audit.method for audit in audits))
    runs = [run for audit in audits for run in audit.runs]
    first = audits[0]
    accounts = ', '.join(dict.fromkeys(audit.account for audit in audits))
    in_order = sorted(verdicts.values(), key=lambda verdict: ORDER.index(verdict.verdict))
    return Audit(first.command, accounts, needs, in_order, runs, methods)


def _on_needed(name: str, without: Run, final: Run) -> Verdict:
    failing = f'without it the command {ends(without.status)}'
    if without.calls is None:
        return Verdict(name, 'needed', failing)
    if name in without.refused:
        calls = _counted(without.failures(name)) or 'refused in a call that went on'
        return Verdict(name, 'needed', f'{failing}: {calls}')
    if name in final.granted:
        own = 'it looks at its own capabilities, and with it the kernel grants it'
        return Verdict(name, 'needed', f'{failing}: {own}')
    own = 'it looks at its own capabilities, and the kernel never asked for this one'
    return Verdict(name, 'not proved', f'{failing}: {own}')


def _on_helped(name: str, final: Run) -> Verdict:
    return Verdict(
        name,
        'degrades',
        f'without it the command {ends(final.status)} all the same: '
        f'{_counted(final.failures(name)) or "refused"}',
    )


def _on_unused(name: str, runs: Iterable[Run]) -> Verdict:
    reasons: dict[str, int] = {}
    for run in runs:
        for call, count in (run.calls or {}).items():
            if name in call.refused:
                went = call.noise or f'{call.name or "a call"} {call.error or "went on"}'
                reasons[went] = reasons.get(went, 0) + count
    text = ', '.join(f'{why}: {_times(count)}' for why, count in reasons.items())
    return Verdict(name, 'unused', text or 'granted, and not needed')


def _counted(failures: dict[tuple[str, str], int]) -> str:
    return ', '.join(
        f'{name or "a call"} {error} ({_times(count)})' for (name, error), count in failures.items()
    )


def _times(count: int) -> str:
    return 'once' if count == 1 else f'{count} times'
