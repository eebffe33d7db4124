"""A script made ready for ppy in one step, or left as it was, and the way back.

1. What is judged is what is copied: one descriptor, whose own path in the kernel is the one that
   was named, with no link on it but root's, in directories that only root and the script's owner
   can change.  So nobody who owns a directory above can have another file marked or copied.
2. What is marked is always a new file.  Who has the old one open, as its former owner may, has
   nothing of it, and nobody can open the old one who could not before.
"""

import os
import pwd
import re
import secrets
import shlex
import stat
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

from caps import Caps, CapSet
from caps.accounts import group_name, id_of, user_name
from caps.admin.copies import sync, take_back, write_copy
from caps.admin.installation import Installation, named, recorded
from caps.admin.opening import opened_file, refuse
from caps.admin.places import stops, without_links
from caps.admin.registry import Script, forget, recording
from caps.admin.transaction import AdminError, transaction
from caps.system.launcher import NAME, PREFIX
from caps.system.path import strangers
from caps.system.run import Account, RunError, run_as

PathText = str | os.PathLike[str]
MODE = 0o750  # who may start a script chooses its arguments: its owner, and members of its group
SIZE = 1 << 26  # bytes that a script may have


class MarkError(AdminError):
    """The reason why a script was left as it was."""


@dataclass
class MarkedScript:
    """A script that ppy launches.

    path: where it is
    caps: its capabilities
    owner, group: the accounts that it runs as; members of the group may start it
    command: the line that starts it
    problems: why caps status will not list it, if so
    """

    path: str
    caps: Caps
    owner: str
    group: str
    command: str
    problems: list[str] = field(default_factory=list)


def inheritable(text: str) -> Caps:
    """Capability text with nothing but inheritable, or a bare list of capabilities, as that.

    Raises ValueError for any other text.
    """
    if not set(text) & set('=+-'):
        members = CapSet.all() if text.lower() == 'all' else CapSet(text)
        return Caps(inheritable=members)
    caps = Caps(text)
    if caps.effective or caps.permitted:
        wanted = Caps(inheritable=caps.effective | caps.permitted | caps.inheritable)
        raise ValueError(f'ppy gives a script what its mark has inheritable: {wanted}')
    return caps


def mark(
    script: PathText,
    caps: Caps,
    owner: str | int | None = None,
    group: str | int | None = None,
    to: PathText | None = None,
    prefix: PathText = PREFIX,
    name: str = NAME,
) -> MarkedScript:
    """Give a script an owner, a group, mode 750 and a mark, and check it as ppy would.

    script: the script, which is replaced where it is
    caps: its mark, which has nothing but inheritable
    owner, group: the accounts that it runs as; by default its owner, and the group of that account
    to: a directory in which a copy is made instead
    prefix, name: the ppy that is to launch it

    Raises MarkError, and nothing is changed, where ppy would refuse it.
    """
    if os.geteuid():
        raise MarkError('this needs root: run it with sudo')
    refuse(strangers(os.path.dirname(named(prefix, name).ppy)), MarkError)
    ppy = recorded(prefix, name)
    if ppy is None:
        raise MarkError(f'there is no ppy in {prefix}: caps ppy install')
    if ppy.allowed is not None and (missing := caps.inheritable - ppy.allowed):
        raise MarkError(f'{ppy.ppy} was installed so that it cannot give {missing}: {ppy.command}')
    with (
        opened_file(script, refusal=MarkError) as (path, fd),
        ExitStack() as held,
        transaction() as undo,
    ):
        uid, gid = _ids(os.fstat(fd), path, owner, group, ppy)
        if to is None and os.fstat(fd).st_nlink > 1:
            raise MarkError('the script has several hard links: copy it with --to')
        place = os.path.dirname(path) if to is None else to
        path, problems = _copy(fd, path, place, (uid, gid), caps, ppy, held, undo)
        if to is None and Caps.from_file(fd).marked:
            Caps.remove(fd)  # those who have it open get nothing by it
        command = _command(ppy, path, os.pread(fd, 4096, 0))
        return MarkedScript(path, caps, user_name(uid), group_name(gid), command, problems)


def unmark(script: PathText) -> str:
    """Take the mark of a script away, and what a killed `mark` left; owner and mode stay.

    Raises MarkError where it has none, and none is recorded.
    """
    path = without_links(os.path.abspath(script))
    if (os.path.islink(path) or not os.path.isfile(path)) and forget(Script(path)):
        return path
    with opened_file(script, refusal=MarkError) as (path, fd):
        directory, name = os.path.split(path)
        place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            swept = _sweep(name, place)
        finally:
            os.close(place)
        if is_marked := Caps.from_file(fd).marked:
            Caps.remove(fd)
            os.fsync(fd)
        if not (forget(Script(path)) or is_marked or swept):
            raise MarkError(f'{path} is not marked')
        return path


def _sweep(name: str, place: int) -> bool:
    """Take away what a command that was killed has left of a script; whether it left anything."""
    pattern = re.compile(rf'\.{re.escape(name)}\.[0-9a-f]{{16}}')
    left = [entry for entry in os.listdir(place) if pattern.fullmatch(entry)]
    for entry in left:
        with suppress(OSError):  # no file, or one without a mark
            fd = os.open(entry, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=place)
            try:
                Caps.remove(fd)
            finally:
                os.close(fd)
        with suppress(FileNotFoundError):
            os.unlink(entry, dir_fd=place)
    return bool(left)


def _ids(
    info: os.stat_result,
    path: str,
    owner: str | int | None,
    group: str | int | None,
    ppy: Installation,
) -> tuple[int, int]:
    """Whom a script is to run as."""
    try:
        uid = info.st_uid if owner is None else id_of('user', owner)
        if group is not None:
            gid = id_of('group', group)
        elif owner is None and info.st_gid:
            gid = info.st_gid
        else:
            gid = pwd.getpwuid(uid).pw_gid
    except KeyError:
        raise MarkError(f'user {owner} has no account: say --group') from None
    except LookupError as error:
        raise MarkError(f'{error}') from None
    if not ppy.allow_root:
        if not uid:
            raise MarkError(f'{path} would run as root: say --owner USER')
        if not gid:
            raise MarkError(f'{path} would run in the group of root: say --group GROUP')
    return uid, gid


def _copy(
    fd: int,
    path: str,
    to: PathText,
    owner: tuple[int, int],
    caps: Caps,
    ppy: Installation,
    held: ExitStack,
    undo: ExitStack,
) -> tuple[str, list[str]]:
    """Copy a script into a directory, where the copy is checked before it gets its name."""
    *linked, directory = stops(os.path.abspath(to))
    for stop in linked:
        refuse(strangers(stop), MarkError)
    refuse(strangers(directory, owner[0]), MarkError)
    try:
        place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise MarkError(f'{directory}: {error.strerror}') from None
    held.callback(os.close, place)
    if os.readlink(f'/proc/self/fd/{place}') != directory:
        raise MarkError(f'{directory} has become another directory meanwhile')
    name = os.path.basename(path)
    temporary = f'.{name}.{secrets.token_hex(8)}'
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(os.stat(name, dir_fd=place, follow_symlinks=False).st_mode):
            raise MarkError(f'{directory}/{name} is in the way: it is not a regular file')
    with open(os.dup(fd), 'rb') as file:
        content = file.read(SIZE + 1)
    if len(content) > SIZE:
        raise MarkError(f'{path} is no script: it has more than {SIZE} bytes')
    _sweep(name, place)
    written = write_copy(temporary, content, owner, MODE, caps, place)
    held.callback(os.close, written)
    undo.callback(take_back, written, temporary, place)
    _check(ppy, f'{directory}/{temporary}', *owner)
    problems = recording(Script(f'{directory}/{name}'), undo)
    os.rename(temporary, name, src_dir_fd=place, dst_dir_fd=place)
    undo.pop_all()
    sync(place)
    return f'{directory}/{name}', problems


def _check(ppy: Installation, path: str, uid: int, gid: int) -> None:
    """Have ppy-check judge a script, as its owner."""
    program = f'{ppy.ppy}-check'
    try:
        finished = run_as([program, path], Account(uid, gid) if uid else None)
    except (OSError, RunError) as error:
        raise MarkError(f'{program} cannot check the script: {error}') from None
    lines = os.fsdecode(finished.output + finished.errors).splitlines()
    refused = [line.removeprefix('REFUSED ') for line in lines if line.startswith('REFUSED ')]
    if refused or finished.status:
        reason = '\n'.join(refused) or f'ppy-check ends with {finished.status}'
        raise MarkError(f'ppy would refuse the script: {reason}')


def _command(ppy: Installation, path: str, content: bytes) -> str:
    first = content.partition(b'\n')[0]
    is_own = first[:2] == b'#!' and os.fsdecode(first[2:].strip()) == ppy.ppy
    return shlex.quote(path) if is_own else shlex.join([ppy.ppy, path])
