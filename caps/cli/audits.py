"""The document of an audit, made and read again."""

from __future__ import annotations

from caps import CapSet
from caps.cli.documents import PROBLEMS, Document

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from caps.audit import Audit, Observation
    from caps.audit.types import Call, Run

SHAPE: Document = {
    'command': ['str'],
    'account': 'str',
    'needs': '[str] | null',
    'reason': 'str | null',  # why there is no answer
    'verdicts': [{'capability': 'str', 'verdict': 'str', 'reason': 'str'}],
    'runs': [
        {
            'caps': '[str] | null',
            'status': 'int | null',  # null where it still ran
            'done': 'bool | null',
            'refused': [
                {
                    'capability': 'str | null',  # null where the kernel asked for none
                    'syscall': 'str',
                    'error': 'str | null',  # null where the call went on
                    'site': 'str',
                    'times': 'int',
                    'help': 'str | null',  # with --once: activate, mark, nothing or unknown
                }
            ],
        }
    ],
    'ignored': [{'capability': 'str', 'reason': 'str', 'times': 'int'}],
    'lost': 'int',
    'method': 'str',
    'mark': 'str | null',  # what setcap is to be given for a script under ppy
    **PROBLEMS,
}


def mark(needs: CapSet) -> str:
    """What setcap(8) is to be given for a script under ppy."""
    return f'{needs}=i' if needs else '='


def document(audit: Audit, is_script: bool = False) -> Document:
    """What an audit has found."""
    return {
        'command': list(audit.command),
        'account': audit.account,
        'needs': None if audit.needs is None else list(audit.needs),
        'reason': audit.reason or None,
        'verdicts': [verdict._asdict() for verdict in audit.verdicts],
        'runs': [*map(_run, audit.runs)],
        'ignored': [
            {'capability': name, 'reason': reason, 'times': times}
            for (name, reason), times in audit.ignored.items()
        ],
        'lost': audit.lost,
        'method': audit.method,
        'mark': mark(audit.needs) if is_script and audit.needs is not None else None,
    }


def _run(run: Run) -> Document:
    refused = [
        _refusal(call, name, times)
        for call, times in (run.calls or {}).items()
        if call.means_something or not call.refused
        for name in call.refused or (None,)
    ]
    return {
        'caps': list(run.caps),
        'status': run.status,
        'done': run.is_done,
        'refused': refused,
    }


def _refusal(call: Call, name: str | None, times: int, help: str | None = None) -> Document:
    return {
        'capability': name,
        'syscall': call.name,
        'error': call.error or None,
        'site': call.site,
        'times': times,
        'help': help,
    }


def document_of_one_run(seen: Observation) -> Document:
    """What one run in today's state was refused."""
    refused = [
        _refusal(refusal.call, refusal.capability, refusal.times, refusal.help)
        for refusal in seen.refusals
    ]
    return {
        'command': list(seen.command),
        'account': seen.account,
        'needs': None,
        'reason': 'one run alone proves nothing',
        'verdicts': [],
        'runs': [{'caps': None, 'status': seen.status, 'done': None, 'refused': refused}],
        'ignored': [],
        'lost': seen.lost,
        'method': seen.method,
        'mark': None,
    }


def merged(paths: list[str]) -> Audit:
    """One audit of all whose documents are in files."""
    from caps.audit import AuditError, merge

    try:
        return merge([_read(path) for path in paths])
    except AuditError as error:
        raise ValueError(str(error)) from None


def _read(path: str) -> Audit:
    """The audit whose document is in a file."""
    import json
    from dataclasses import replace

    from caps.audit.types import Audit, Call, Verdict

    try:
        with open(path) as file:
            printed: dict[str, Any] = json.load(file)
        needs = printed['needs']
        runs = [*map(_read_run, printed['runs'])]
        for ignored in printed['ignored']:
            noise = Call('', '', (ignored['capability'],), '', ignored['reason'])
            runs[0] = replace(runs[0], calls={**(runs[0].calls or {}), noise: ignored['times']})
        return Audit(
            [*map(str, printed['command'])],
            str(printed['account']),
            None if needs is None else CapSet(needs),
            [Verdict(**verdict) for verdict in printed['verdicts']],
            runs,
            str(printed['method']),
            printed['reason'] or '',
        )
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        raise ValueError(f'{path} is not what caps audit --json printed') from None


def _read_run(run: dict[str, Any]) -> Run:
    from caps.audit.types import Call, Run

    calls = {
        Call(
            refusal['syscall'],
            refusal['error'] or '',
            (refusal['capability'],) if refusal['capability'] else (),
            refusal['site'],
        ): refusal['times']
        for refusal in run['refused']
    }
    return Run(CapSet(run['caps'] or ()), run['status'], bool(run['done']), calls)
