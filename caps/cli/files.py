"""caps get, set, verify and remove: the capabilities of files."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable

from caps import Caps
from caps.cli.documents import FILES, file
from caps.cli.output import Output
from caps.cli.parsers import Commands, argument_error

GET = """\
examples:
  caps get /usr/bin/ping               prints what getcap prints
  caps get --json script.py            tells a file with empty sets from one without a mark
  caps get FILE || echo 'has none'     exits 1 unless every file is marked
"""
SET = """\
TEXT is what setcap takes; see cap_text_formats(7). It counts for the files up to the next TEXT. A
TEXT of - is read from standard input. A file whose name is capability text is written ./NAME.

examples:
  sudo caps set cap_net_raw=ep pinger               everyone who runs it has it
  sudo caps set cap_dac_read_search=i backup.py     a script, to be run through ppy
  sudo caps set cap_kill=p one cap_chown=p two      each file gets the text before it
  sudo caps set = FILE                              a mark with empty sets
"""
VERIFY = """\
TEXT and FILE are as for caps set. The exit status is 1 where a file has other capabilities.

examples:
  caps verify cap_net_raw=ep /usr/local/bin/pinger
"""
REMOVE = """\
examples:
  sudo caps remove pinger
"""
Pairs = list[tuple[Caps, str]]


def add(commands: Commands) -> None:
    """Add the commands to a parser."""
    parser = commands.add('get', get, 'the capabilities of files', GET, FILES)
    parser.add_argument('files', nargs='+', metavar='FILE')
    for name, run, text, examples in (
        ('set', set_, 'mark files with capabilities', SET),
        ('verify', verify, 'whether files have these capabilities', VERIFY),
    ):
        parser = commands.add(name, run, text, examples, FILES)
        parser.add_argument('words', nargs='+', metavar='TEXT FILE')
        parser.add_argument(
            '--root-id', type=_root_id, default=0, metavar='UID',
            help='of the user namespace they are for',
        )  # fmt: skip
        parser.set_defaults(refuse=parser.error)
    parser = commands.add('remove', remove, 'take the capabilities of files away', REMOVE, FILES)
    parser.add_argument('files', nargs='+', metavar='FILE')


@argument_error
def _root_id(text: str) -> int:
    number = int(text) if text.isdecimal() else -1
    if not 0 <= number < 2**32 - 1:
        raise ValueError(f'{text!r} is not a user id')
    return number


def _pairs(arguments: argparse.Namespace) -> Pairs:
    """Each file with its text; a usage error, before anything is done, where there is none."""
    pairs: Pairs = []
    caps, is_used = None, True
    for word in arguments.words:
        text = _text(word, arguments) if caps is None or _is_text(word) else None
        if text is None and caps is not None:
            pairs.append((caps, word))
            is_used = True
        elif is_used:
            caps, is_used = text, False
        else:
            arguments.refuse(f'no FILE before {word!r}')
    if not is_used:
        arguments.refuse(f'no FILE after {arguments.words[-1]!r}')
    return pairs


def _is_text(word: str) -> bool:
    try:
        return word == '-' or bool(set(word) & set('=+-') and Caps(word) is not None)
    except ValueError:
        return False


def _text(word: str, arguments: argparse.Namespace) -> Caps:
    if word == '-':
        word = sys.stdin.readline().strip()
    try:
        if not word:
            raise ValueError("'' is not a TEXT (is a variable unset?); = is a mark with empty sets")
        caps = Caps(word)
    except ValueError as error:
        hint = ''
        if word and not set(word) & set('=+-') and _is_text(f'{word}=p'):
            hint = f'; {word}=ep for a program, {word}=i for a script under ppy'
        arguments.refuse(f'argument TEXT: {error}{hint}')
    caps.root_id = arguments.root_id
    return caps


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
    return _change(((path, caps.apply) for caps, path in _pairs(arguments)), out)


def remove(arguments: argparse.Namespace, out: Output) -> bool:
    return _change(((path, Caps.remove) for path in arguments.files), out)


def _change(changes: Iterable[tuple[str, Callable[[str], object]]], out: Output) -> bool:
    files = []
    for path, change in changes:
        with out.noting():
            try:
                change(path)
            except PermissionError as error:
                if os.geteuid():
                    error.strerror = f'{error.strerror}; run this with sudo'
                raise
            files.append(file(path, Caps.from_file(path)))
    out.document = {'files': files}
    return True


def verify(arguments: argparse.Namespace, out: Output) -> bool:
    files, is_same = [], True
    for wanted, path in _pairs(arguments):
        with out.noting():
            caps = Caps.from_file(path)
            files.append(file(path, caps))
            if caps.marked and caps == wanted:
                out.line(path, 'OK')
                continue
            is_same = False
            out.line(path, f'has {caps if caps.marked else "none"}, not {wanted}', style='yellow')
    out.document = {'files': files}
    return is_same
