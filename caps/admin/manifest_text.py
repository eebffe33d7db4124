r"""The text of a manifest: what carries which capabilities, a line each, and where to look.

::

    # what the machine needs
    search /usr
    file /usr/bin/ping cap_net_raw=ep root root 755
    file "/srv/my backup.py" cap_dac_read_search=i backup backup 750 sha256=...
    ppy /usr/local ppy /opt/caps/bin/python allow=cap_net_raw group=operator
    venv /srv/app/venv cap_net_raw=ep app group=app

A word with blanks, quotes, backslashes, a leading # or anything that is not printable is written in
double quotes, in which ``\"``, ``\\`` and ``\xHH``, a byte, are what C has.  Comments begin with #,
on a line of their own or behind an entry, and stay where they are.
"""

import os
import re
from collections.abc import Iterable, Iterator

from caps.admin.listed import Listed, ListedCopy, ListedPpy, ListedVenv, Manifest
from caps.admin.quoting import ManifestError, quoted, words_of

SIZE = 1 << 20  # bytes of a line
DIGEST = re.compile('[0-9a-f]{64}')
ID = re.compile('[0-9]{1,10}')
# Nearly every line: it is read so ten times faster.
_WORD = r'([^\s"\\\0#][^\s"\\\0]*)'
_NAME = r'([^\s"\\\0#\d][^\s"\\\0]*|[0-9]{1,10})'
PLAIN = re.compile(
    rf'file (/[^\s"\\\0]+) {_WORD} {_NAME} {_NAME} ([0-7]{{1,4}})(?: sha256=([0-9a-f]{{64}}))?\n?'
)

Said = Listed | ListedCopy | str


def entry(words: list[str]) -> Said:
    """What a line says: a file, a ppy, an environment, or a directory to search.

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
        case ['ppy', prefix, name, interpreter, *options] if '/' not in name:
            ppy = ListedPpy(_path(prefix), _name(name), _path(interpreter))
            for option in options:
                _choose(ppy, *option.partition('=')[::2])
            return ppy
        case ['venv', path, text, owner, *options]:
            venv = ListedVenv(_path(path), text, _name(owner))
            for option in options:
                _choose(venv, *option.partition('=')[::2])
            return venv
        case _:
            raise ManifestError(
                'a line is "search DIR", "file PATH CAPS OWNER GROUP MODE", '
                '"ppy PREFIX NAME INTERPRETER" or "venv DIR CAPS OWNER"'
            )


def _choose(copy: ListedCopy, name: str, value: str) -> None:
    if name == 'group' and value and copy.group is None:
        copy.group = _name(value)
    elif name == 'allow' and value and isinstance(copy, ListedPpy) and not copy.text:
        copy.text = value
    elif name in ('setuid', 'allow-root') and not value and isinstance(copy, ListedPpy):
        setattr(copy, name.replace('-', '_'), True)
    else:
        raise ManifestError(f'{name}={value} is not an option of a ppy or an environment')


def _set(listed: Listed, name: str, value: str) -> None:
    if name == 'sha256' and listed.sha256 is None and DIGEST.fullmatch(value):
        listed.sha256 = value
    elif name == 'rootid' and not listed.root_id and ID.fullmatch(value):
        listed.root_id = int(value)
        if listed.root_id >= 2**32 - 1:
            raise ManifestError(f'{value} is not a user id')
    else:
        raise ManifestError(f'{name}={value} is not an option of a file')


def _path(path: str) -> str:
    if not path.startswith('/') or '\0' in path or os.path.normpath(path) != path:
        raise ManifestError(f'{path!r} is not a whole path without . and ..')
    return path


def _name(name: str) -> str:
    if not name or '\0' in name or (name.isdecimal() and not ID.fullmatch(name)):
        raise ManifestError('an account needs a name, or a number')
    return name


def lines_of(content: Iterable[bytes], name: str) -> Iterator[tuple[str, Said | None, str]]:
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
    files, copies, searched = dict(news.files), dict(news.copies), [*news.searched]
    for line, said, comment in lines_of(content, name):
        left: dict[str, Listed] | dict[str, ListedCopy] = (
            files if isinstance(said, Listed) else copies
        )
        known = news.files if isinstance(said, Listed) else news.copies
        if said is not None and not isinstance(said, str) and said.path in known:
            if said.path in left:
                yield f'{left.pop(said.path)}{comment}'
        else:
            yield line
            if isinstance(said, str) and said in searched:
                searched.remove(said)
    yield from (f'search {quoted(path)}' for path in searched)
    yield from map(str, files.values())
    yield from map(str, copies.values())
