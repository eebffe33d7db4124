"""caps audit: which capabilities a command needs, and the proof."""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from contextlib import suppress

from caps.cli.audits import SHAPE, document, document_of_one_run, mark, merged
from caps.cli.output import Output
from caps.cli.parsers import Commands

TYPE_CHECKING = False
if TYPE_CHECKING:
    from caps.audit import Audit, Observation

EXAMPLES = """\
The command is started again and again, with less and more, and each run really does what the
command does. Its account is not root unless --as says so: by default it is who called sudo, or
nobody. A command has done its work when it exits 0. What it prints is not shown. While it is tried,
it is given what it asks for, even cap_setuid: audit only what you trust.

It says: needed (the command fails without it, and the kernel was seen to refuse it), degrades (it
exits 0 without it, but a call fails), unused. It cannot know what other runs would do, and what
security modules refuse. The exit status is 0 where the answer is proved.

examples:
  sudo caps audit --as backup -- tar cf /srv/backup.tar /home
  sudo caps audit --for 2 --ready 'curl -s localhost' -- python3 -m http.server 80
      a daemon: it has to run after 2 seconds, and to answer
  sudo caps audit --as root --before 'rm -f /srv/null' -- mknod /srv/null c 1 3
      each run finds what the first one found
  sudo caps audit --ppy /usr/local/bin/ppy -- ./backup.py /home
      a script: it runs under ppy, as if it were marked with what it is given
  sudo caps audit --from all --ppy /usr/local/bin/ppy -- ./backup.py /home
      a script that looks at its own capabilities first, as caps.raised does
  sudo caps audit --once --as backup -- ./backup.sh
      one run as things are: what was refused, and what would help; --for ends it
  sudo caps audit --json -- ./backup.sh --full > full.json
  caps audit --merge full.json quick.json
      one answer for several ways to call it
"""
HELP = {
    'activate': 'it was permitted and not effective: activate it',
    'mark': 'it was not permitted: mark the program or script with it',
    'unknown': 'the process ended too early to see whether it was permitted',
    'nothing': 'no capability would help',
}


def add(commands: Commands) -> None:
    """Add the command to a parser."""
    text = 'which capabilities a command needs, and the proof'
    parser = commands.add('audit', run, text, EXAMPLES, SHAPE)
    parser.add_argument('command', nargs='*', metavar='COMMAND', help='after --')
    parser.add_argument('--as', dest='user', metavar='USER', help='the account it runs as')
    parser.add_argument(
        '--from', dest='start', choices=('none', 'all'), help='what it begins with; default: none'
    )
    parser.add_argument(
        '--for', dest='seconds', type=_seconds, metavar='SECONDS', help='how long a daemon runs'
    )
    parser.add_argument('--ready', metavar='CMD', help='succeeds when the daemon is ready')
    parser.add_argument('--before', metavar='CMD', help='puts things back before each run')
    parser.add_argument('--ppy', metavar='PPY', help='the command is a script for this launcher')
    parser.add_argument('--once', action='store_true', help='one run, as things are')
    parser.add_argument('--merge', nargs='+', metavar='JSON', help='join what --json printed')
    parser.set_defaults(refuse=parser.error)


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 < (seconds := float(text)) < 1e6:
            return seconds
    raise argparse.ArgumentTypeError(f'{text!r} is no number of seconds, such as 2 or 0.5')


def run(arguments: argparse.Namespace, out: Output) -> bool:
    from caps.audit import Account, AuditError, Options, audit, once

    _check(arguments)
    if arguments.merge:
        return _report(merged(arguments.merge), out)
    account = None if arguments.user is None else Account.of(arguments.user)
    try:
        if arguments.once:
            seconds = arguments.seconds or math.inf
            return _report_once(once(arguments.command, account, seconds), out)
        if sys.stderr.isatty():
            _say_how_often(arguments.command)
        options = Options(
            from_all=arguments.start == 'all',
            seconds=arguments.seconds,
            ready=arguments.ready,
            before=arguments.before,
            ppy=arguments.ppy,
        )
        return _report(audit(arguments.command, account, options), out, is_script=arguments.ppy)
    except AuditError as error:
        raise ValueError(str(error)) from None


def _check(arguments: argparse.Namespace) -> None:
    """End with a usage error where options do not go together."""
    options = {
        '--as': arguments.user, '--from': arguments.start, '--for': arguments.seconds,
        '--ready': arguments.ready, '--before': arguments.before, '--ppy': arguments.ppy,
        '--once': arguments.once, '--merge': arguments.merge,
    }  # fmt: skip
    given = {name for name, value in options.items() if value}
    for option, others in ('--merge', set()), ('--once', {'--as', '--for'}):
        if option in given and (wrong := given - others - {option}):
            arguments.refuse(f'{option} does not go with {", ".join(sorted(wrong))}')
    if arguments.merge and arguments.command:
        arguments.refuse('--merge takes documents and no COMMAND')
    if not arguments.merge and not arguments.command:
        arguments.refuse('the following arguments are required: COMMAND')
    if arguments.ready and arguments.seconds is None:
        arguments.refuse('--ready is for a daemon: --for says how long it runs')


def _say_how_often(command: list[str]) -> None:
    from caps.audit.search import LIMIT

    words = shlex.join(command)
    print(f'{words} is started at least twice, and at most {LIMIT} times', file=sys.stderr)


def _report(audit: Audit, out: Output, *, is_script: bool = False) -> bool:
    out.document = document(audit, is_script)
    if audit.needs is None:
        out.line(f'no answer: {audit.reason}', style='bold')
        if audit.runs and (said := audit.runs[-1].said.strip()):
            out.line(f'  it said: {said.splitlines()[-1]}')
        for (name, error), _ in audit.runs[-1].failures(None).items() if audit.runs else ():
            out.line(f'  {name} failed: {error}')
    elif audit.needs:
        out.line('needs', str(audit.needs), style='yellow')
    else:
        out.line('needs no capability', style='yellow')
    for verdict in audit.verdicts:
        if verdict.verdict == 'needed':
            out.line(f'  {verdict.reason}' if len(audit.needs or ()) == 1 else
                     f'  {verdict.capability}: {verdict.reason}')  # fmt: skip
    if audit.needs is not None:
        out.line(f'  {_with_it(audit)}')
    for verdict in audit.verdicts:
        if verdict.verdict == 'degrades':
            out.line(f'{verdict.capability}: {verdict.reason}')
        elif verdict.verdict == 'unused':
            out.line(f'not needed: {verdict.capability} ({verdict.reason})', style='dim')
    lost = f'{audit.lost} events lost' if audit.lost else 'no event lost'
    proof = 'proof' if audit.needs is not None else 'tried'
    events = f'; {lost}' if audit.runs and audit.runs[0].calls is not None else ''
    runs = f'{len(audit.runs)} run{"s" * (len(audit.runs) > 1)}'
    out.line(f'{proof}: {runs} as {audit.account}; {audit.method}{events}')
    if is_script and audit.needs is not None:
        script = shlex.quote(audit.command[0])
        out.line('mark it:', f'sudo setcap {mark(audit.needs)} {script}', style='yellow')
    elif audit.needs:
        out.line('mark it:', f'sudo setcap {mark(audit.needs)} SCRIPT', style='yellow')
    return audit.needs is not None


def _with_it(audit: Audit) -> str:
    from caps.audit.search import ends

    which = {0: 'without any', 1: 'with it alone'}.get(len(audit.needs or ()), 'with these alone')
    text = f'{which} it {ends(audit.runs[-1].status)}'
    if audit.runs[0].calls is None or any(
        verdict.verdict == 'degrades' for verdict in audit.verdicts
    ):
        return text
    return f'{text}, and nothing is refused that more would let through'


def _report_once(seen: Observation, out: Output) -> bool:
    from caps.audit.search import ends

    out.document = document_of_one_run(seen)
    out.line(f'it {ends(seen.status)} as {seen.account}', style='bold')
    for refusal in seen.refusals:
        call = refusal.call
        what = f'{call.name or "a call"} {call.error or "went on"}'
        times = 'once' if refusal.times == 1 else f'{refusal.times} times'
        name = f'{refusal.capability}: ' if refusal.capability else ''
        out.line(f'  {name}{what} ({times}): {HELP[refusal.help]}')
    out.line(f'{seen.method}; {seen.lost or "no"} event{"s" * (seen.lost > 1)} lost')
    if seen.lost:
        out.problem(f'{seen.lost} events were lost: there may be more refusals')
    return True
