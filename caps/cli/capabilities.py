"""caps list and decode: which capabilities there are, and which a mask has."""

from __future__ import annotations

import argparse

from caps import CapSet
from caps.cli.documents import PROBLEMS, Document
from caps.cli.output import Output
from caps.cli.parsers import Commands, argument_error

LIST = """\
An asterisk marks a capability that amounts to root: with it a program can get all others.

examples:
  caps list
  caps list --json | jq -r '.capabilities[] | select(.amounts_to_root) | .name'
"""
DECODE = """\
HEX is a set as /proc/PID/status prints it.

examples:
  caps decode 0000000000003000
  grep CapEff /proc/self/status | caps decode $(cut -f2)
"""
LIST_SHAPE: Document = {
    'capabilities': [
        {'name': 'str', 'number': 'int', 'meaning': 'str | null', 'amounts_to_root': 'bool'}
    ],
    **PROBLEMS,
}
DECODE_SHAPE: Document = {'capabilities': ['str'], **PROBLEMS}


def add(commands: Commands) -> None:
    """Add the commands to a parser."""
    commands.add('list', run_list, 'what each capability allows', LIST, LIST_SHAPE)
    text = 'the capabilities of a mask in hexadecimal'
    parser = commands.add('decode', decode, text, DECODE, DECODE_SHAPE)
    parser.add_argument('mask', type=_mask, metavar='HEX')


@argument_error
def _mask(text: str) -> CapSet:
    return CapSet.from_mask(int(text, 16))


def run_list(arguments: argparse.Namespace, out: Output) -> bool:
    from caps.system.meaning import AMOUNTS_TO_ROOT, MEANING

    rows = [
        (name, CapSet(name).mask.bit_length() - 1, MEANING.get(name), name in AMOUNTS_TO_ROOT)
        for name in CapSet.all()
    ]
    keys = ('name', 'number', 'meaning', 'amounts_to_root')
    out.document = {'capabilities': [dict(zip(keys, row, strict=True)) for row in rows]}
    out.table(
        ('', 'NAME', 'NUMBER', 'ALLOWS TO'),
        [
            ('*' * is_root, name, str(number), meaning or '(newer than this list)')
            for name, number, meaning, is_root in rows
        ],
    )
    return True


def decode(arguments: argparse.Namespace, out: Output) -> bool:
    out.document = {'capabilities': list(arguments.mask)}
    for name in arguments.mask:
        out.line(name)
    return True
