"""What `ppy install`, `venv mark` and `ppy mark` have made, and where, in a file of root's alone.

1. A thing is recorded before it is in place and forgotten after it is gone.  So whatever is there
   is recorded, wherever a command is killed; what is recorded and not there, status tells.
2. What root alone can change says itself how it was made: a ppy has that in its launcher.  Others
   can exchange an environment's python, so its mark is recorded here and not read from there.
3. The file is replaced whole, by one command at a time, and is not there while it lists nothing.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from caps.admin.copies import is_ours, sync
from caps.admin.opening import refuse
from caps.admin.places import stops
from caps.admin.quoting import ManifestError, quoted, words_of
from caps.admin.rewriting import replace, rewriting
from caps.admin.transaction import AdminError, lock, unlock
from caps.system.look import part
from caps.system.path import strangers

PLACE = '/var/lib/caps'
FILE = 'registry'
TITLE = '# What caps has made on this machine. "caps status" shows it.\n'
SIZE = 1 << 24  # bytes that the file may have


class RegistryError(AdminError):
    """The reason why nothing can be recorded, or why what is recorded is not acted on."""


@dataclass(frozen=True)
class Ppy:
    """An installed ppy, which says itself how it was made."""

    prefix: str
    name: str

    @property
    def path(self) -> str:
        """The path of the launcher."""
        return os.path.join(self.prefix, 'bin', self.name)

    @property
    def words(self) -> list[str]:
        """The words of its line."""
        return ['ppy', self.prefix, self.name]

    @property
    def forgetting(self) -> list[str]:
        """The command that takes it away, or forgets it where it is not there."""
        return ['caps', 'ppy', 'remove', '--prefix', self.prefix, '--name', self.name]


@dataclass(frozen=True)
class Venv:
    """A virtual environment whose python is marked.

    text: its capabilities, which may be of a kernel that knows more
    group: whose members may run it, None for everyone
    """

    path: str
    text: str = ''
    group: str | None = None

    @property
    def words(self) -> list[str]:
        """The words of its line."""
        return ['venv', self.path, self.text, *([self.group] if self.group else [])]

    @property
    def forgetting(self) -> list[str]:
        """The command that takes its mark away, or forgets it where there is none."""
        return ['caps', 'venv', 'unmark', self.path]


@dataclass(frozen=True)
class Script:
    """A marked script."""

    path: str

    @property
    def words(self) -> list[str]:
        """The words of its line."""
        return ['script', self.path]

    @property
    def forgetting(self) -> list[str]:
        """The command that takes its mark away, or forgets it where there is none."""
        return ['caps', 'ppy', 'unmark', self.path]


Entry = Ppy | Venv | Script


def read() -> list[Entry]:
    """What is recorded.

    Raises RegistryError where this is not root, or where others than root could have written it.
    """
    with _opened() as place:
        return [*_entries(place).values()]


def recorded(entry: Entry) -> Entry | None:
    """What is recorded of the same thing."""
    with _opened() as place:
        return _entries(place).get(_key(entry))


def record(entry: Entry) -> Entry | None:
    """Record a thing; what was recorded of it before."""
    return _change(_key(entry), entry)


def forget(entry: Entry) -> Entry | None:
    """Forget a thing; what was recorded of it.  Who is not root has recorded nothing."""
    return None if os.geteuid() else _change(_key(entry), None)


def recording(entry: Entry, undo: ExitStack) -> list[str]:
    """Record what is about to be in place, until it is undone; a sentence where that fails."""
    try:
        before = record(entry)
    except (AdminError, OSError) as error:
        return [f'{entry.path} is not recorded, so caps refresh does not renew it: {error}']
    if before != entry:
        undo.callback(_put_back, entry, before)
    return []


def unrecorded(entry: Entry) -> Iterator[str]:
    """Why caps refresh does not know of a thing that is there; only root can tell."""
    if os.geteuid():
        return
    try:
        if recorded(entry) is None:
            yield 'is not recorded, so caps refresh does not renew it'
    except (AdminError, OSError) as error:
        yield f'is not renewed by caps refresh: {error}'


@contextmanager
def alone(purpose: str) -> Iterator[None]:
    """A block that one command at a time is in; not held where nothing is recorded."""
    with _opened() as place:
        fd = None if place is None else lock(f'.{purpose}.lock', place)
        try:
            yield
        finally:
            if fd is not None:
                unlock(fd, f'.{purpose}.lock', place)
                os.close(fd)


def _put_back(entry: Entry, before: Entry | None) -> None:
    """What a failed command has recorded; where that is impossible, status tells."""
    with suppress(AdminError, OSError):
        _change(_key(entry), before)


def _key(entry: Entry) -> tuple[str, str]:
    return entry.words[0], entry.path


@contextmanager
def _opened(is_made: bool = False) -> Iterator[int | None]:
    """The directory, which is root's alone; None where there is none."""
    if os.geteuid():
        raise RegistryError(f'only root can look into {PLACE}: run it with sudo')
    *linked, above = stops(os.path.dirname(PLACE))
    for stop in (*linked, above):
        refuse(strangers(stop), RegistryError)
    path = os.path.join(above, os.path.basename(PLACE))
    if is_made:
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
            sync(above)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    except NotADirectoryError:  # which a symbolic link is as well
        raise RegistryError(f'{path} is no directory: remove it') from None
    try:
        _require_alone(fd, path)
        yield fd
    finally:
        os.close(fd)


def _require_alone(fd: int, path: str) -> None:
    info = os.fstat(fd)
    if info.st_uid or info.st_mode & 0o077:
        raise RegistryError(
            f"{path} is not root's alone, so what it lists is not trusted: look at it, "
            f'then chown root {path}; chmod 700 {path}'
        )


def _entries(place: int | None) -> dict[tuple[str, str], Entry]:
    """What is recorded, by kind and path."""
    content = b'' if place is None else _content(place)
    entries: dict[tuple[str, str], Entry] = {}
    for number, line in enumerate(content.split(b'\n'), 1):
        try:
            words, _ = words_of(line.decode())
            if words:
                entry = _entry(words)
                entries[_key(entry)] = entry
        except (UnicodeDecodeError, ManifestError) as error:
            reason = error if isinstance(error, ManifestError) else 'not UTF-8'
            raise RegistryError(f'{PLACE}/{FILE}:{number}: {reason}: remove the line') from None
    return entries


def _content(place: int) -> bytes:
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(FILE, flags, dir_fd=place)
    except FileNotFoundError:
        return b''
    except OSError as error:
        raise RegistryError(f'{PLACE}/{FILE}: {error.strerror}: remove it') from None
    try:
        info = os.fstat(fd)
        if not is_ours(info) or info.st_mode & 0o022:
            raise RegistryError(
                f"{PLACE}/{FILE} is not a file of root's alone, so what it lists is not trusted: "
                'remove it'
            )
        content = part(fd, SIZE + 1)
    finally:
        os.close(fd)
    if len(content) > SIZE:
        raise RegistryError(f'{PLACE}/{FILE} has more than {SIZE} bytes: remove it')
    return content


def _entry(words: list[str]) -> Entry:
    """What a line says; raises ManifestError for anything that is not wholly understood."""
    if any('\0' in word for word in words):
        raise ManifestError('no name has a zero byte')
    match words:
        case ['ppy', prefix, name] if _is_whole(prefix) and _is_name(name):
            return Ppy(prefix, name)
        case ['venv', path, text, *groups] if _is_whole(path) and text and len(groups) < 2:
            return Venv(path, text, *groups)
        case ['script', path] if _is_whole(path):
            return Script(path)
    raise ManifestError('a line is "ppy PREFIX NAME", "venv DIR CAPS [GROUP]" or "script FILE"')


def _is_whole(path: str) -> bool:
    return path.startswith('/') and os.path.normpath(path) == path


def _is_name(name: str) -> bool:
    return name not in ('', '.', '..') and '/' not in name


def _change(key: tuple[str, str], entry: Entry | None) -> Entry | None:
    """Record or forget a thing; what was recorded of it before."""
    while True:
        with _opened(is_made=entry is not None) as place:
            before = _entries(place).get(key)
            if before == entry:  # which is also seen where nothing can be written
                return before
        with (
            suppress(FileNotFoundError),  # who forgets the last thing removes the directory
            _without_empty(),
            rewriting(f'{PLACE}/{FILE}') as (fd, name),
        ):
            _require_alone(fd, PLACE)
            entries = _entries(fd)
            before = entries.pop(key, None)
            if entry is not None:
                entries[key] = entry
            lines = [' '.join(map(quoted, each.words)) for each in entries.values()]
            if lines:
                content = TITLE + ''.join(f'{line}\n' for line in lines)
                replace(fd, name, content.encode(), (0, 0), 0o600)
            else:
                os.unlink(name, dir_fd=fd)
                sync(fd)
            return before


@contextmanager
def _without_empty() -> Iterator[None]:
    """A block after which the directory is not there, unless it lists something or is in use."""
    try:
        yield
    finally:
        with suppress(OSError):
            os.rmdir(PLACE)
