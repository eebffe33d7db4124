"""caps ppy: install the launcher, look at it, remove it."""

from __future__ import annotations

import argparse
import os

from caps import Caps, CapSet
from caps.cli.documents import PROBLEMS, STATE, Document, state
from caps.cli.hooks import summary
from caps.cli.output import Output
from caps.cli.parsers import Commands, Parser

TYPE_CHECKING = False
if TYPE_CHECKING:
    from caps.admin.ppy import Installation

EXAMPLES = """\
examples:
  sudo caps ppy install
      scripts marked with capabilities run through /usr/local/bin/ppy, under this Python
  sudo caps ppy install --interpreter /srv/app/venv/bin/python --name ppy-app
      the same for a virtual environment: its scripts begin with #!/usr/local/bin/ppy-app
  sudo caps ppy install --allow cap_net_raw,cap_net_bind_service
      no script can be given anything else
  sudo caps ppy status
      after an upgrade of Python: says whether to install again

  sudo caps ppy mark backup.py cap_dac_read_search --owner backup --group operator --to /srv
  ppy /srv/backup.py
      the script runs as its owner, and may activate cap_dac_read_search
"""
MARK = """\
The script gets an owner, a group, mode 750 and a mark, if it passes the checks that ppy makes. If
not, nothing is changed. It runs as its owner and group. The owner and members of the group may
start it, and they choose its arguments and working directory.

CAPS is a list of capabilities, or capability text with =i.

examples:
  sudo caps ppy mark backup.py cap_dac_read_search --owner backup --group operator --to /srv
      a copy in /srv; the last line printed is the one that starts it
  sudo caps ppy mark /srv/ping.py cap_net_raw
      where it is, and as whose it is
  sudo caps audit --ppy /usr/local/bin/ppy -- /srv/ping.py 192.0.2.1
      which capabilities it needs, where that is not known
"""
UNMARK = """\
examples:
  sudo caps ppy unmark /srv/backup.py
"""
SHAPE: Document = {
    'ppy': 'str',
    'installed': 'bool',
    'original': 'str | null',
    'capped': 'str | null',
    'setuid': 'bool',
    'group': 'str | null',
    'allowed': '[str] | null',
    'allow_root': 'bool',
    'version': 'str | null',
    **PROBLEMS,
}
MARKED: Document = {
    'path': 'str',
    'owner': 'str',
    'group': 'str',
    'command': 'str',
    **STATE,
    **PROBLEMS,
}
UNMARKED: Document = {'path': 'str', **PROBLEMS}
REMOVED: Document = {'ppy': 'str', **PROBLEMS}


def add(commands: Commands) -> None:
    """Add the commands to a parser."""
    text = 'the launcher: install it, look at it, remove it'
    group = commands.group('ppy', text, EXAMPLES)
    text = 'put a launcher in place, or renew it'
    parser = group.add('install', install, text, EXAMPLES, SHAPE)
    _add_place(parser)
    either = argparse.BooleanOptionalAction
    parser.add_argument('--interpreter', metavar='PATH', help='default: the Python running this')
    parser.add_argument(
        '--setuid', action=either, help='set-user-ID root instead of file capabilities'
    )
    parser.add_argument('--group', metavar='GROUP', help='may execute the capped copy directly')
    parser.add_argument('--allow', metavar='CAPS', help='what scripts can be given; default: all')
    parser.add_argument('--allow-root', action=either, help="launch root's scripts as well")
    parser.add_argument(
        '--reset', action='store_true', help='forget what the present installation was made with'
    )
    text = 'say what is installed and what is wrong with it'
    _add_place(group.add('status', status, text, EXAMPLES, SHAPE))
    _add_place(group.add('remove', remove, 'take it away', EXAMPLES, REMOVED))
    parser = group.add('mark', mark, 'make a script ready for it', MARK, MARKED)
    parser.add_argument('script', metavar='SCRIPT')
    parser.add_argument('caps', type=_text, metavar='CAPS')
    parser.add_argument(
        '--owner', metavar='USER', help="the account that it runs as; default: the script's owner"
    )
    parser.add_argument('--group', metavar='GROUP', help='whose members may start it')
    parser.add_argument('--to', metavar='DIR', help='copy it there; default: replace it')
    _add_place(parser)
    parser = group.add('unmark', unmark, 'take the mark of a script away', UNMARK, UNMARKED)
    parser.add_argument('script', metavar='SCRIPT')


def _add_place(parser: Parser) -> None:
    parser.add_argument('--prefix', default='/usr/local', metavar='DIR', help='default: /usr/local')
    parser.add_argument('--name', default='ppy', help='of the launcher; default: ppy')


def install(arguments: argparse.Namespace, out: Output) -> bool:
    from caps.admin import ppy

    installation = ppy.install(
        arguments.interpreter,
        arguments.prefix,
        arguments.name,
        setuid=arguments.setuid,
        group=arguments.group,
        allow=arguments.allow,
        allow_root=arguments.allow_root,
        reset=arguments.reset,
    )
    is_installed = _report(installation, out)
    out.line(f'  hooks:           {summary()}')
    return is_installed


def status(arguments: argparse.Namespace, out: Output) -> bool:
    from caps.admin import ppy

    return _report(ppy.installation_at(arguments.prefix, arguments.name), out)


def remove(arguments: argparse.Namespace, out: Output) -> bool:
    from caps.admin import ppy

    ppy.remove(arguments.prefix, arguments.name)
    out.document = {'ppy': os.path.join(arguments.prefix, 'bin', arguments.name)}
    return True


def _text(text: str) -> Caps:
    from caps.admin.mark import inheritable

    try:
        return inheritable(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def mark(arguments: argparse.Namespace, out: Output) -> bool:
    from caps.admin.mark import mark

    place = {'to': arguments.to, 'prefix': arguments.prefix, 'name': arguments.name}
    script = mark(arguments.script, arguments.caps, arguments.owner, arguments.group, **place)
    out.document = {
        'path': script.path,
        'owner': script.owner,
        'group': script.group,
        'command': script.command,
        **state(script.caps),
    }
    out.line(script.path, str(script.caps), style='yellow')
    out.line(f'  runs as user {script.owner}, group {script.group}')
    out.line(f'  started by {script.owner} and members of {script.group}:')
    out.line(script.command)
    for problem in script.problems:
        out.problem(problem)
    return True


def unmark(arguments: argparse.Namespace, out: Output) -> bool:
    from caps.admin.mark import unmark

    out.document = {'path': unmark(arguments.script)}
    return True


def _report(installation: Installation, out: Output) -> bool:
    out.document = document(installation)
    if installation.original:
        allowed = installation.allowed
        limits = 'unknown' if allowed is None else str(allowed) or 'nothing'
        everything = allowed == CapSet.all()
        out.line(f'{installation.ppy} runs scripts under {installation.original}')
        out.line(f'  capped copy:     {installation.capped}')
        how = 'set-user-ID root' if installation.setuid else 'file capabilities'
        of = f', version {installation.version}' if installation.version else ''
        out.line(f'  launcher:        {how}{of}')
        out.line(f'  can hand out:    {"every capability" if everything else limits}')
        out.line(f'  scripts of root: {"launched" if installation.allow_root else "refused"}')
        out.line(f'  group:           {installation.group or "none"}')
    for problem in installation.problems:
        out.problem(problem)
    return bool(installation.original)


def document(installation: Installation) -> Document:
    """An installed ppy, or none."""
    allowed = installation.allowed
    return {
        'ppy': installation.ppy,
        'installed': bool(installation.original),
        'original': installation.original or None,
        'capped': installation.capped or None,
        'setuid': installation.setuid,
        'group': installation.group,
        'allowed': None if allowed is None else list(allowed),
        'allow_root': installation.allow_root,
        'version': installation.version,
    }
