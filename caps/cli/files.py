"""caps get, set and remove: the capabilities of files."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from caps import Caps
from caps.cli.documents import FILES, file
from caps.cli.output import Output
from caps.cli.parsers import Commands

GET = """\
examples:
  caps get /usr/bin/ping               prints what getcap prints
  caps get --json script.py            tells no capabilities from empty ones
  caps get FILE || echo 'has none'     1 unless every file has some, be they empty
"""
SET = """\
TEXT is what setcap takes; see cap_text_formats(7).

examples:
  sudo caps set cap_net_raw=ep pinger               whoever runs it has it
  sudo caps set cap_dac_read_search=i backup.py     a script, to be run through ppy
  sudo caps set = FILE                              empty sets, which are not the same as none
"""
REMOVE = """\
examples:
  sudo caps remove pinger
"""


def add(commands: Commands) -> None:
    """Add the commands to those of a parser."""
    parser = commands.add('get', get, 'the capabilities of files', GET, FILES)
    parser.add_argument('files', nargs='+', metavar='FILE')
    parser = commands.add('set', set_, 'mark files with capabilities', SET, FILES)
    parser.add_argument('caps', type=_text, metavar='TEXT')
    parser.add_argument('files', nargs='+', metavar='FILE')
    parser.add_argument(
        '--root-id', type=int, default=0, metavar='UID', help='of the user namespace they are for'
    )
    parser = commands.add('remove', remove, 'take the capabilities of files away', REMOVE, FILES)
    parser.add_argument('files', nargs='+', metavar='FILE')


def _text(text: str) -> Caps:
    try:
        return Caps(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def get(arguments: argparse.Namespace, out: Output) -> bool:
    files = []
    for path in arguments.files:
        with out.noting():
            caps = Caps.from_file(path)
            files.append(file(path, caps))
            print_file(path, caps, out)
    out.document = {'files': files}
    return all(file['marked'] for file in files)


def print_file(path: str, caps: Caps, out: Output) -> None:
    if caps.marked:
        root_id = f' [rootid={caps.root_id}]' if caps.root_id else ''
        out.line(path, f'{caps}{root_id}', style='yellow')


def set_(arguments: argparse.Namespace, out: Output) -> bool:
    arguments.caps.root_id = arguments.root_id
    return _change(arguments.files, arguments.caps.apply, out)


def remove(arguments: argparse.Namespace, out: Output) -> bool:
    return _change(arguments.files, Caps.remove, out)


def _change(paths: list[str], change: Callable[[str], object], out: Output) -> bool:
    files = []
    for path in paths:
        with out.noting():
            change(path)
            files.append(file(path, Caps.from_file(path)))
    out.document = {'files': files}
    return True
