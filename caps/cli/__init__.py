"""The command line: a file for each group of commands, and what they share."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence

from caps.cli.output import Output
from caps.cli.parsers import Commands, Parser, add_json

# Each room and its commands, in the order of help. Only the room that is used is loaded.
ROOMS = {
    'show': ('show',),
    'files': ('get', 'set', 'verify', 'remove'),
    'find': ('find',),
    'explain': ('explain',),
    'audit': ('audit',),
    'venv': ('venv',),
    'ppy': ('ppy',),
    'refresh': ('refresh', 'status'),
    'manifest': ('manifest',),
    'hooks': ('hooks',),
    'capabilities': ('list', 'decode'),
    'completion': ('completion',),
}
EXAMPLES = """\
examples:
  caps show --tree                      who runs with what
  caps list                             what each capability allows
  caps find /usr                        which files carry which capabilities
  caps explain /usr/bin/ping            what running a file would do here, and why
  sudo caps audit -- ping -c1 ::1       which capabilities a command needs, and the proof
  sudo caps set cap_net_raw=ep FILE     what setcap does; get and remove it likewise
  sudo caps venv mark DIR cap_net_raw   for the python of one virtual environment only
  sudo caps ppy install                 for scripts: mark a script, and run it through ppy
  sudo caps status                      all that caps has made, and whether it is still right
  sudo caps manifest check              which marks an upgrade took away, and which are unexpected
  sudo caps hooks install               brings back marks after each package run
  . <(caps completion bash)             complete all this
"""
VERSION = """\
examples:
  caps version
"""
HELP = """\
examples:
  caps help ppy install
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    argv: the arguments; by default those of this process
    Returns the exit status: 0 for success, 1 for a refusal or for problems found.
    Raises SystemExit, with 2 for wrong usage; see caps(1).
    """
    for name in 'stdout', 'stderr':
        if getattr(sys, name) is None:  # closed by the caller, who wants to see nothing
            setattr(sys, name, io.StringIO())
    words = sys.argv[1:] if argv is None else argv
    arguments = parser(words).parse_args(words)
    command = arguments.parser
    if arguments.run is None:
        command.print_help()
        return 0
    as_json = getattr(arguments, 'json', False)
    if as_json and command.shape is None:
        command.error('there is no JSON document of this')
    out = Output(as_json)
    try:
        is_found = arguments.run(arguments, out)
        out.finish()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough
        _drop_output()
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if not _is_refusal(error):
            raise
        out.problem(error)
        try:
            out.finish()
            sys.stdout.flush()
        except OSError:  # a full disk, which may be the error itself
            _drop_output()
        return 1
    return 0 if is_found and not out.problems else 1


def _drop_output() -> None:
    """Keep Python from complaining at its end about output that it could not write."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_refusal(error: Exception) -> bool:
    from caps.admin.transaction import AdminError
    from caps.system.run import RunError

    return isinstance(error, (OSError, ValueError, LookupError, AdminError, RunError))


class _Version(argparse.Action):
    def __call__(self, *_: object) -> None:
        print(f'caps {_version()}')
        raise SystemExit(0)


def _print_version(arguments: argparse.Namespace, out: Output) -> bool:
    out.line('caps', _version())
    return True


def _version() -> str:
    from caps import __version__  # which takes longer to look up than most commands take

    return __version__


def _print_help(arguments: argparse.Namespace, out: Output) -> bool:
    from caps.cli import completion

    whole = parser()
    commands = dict(completion.places(whole))
    place = ''.join(f' {word}' for word in arguments.words)
    if place not in commands:
        raise ValueError(f'there is no command{place}; caps help lists them')
    commands[place].print_help()
    return True


def parser(words: Sequence[str] = ()) -> Parser:
    """The parser of the whole command line, or of the one room that its words need."""
    description = 'Linux capabilities of processes and files.'
    parser = Parser(prog='caps', description=description, examples=EXAMPLES)
    parser.add_argument('-V', '--version', action=_Version, nargs=0, help='print the version')
    add_json(parser)
    commands = Commands(parser)
    command = next((word for word in words if not word.startswith('-')), '')
    needed = [room for room, names in ROOMS.items() if command in names]
    for room in needed or ROOMS:
        __import__(f'caps.cli.{room}', fromlist=[room]).add(commands)
    if not needed:
        commands.add('version', _print_version, 'print the version', VERSION)
        adding = commands.add('help', _print_help, 'the help of a command', HELP)
        adding.add_argument('words', nargs='*', metavar='COMMAND')
    return parser
