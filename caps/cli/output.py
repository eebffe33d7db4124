"""Where a command's results go: lines and tables for people, one JSON document for programs."""

import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

LINE_BREAKERS = 'Cc', 'Zl', 'Zp'
STYLES = {'bold': '\x1b[1m', 'yellow': '\x1b[33m', 'red': '\x1b[31m', 'dim': '\x1b[2m'}


def escaped(text: str) -> str:
    """Text that cannot act on a terminal: what is not printable becomes a backslash and a code."""
    if text.isprintable() and '\\' not in text:
        return text
    return ''.join(char if char.isprintable() and char != '\\' else _escape(char) for char in text)


def in_one_line(text: str) -> str:
    """Text for a pipe, in which no name can make a line of its own or act on a terminal later."""
    if text.isprintable():
        return text
    import unicodedata

    return ''.join(_escape(char) if unicodedata.category(char) in LINE_BREAKERS else char
                   for char in text)  # fmt: skip


def _escape(char: str) -> str:
    if '\udc80' <= char <= '\udcff':  # a byte that is not UTF-8, as os.fsdecode passes it on
        return f'\\x{ord(char) - 0xDC00:02x}'
    return char.encode('unicode_escape').decode()


def folded(text: str, width: int) -> list[str]:
    """Lines of at most a width, where words and what follows a comma allow it."""
    lines = ['']
    for word in _words(text):
        if lines[-1] and len(lines[-1]) + len(word.rstrip()) > width:
            lines.append('')
        lines[-1] += word
    return [line.rstrip() for line in lines]


def _words(text: str) -> list[str]:
    import re

    return re.findall(r'[^ ,]*[ ,]*', text)


def _narrowest(text: str) -> int:
    return max(len(word.rstrip()) for word in _words(text))


def _column_widths(
    headers: Sequence[str], rows: Sequence[Sequence[str]], width: int
) -> list[int] | None:
    """Columns that fit into a width, the widest folded first; None where no folding does it."""
    columns = [*zip(headers, *rows, strict=True)]
    widths = [max(map(len, column)) for column in columns]
    least = [max(map(_narrowest, column)) for column in columns]
    if sum(least) > width:
        return None
    while sum(widths) > width:
        foldable = [n for n in range(len(widths)) if widths[n] > least[n]]
        widest = max(foldable, key=lambda n: widths[n])
        widths[widest] -= 1
    return widths


class Output:
    """Prints lines and tables, or collects a document to be printed as JSON at the end.

    A terminal gets colour (unless NO_COLOR is set), tables where rich is installed, and names
    escaped; anything else gets names as they are, but for control characters.
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.document: dict[str, object] = {}
        self.problems: list[str] = []
        self.on_terminal = sys.stdout.isatty()
        self.has_colour = self.on_terminal and not os.environ.get('NO_COLOR')
        for stream in sys.stdout, sys.stderr:
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors='surrogateescape')

    def line(self, *words: str, style: str = '') -> None:
        """Print words, the last one in a style; nothing where JSON is asked for."""
        if self.as_json:
            return
        show = escaped if self.on_terminal else in_one_line
        if self.has_colour and style:
            *plain, last = map(show, words)
            print(*plain, f'{STYLES[style]}{last}\x1b[m')
        else:
            print(show(' '.join(words)))

    def text(self, text: str) -> None:
        """Print a line of a file, in which what is not printable is escaped as the file has it."""
        if not self.as_json:
            print(text)

    def name(self, name: str) -> None:
        """Print the name of a file as it is, ended as xargs(1) has it with --null."""
        if not self.as_json:
            print(name, end='\0')

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print rows in columns."""
        if self.as_json:
            return
        if not self.on_terminal or not self._rich_table(headers, rows):
            show = escaped if self.on_terminal else in_one_line
            rows = [[*map(show, row)] for row in rows]
            widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
            for row in headers, *rows:
                cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
                print('  '.join(cells).rstrip())

    def _rich_table(self, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
        try:
            from rich.box import SIMPLE_HEAD
            from rich.console import Console
            from rich.table import Table
            from rich.text import Text
        except ImportError:
            return False
        console = Console(highlight=False, no_color=not self.has_colour)
        rows = [[escaped(cell) for cell in row] for row in rows]
        widths = _column_widths(headers, rows, console.width - 3 * len(headers))
        if widths is None:
            for row in rows:
                self._stacked(headers, row, console.width)
            return True
        drawn = Table(*headers, box=SIMPLE_HEAD, pad_edge=False)
        for row in rows:
            cells = zip(row, widths, strict=True)
            drawn.add_row(*(Text('\n'.join(folded(cell, width))) for cell, width in cells))
        console.print(drawn)
        return True

    def _stacked(self, headers: Sequence[str], row: Sequence[str], width: int) -> None:
        """A row of a table that does not fit: its cells one below the other."""
        for header, cell in zip(headers, row, strict=True):
            start = f'{header if cell is row[0] else "  " + header:<10}'
            if cell:
                print(start + f'\n{" " * 10}'.join(folded(cell, max(width - 12, 1))))

    def problem(self, error: Exception | str) -> None:
        """Say on standard error what went wrong; it is in the document too."""
        message = str(error.args[0] if isinstance(error, KeyError) else error)
        if isinstance(error, OSError) and error.strerror:
            # A descriptor, which can be in the place of a name, says nothing to a reader.
            has_name = isinstance(error.filename, (str, bytes))
            named = f'{os.fsdecode(error.filename)}: ' if has_name else ''
            message = f'{named}{error.strerror}'
        self.problems.append(message)
        print(f'caps: {escaped(message)}', file=sys.stderr)

    @contextmanager
    def noting(self) -> Iterator[None]:
        """A block whose failure is a problem, not the end of the command."""
        try:
            yield
        except BrokenPipeError:  # no file's failure: the reader has seen enough
            raise
        except (OSError, ValueError, OverflowError) as error:
            self.problem(error)

    def finish(self) -> None:
        """Print the document, if that is what was asked for."""
        if self.as_json:
            import json

            print(json.dumps(self.document | {'problems': self.problems}, indent=2))


class Progress:
    """A line on a terminal that says how far a command is, once it has taken a second."""

    def __init__(self, stream: 'TextIO', seconds: float = 1) -> None:
        self._stream, self._ticks_left, self._is_shown = stream, int(seconds * 10), False

    def tick(self, text: str) -> None:
        """Show a text; to be called ten times a second."""
        self._ticks_left -= 1
        if self._ticks_left < 0 and self._stream.isatty():
            width = os.get_terminal_size(self._stream.fileno()).columns or 80
            print(f'\r{escaped(text)[: width - 1]}\x1b[K', end='', file=self._stream, flush=True)
            self._is_shown = True

    def clear(self) -> None:
        """Take the line away."""
        if self._is_shown:
            print('\r\x1b[K', end='', file=self._stream, flush=True)
