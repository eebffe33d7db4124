"""The command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from caps import CapSet
from caps.install import NAME, PREFIX, Installation, InstallError, install, remove, status

PPY_EXAMPLES = """\
examples:
  sudo caps ppy install
      scripts marked with capabilities run through /usr/local/bin/ppy, under this Python
  sudo caps ppy install --interpreter /srv/app/venv/bin/python --name ppy-app
      the same for a virtual environment: its scripts begin with #!/usr/local/bin/ppy-app
  sudo caps ppy install --allow cap_net_raw,cap_net_bind_service
      no script can be given anything else
  caps ppy status
      after an upgrade of Python: says whether to install again

  sudo setcap cap_dac_read_search=i backup.py
  ppy backup.py
      the script runs as its owner, and may activate cap_dac_read_search
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    :param argv: the arguments; by default those of this process
    :return: the exit status: 0 for success, 1 for a refusal or for problems found
    :raises SystemExit: with 2 for wrong usage
    """
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
    except OSError as error:
        return _complain(f'{error.filename}: {error.strerror}' if error.filename else str(error))
    except (InstallError, ValueError) as error:
        return _complain(str(error))
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='caps', description='Linux capabilities of scripts.')
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    _add_ppy(commands.add_parser('ppy', help='the launcher: install it, look at it, remove it'))
    return parser


def _add_ppy(parser: argparse.ArgumentParser) -> None:
    parser.description = 'ppy launches a script with the capabilities that its file was given.'
    parser.epilog = PPY_EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    place = argparse.ArgumentParser(add_help=False)
    place.add_argument('--prefix', default=PREFIX, metavar='DIR', help=f'default: {PREFIX}')
    place.add_argument('--name', default=NAME, help=f'of the launcher; default: {NAME}')
    adding = commands.add_parser(
        'install',
        parents=[place],
        help='put a launcher in place, or renew it',
        epilog=PPY_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    adding.add_argument('--interpreter', metavar='PATH', help='default: the Python running this')
    adding.add_argument(
        '--setuid', action='store_true', help='set-user-ID root instead of file capabilities'
    )
    adding.add_argument('--group', metavar='NAME', help='may execute the capped copy directly')
    adding.add_argument('--allow', metavar='CAPS', help='what scripts can be given; default: all')
    adding.add_argument('--allow-root', action='store_true', help="launch root's scripts as well")
    adding.set_defaults(run=_install)
    for name, run, text in (
        ('status', _status, 'say what is installed and what is wrong with it'),
        ('remove', _remove, 'take it away'),
    ):
        commands.add_parser(name, parents=[place], help=text).set_defaults(run=run)


def _install(arguments: argparse.Namespace) -> int:
    return _report(
        install(
            arguments.interpreter,
            arguments.prefix,
            arguments.name,
            setuid=arguments.setuid,
            group=arguments.group,
            allow=arguments.allow,
            allow_root=arguments.allow_root,
        )
    )


def _status(arguments: argparse.Namespace) -> int:
    return _report(status(arguments.prefix, arguments.name))


def _remove(arguments: argparse.Namespace) -> int:
    remove(arguments.prefix, arguments.name)
    return 0


def _report(found: Installation) -> int:
    if found.original:
        everything = found.allowed == CapSet.all()
        allowed = 'unknown' if found.allowed is None else ','.join(found.allowed) or 'nothing'
        print(f'{found.ppy} runs scripts under {found.original}')
        print(f'  capped copy:     {found.capped}')
        print(f'  launcher:        {"set-user-ID root" if found.setuid else "file capabilities"}')
        print(f'  can hand out:    {"every capability" if everything else allowed}')
        print(f'  scripts of root: {"launched" if found.allow_root else "refused"}')
        print(f'  group:           {found.group or "none"}')
    for problem in found.problems:
        _complain(problem)
    return 1 if found.problems else 0


def _complain(message: str) -> int:
    print(f'caps: {message}', file=sys.stderr)
    return 1
