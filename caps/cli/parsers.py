"""What the parsers of all commands share: help with examples and the shape of the document."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    from caps.cli.output import Output

    T = TypeVar('T')
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
        return super().format_help()


class ShapeHelp(argparse.Action):
    """Prints the shape of a command's document, and ends."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print('--json prints, each leaf being a type:')
        print(shape_text(getattr(parser, 'shape', None) or {}))
        parser.exit()


def argument_error(convert: Callable[[str], T]) -> Callable[[str], T]:
    """Have a usage error say what is wrong with an argument, and not only that it is."""

    @functools.wraps(convert)
    def converted(text: str) -> T:
        try:
            return convert(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return converted


def add_json(parser: Parser) -> None:
    """Take --json, which may stand before the command as well as behind it."""
    about = argparse.SUPPRESS if parser.shape is None else 'print one JSON document'
    default = argparse.SUPPRESS
    parser.add_argument('--json', action='store_true', default=default, help=about)


def shape_text(shape: dict[str, object]) -> str:
    """The shape of a document, as help shows it."""
    import json
    import re

    return re.sub(r'\[\s+("[^"]*")\s+\]', r'[\1]', json.dumps(shape, indent=2))


class Commands:
    """The commands of a parser."""

    def __init__(self, parser: Parser) -> None:
        # With a prog it does not load what draws help.
        self._action = parser.add_subparsers(metavar='COMMAND', prog=parser.prog)
        parser.set_defaults(run=None, parser=parser)

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
        parser.set_defaults(run=run, parser=parser)
        if shape:
            help_text = 'say what --json prints'
            parser.add_argument('--help-json', action=ShapeHelp, nargs=0, help=help_text)
        return parser

    def group(self, name: str, text: str, examples: str) -> Commands:
        """Add a command that has commands of its own."""
        return Commands(self._add(name, text, examples, None))

    def _add(self, name: str, text: str, examples: str, shape: dict[str, object] | None) -> Parser:
        description = f'{text[0].upper()}{text[1:]}.'
        parser: Parser = self._action.add_parser(
            name, help=text, description=description, examples=examples, shape=shape
        )
        add_json(parser)
        return parser
