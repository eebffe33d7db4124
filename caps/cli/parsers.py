"""What the parsers of all commands share: help with examples and the shape of the document."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from caps.cli.output import Output

    Run = Callable[[argparse.Namespace, Output], bool]

EXIT = """\
exit status:
  0  done, and what was asked for is there
  1  refused, something went wrong, or nothing was found
  2  wrong usage
"""


class Formatter(argparse.HelpFormatter):
    """What a parser consults for each argument, without asking for the terminal each time."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=100)


class Parser(argparse.ArgumentParser):
    """The parser of a command, which knows the command's examples and document too.

    examples: notes and examples as the help shows them.
    shape: of the document that --json prints, None where there is none.
    """

    def __init__(
        self, *, examples: str, shape: dict[str, object] | None = None, **options: Any
    ) -> None:
        super().__init__(formatter_class=Formatter, **options)
        self.examples = examples
        self.shape = shape

    def format_help(self) -> str:
        self.formatter_class = argparse.RawDescriptionHelpFormatter
        self.epilog = f'{self.examples}\n{EXIT}'
        if self.shape:
            self.epilog += f'\n--json prints, each leaf being a type:\n{shape_text(self.shape)}'
        return super().format_help()


def shape_text(shape: dict[str, object]) -> str:
    """The shape of a document, as help shows it."""
    return re.sub(r'\[\s+("[^"]*")\s+\]', r'[\1]', json.dumps(shape, indent=2))


class Commands:
    """The commands of a parser."""

    def __init__(self, parser: Parser) -> None:
        # With a prog it does not load what draws help.
        self._action = parser.add_subparsers(required=True, metavar='COMMAND', prog=parser.prog)

    def add(
        self,
        name: str,
        run: Run,
        text: str,
        examples: str,
        shape: dict[str, object] | None = None,
    ) -> Parser:
        """Add a command, which takes --json where its document has a shape.

        run: does the command and returns whether what was asked for is there.
        text: what it does, for help.
        """
        parser = self._add(name, text, examples, shape)
        parser.set_defaults(run=run)
        if shape:
            parser.add_argument('--json', action='store_true', help='print one JSON document')
        return parser

    def group(self, name: str, text: str, examples: str) -> Commands:
        """Add a command that has commands of its own."""
        return Commands(self._add(name, text, examples, None))

    def _add(self, name: str, text: str, examples: str, shape: dict[str, object] | None) -> Parser:
        description = f'{text[0].upper()}{text[1:]}.'
        parser: Parser = self._action.add_parser(
            name, help=text, description=description, examples=examples, shape=shape
        )
        return parser
