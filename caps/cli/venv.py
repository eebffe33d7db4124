"""caps venv: capabilities for the python of one virtual environment."""

from __future__ import annotations

import argparse

from caps import Caps
from caps.cli.documents import PROBLEMS, STATE, Document, state
from caps.cli.hooks import summary
from caps.cli.output import Output
from caps.cli.parsers import Commands, argument_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from caps.admin.venv import Environment

EXAMPLES = """\
examples:
  sudo caps venv mark /srv/app/venv cap_net_bind_service
  /srv/app/venv/bin/python -m http.server 80
  sudo caps venv status /srv/app/venv
      after an upgrade of Python: says whether to mark it again
  sudo caps venv unmark /srv/app/venv
"""
MARK = """\
DIR/bin/python is a link to a python that everyone shares. It becomes a copy, and only the copy is
marked. Every script of the environment then runs with CAPS. Anyone who can run the copy has them,
and so has anyone who can write to what it imports. --group says who can run it. Mark it again after
an upgrade of Python.

CAPS is capability text, or a bare list, which means =ep.

examples:
  sudo caps venv mark /srv/app/venv cap_net_raw                 the same as cap_net_raw=ep
  sudo caps venv mark /srv/app/venv cap_net_raw=p               its code makes it effective
  sudo caps venv mark /srv/app/venv cap_net_raw --group ops     nobody else can run it
"""
STATUS = """\
The python is started once, as the owner of the environment.

examples:
  sudo caps venv status /srv/app/venv
"""
UNMARK = """\
examples:
  sudo caps venv unmark /srv/app/venv
"""
SHAPE: Document = {
    'directory': 'str',
    'python': 'str',
    'names': ['str'],
    'unmarked': 'str | null',
    'owner': 'str',
    'group': 'str | null',
    'who': 'str',
    'closed': ['str'],
    **STATE,
    **PROBLEMS,
}


def add(commands: Commands) -> None:
    """Add the commands to a parser."""
    group = commands.group('venv', 'capabilities for one virtual environment', EXAMPLES)
    text = 'give its python capabilities, in a copy'
    parser = group.add('mark', mark, text, MARK, SHAPE)
    parser.add_argument('directory', metavar='DIR')
    parser.add_argument('caps', type=_text, metavar='CAPS')
    parser.add_argument('--group', metavar='GROUP', help='only its members may run the copy')
    text = 'say how its python is marked and what is wrong with it'
    parser = group.add('status', status, text, STATUS, SHAPE)
    parser.add_argument('directory', metavar='DIR')
    text = 'put the link to the shared python back'
    parser = group.add('unmark', unmark, text, UNMARK, SHAPE)
    parser.add_argument('directory', metavar='DIR')


@argument_error
def _text(text: str) -> Caps:
    from caps.admin.venv import parsed

    if not text:
        raise ValueError("'' is not CAPS (is a variable unset?)")
    return parsed(text)


def mark(arguments: argparse.Namespace, out: Output) -> bool:
    from caps.admin import venv

    _report(venv.mark(arguments.directory, arguments.caps, arguments.group), out)
    out.line(f'  hooks:       {summary()}')
    return True


def status(arguments: argparse.Namespace, out: Output) -> bool:
    from caps.admin import venv

    environment = venv.environment_at(arguments.directory)
    _report(environment, out)
    return bool(environment.caps.marked)


def _report(environment: Environment, out: Output) -> None:
    out.document = document(environment)
    out.line(environment.python, str(environment.caps), style='yellow')
    out.line(f'  names:       {", ".join(environment.names)}')
    out.line(f'  can run it:  {environment.who}')
    writers = f'and of anyone else who can write to {environment.directory}'
    out.line(f'  runs code of {environment.owner}, {writers}')
    if environment.unmarked:
        out.line(f'  unmarked:    {environment.unmarked}')
        out.line(f'  where it cannot start: {environment.way_in}')
    for problem in environment.problems:
        out.problem(problem)


def unmark(arguments: argparse.Namespace, out: Output) -> bool:
    from caps.admin import venv

    out.document = document(venv.unmark(arguments.directory))
    return True


def document(environment: Environment) -> Document:
    """A virtual environment whose python is marked."""
    return {
        'directory': environment.directory,
        'python': environment.python,
        'names': environment.names,
        'unmarked': environment.unmarked,
        'owner': environment.owner,
        'group': environment.group,
        'who': environment.who,
        'closed': environment.closed,
        **state(environment.caps),
    }
