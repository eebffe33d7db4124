"""The command line: a file for each group of commands, and what they share."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence

from caps.cli import audit, completion, explain, files, find, ppy, show, venv
from caps.cli.output import Output
from caps.cli.parsers import Commands, Parser

EXAMPLES = """\
examples:
  caps show --tree                      who runs with what
  caps find /usr                        which files give what to whoever runs them
  caps explain /usr/bin/ping            what running a file would do here, and why
  sudo caps audit -- ping -c1 ::1       which capabilities a command needs, and the proof
  sudo caps set cap_net_raw=ep FILE     what setcap does; get and remove it likewise
  sudo caps venv mark DIR cap_net_raw   for the python of one virtual environment only
  sudo caps ppy install                 for scripts: then mark a script and run it through ppy
  . <(caps completion bash)             complete all this
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
    arguments = parser().parse_args(argv)
    out = Output(getattr(arguments, 'json', False))
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
    """Have Python not complain at its end of what it could not write."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_refusal(error: Exception) -> bool:
    from caps.admin.transaction import AdminError
    from caps.system.run import RunError

    return isinstance(error, (OSError, ValueError, LookupError, AdminError, RunError))


class _Version(argparse.Action):
    def __call__(self, *_: object) -> None:
        from importlib.metadata import version

        print(f'caps {version("caps-ppy")}')
        raise SystemExit(0)


def parser() -> Parser:
    """The parser of the whole command line."""
    description = 'Linux capabilities of processes and files.'
    parser = Parser(prog='caps', description=description, examples=EXAMPLES)
    parser.add_argument('--version', action=_Version, nargs=0, help='print the version')
    commands = Commands(parser)
    for group in show, files, find, explain, audit, venv, ppy, completion:
        group.add(commands)
    return parser
