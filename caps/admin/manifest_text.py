r"""The text of a manifest: which files carry which capabilities, a line each, and where to look.

::

    # what the machine needs
    search /usr
    file /usr/bin/ping cap_net_raw=ep root root 755
    file "/srv/my backup.py" cap_dac_read_search=i backup backup 750 sha256=...

A word with blanks, quotes, backslashes, a leading # or anything that is not printable is written in
double quotes, in which ``\"``, ``\\`` and ``\xHH``, a byte, are what C has.  Comments begin with #,
on a line of their own or behind an entry, and stay where they are.
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from caps import Caps
from caps.accounts import id_of

SIZE = 1 << 20  # bytes of a line
WORD = re.compile(r'[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s"\\]+))(?=[ \t]|$)')
ESCAPE = re.compile(r'\\(x[0-9a-fA-F]{2}|.)')
DIGEST = re.compile('[0-9a-f]{64}')
# Nearly every line: it is read so ten times faster.
_WORD = r'([^\s"\\#][^\s"\\]*)'
PLAIN = re.compile(
    rf'file (/[^\s"\\]+) {_WORD} {_WORD} {_WORD} ([0-7]{{1,4}})(?: sha256=([0-9a-f]{{64}}))?\n?'
)


class ManifestError(ValueError):
    """What is wrong with a line of a manifest."""


@dataclass(slots=True)
class Listed:
    """A file as it is to be.

    path: absolute
    text, root_id: its capabilities, the text being for a kernel that may know more than this one
    owner, group: by name, or by number in digits where there is no name
    mode: its permissions
    sha256: of its content, None for what a package manager verifies
    """

    path: str
    text: str
    owner: str
    group: str
    mode: int
    root_id: int = 0
    sha256: str | None = None

    @property
    def ids(self) -> tuple[int, int]:
        """The numbers of its owner and group; raises LookupError where there is no such account."""
        return id_of('user', _account(self.owner)), id_of('group', _account(self.group))

    @property
    def caps(self) -> Caps:
        """Its capabilities; raises ValueError where this kernel does not know one."""
        caps = Caps(self.text)
        caps.root_id = self.root_id
        return caps

    def __str__(self) -> str:
        words = ['file', quoted(self.path), quoted(self.text), quoted(self.owner)]
        words += [quoted(self.group), f'{self.mode:o}']
        words += [f'rootid={self.root_id}'] if self.root_id else []
        words += [f'sha256={self.sha256}'] if self.sha256 else []
        return ' '.join(words)


@dataclass
class Manifest:
    """What a manifest says: files by path, and the directories that were searched for them."""

    files: dict[str, Listed] = field(default_factory=dict)
    searched: list[str] = field(default_factory=list)

    def each(self) -> Iterator[Listed]:
        """The files."""
        yield from self.files.values()

    def __contains__(self, path: str) -> bool:
        return path in self.files


def _account(name: str) -> str | int:
    return int(name) if name.isdecimal() else name


def quoted(word: str) -> str:
    """A word as it is written, in printable characters."""
    if word and word.isprintable() and not set(word) & set(' "\\') and word[0] != '#':
        return word
    return '"' + ''.join(map(_escaped, word)) + '"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return '\\' + char
    if char.isprintable():
        return char
    return ''.join(f'\\x{byte:02x}' for byte in os.fsencode(char))


def _unescaped(text: str) -> str:
    def byte(match: re.Match[str]) -> bytes:
        code = match[1]
        if code in ('"', '\\'):
            return code.encode()
        if len(code) != 3:
            raise ManifestError(f'\\{code} means nothing')
        return bytes([int(code[1:], 16)])

    parts, end = [], 0
    for match in ESCAPE.finditer(text):
        parts += [os.fsencode(text[end : match.start()]), byte(match)]
        end = match.end()
    return os.fsdecode(b''.join([*parts, os.fsencode(text[end:])]))


def words_of(line: str) -> tuple[list[str], str]:
    """The words of a line, and its comment with the blanks before that."""
    words: list[str] = []
    place = 0
    while rest := line[place:].strip(' \t'):
        if rest[0] == '#':
            return words, line[place:]
        match = WORD.match(line, place)
        if not match:
            raise ManifestError('a quote is not closed, or there is no blank beside it')
        words.append(_unescaped(match[1]) if match[1] is not None else match[2])
        place = match.end()
    return words, ''


def entry(words: list[str]) -> Listed | str:
    """What a line says: a file, or a directory to search.

    Raises ManifestError for anything that is not wholly understood.
    """
    match words:
        case ['search', path]:
            return _path(path)
        case ['file', path, text, owner, group, mode, *options]:
            if not re.fullmatch('[0-7]{1,4}', mode):
                raise ManifestError(f'{mode!r} is not a mode, such as 755')
            listed = Listed(_path(path), text, _name(owner), _name(group), int(mode, 8))
            for option in options:
                _set(listed, *option.partition('=')[::2])
            return listed
        case _:
            raise ManifestError('a line is "search DIR" or "file PATH CAPS OWNER GROUP MODE"')


def _set(listed: Listed, name: str, value: str) -> None:
    if name == 'sha256' and listed.sha256 is None and DIGEST.fullmatch(value):
        listed.sha256 = value
    elif name == 'rootid' and not listed.root_id and value.isdecimal() and int(value) < 2**32 - 1:
        listed.root_id = int(value)
    else:
        raise ManifestError(f'{name}={value} is not an option of a file')


def _path(path: str) -> str:
    if not path.startswith('/') or '\0' in path or os.path.normpath(path) != path:
        raise ManifestError(f'{path!r} is not a whole path without . and ..')
    return path


def _name(name: str) -> str:
    if not name or '\0' in name:
        raise ManifestError('an account needs a name')
    return name


def lines_of(content: Iterable[bytes], name: str) -> Iterator[tuple[str, Listed | str | None, str]]:
    """Each line, what it says (None for nothing) and its comment.

    content: the lines as bytes
    name: of the file, for messages
    Raises ManifestError, with the number of the line, for what is not wholly understood.
    """
    for number, part in enumerate(content, 1):
        try:
            if len(part) > SIZE:
                raise ManifestError('the line is too long')
            line = part.decode()
            match = PLAIN.fullmatch(line)
            if match and '/.' not in match[1] and '//' not in match[1] and match[1][-1] != '/':
                path, text, owner, group, mode, sha256 = match.groups()
                yield (
                    line.rstrip('\n'),
                    Listed(path, text, owner, group, int(mode, 8), 0, sha256),
                    '',
                )
                continue
            line = line.rstrip('\n')
            words, comment = words_of(line)
            said = entry(words) if words else None
        except UnicodeDecodeError:
            raise ManifestError(f'{name}:{number}: not UTF-8: write \\xHH in quotes') from None
        except ManifestError as error:
            raise ManifestError(f'{name}:{number}: {error}') from None
        yield line, said, comment


def merged(content: Iterable[bytes], name: str, news: Manifest) -> Iterator[str]:
    """The lines of a manifest with what is news changed in place or added at the end."""
    left, searched = dict(news.files), [*news.searched]
    for line, said, comment in lines_of(content, name):
        if isinstance(said, Listed) and said.path in news.files:
            if said.path in left:
                yield f'{left.pop(said.path)}{comment}'
        else:
            yield line
            if isinstance(said, str) and said in searched:
                searched.remove(said)
    yield from (f'search {quoted(path)}' for path in searched)
    yield from map(str, left.values())
