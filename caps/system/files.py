"""A file that may be executed, and all of it that decides: links, mount, mark, first line."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress

from caps.system.elf import MAGIC, Elf, read_elf
from caps.system.launcher import SIZE, Record, record_in
from caps.system.look import Look, look_at, part
from caps.system.mounts import Mount, mount_of
from caps.system.records import dataclass
from caps.system.shebang import HEAD, FirstLine, first_line, stray_start
from caps.system.types import File, FileCaps

DEPTH = 7  # one more than the kernel follows
LINKS = 40  # as many as the kernel follows
UNMARKED = '.unmarked'  # what the name of the original ends with, beside a marked copy


@dataclass(frozen=True)
class Executable:
    """A file, and what is worth saying about it.

    path: as it was given
    real_path: without symbolic links; where no path leads to it, what the kernel calls it
    has_path: whether the real path leads to this very file
    links: each symbolic link that `path` itself is, and what it names
    venv: the virtual environment that the path is in and the file is not
    first_line: of a script
    stray: what stands before #! in its first line, in words
    has_acl: whether it has an access control list
    file: what the model of execve(2) needs
    elf: what it tells the loader, where it is a program and may be read
    record: where it is an installed ppy, and may be read
    is_stale: whether it is a copy that differs from the original, a link beside it
    interpreter: the program that the first line names
    """

    path: str
    real_path: str
    has_path: bool
    links: tuple[tuple[str, str], ...]
    venv: str | None
    mount: Mount
    first_line: FirstLine | None
    stray: str | None
    has_acl: bool
    file: File
    elf: Elf | None
    record: Record | None
    is_stale: bool
    interpreter: Executable | None = None

    @property
    def chain(self) -> Iterator[Executable]:
        """This file, its interpreter, the interpreter's interpreter, and so on."""
        yield self
        if self.interpreter:
            yield from self.interpreter.chain


def look_at_file(path: str, depth: int = DEPTH) -> Executable:
    """A file and, if it is a script, its interpreters.

    Raises OSError where there is no such file, or ValueError where its capabilities are malformed.
    """
    with look_at(path) as look:
        if not look.is_regular:
            raise OSError(errno.EACCES, 'not a regular file, which nothing can execute', path)
        return _executable(look, depth)


def _executable(look: Look, depth: int) -> Executable:
    path, mount, real_path = look.path, mount_of(look.fd), look.real_path
    value = look.attribute('security.capability')
    head, elf, record = _content(look)
    line = first_line(head or b'')
    interpreter = _interpreter(path, line, depth)
    file = File(
        path=path,
        mode=look.info.st_mode,
        uid=look.info.st_uid,
        gid=look.info.st_gid,
        caps=None if value is None else FileCaps.from_xattr(value),
        nosuid=mount.nosuid,
        noexec=mount.noexec,
        interpreter=interpreter.file if interpreter else None,
        is_program=head is None or head[:4] == MAGIC or interpreter is not None,
    )
    links = tuple(_links(path))
    return Executable(
        path=path,
        real_path=real_path or look.shown_path,
        has_path=real_path is not None,
        links=links,
        venv=_venv((path, *(target for _, target in links)), real_path or ''),
        mount=mount,
        first_line=line,
        stray=stray_start(head or b''),
        has_acl=look.attribute('system.posix_acl_access') is not None,
        file=file,
        elf=elf,
        record=record,
        is_stale=head is not None and head[:4] == MAGIC and _is_stale(look),
        interpreter=interpreter,
    )


def _content(look: Look) -> tuple[bytes | None, Elf | None, Record | None]:
    """The first bytes of a file, None where they may not be read, and what is in a program."""
    with look.opened() as fd:
        if fd is None:
            return None, None, None
        head = part(fd, HEAD)
        if head[:4] != MAGIC:
            return head, None, None
        small = look.info.st_size <= SIZE
        return head, read_elf(fd), record_in(part(fd, SIZE)) if small else None


def _is_stale(look: Look) -> bool:
    """Whether a copy of an environment's python differs from what the link beside it names."""
    with suppress(OSError), look_at(f'{look.real_path}{UNMARKED}') as original:
        if original.info.st_size != look.info.st_size:
            return True
        with look.opened() as mine, original.opened() as theirs:
            if mine is not None and theirs is not None:
                return part(mine, SIZE) != part(theirs, SIZE)
    return False


def _interpreter(path: str, line: FirstLine | None, depth: int) -> Executable | None:
    if line is None or line.interpreter is None or depth == 1:
        return None
    if not line.interpreter:
        reason = 'its first line names no interpreter, which the kernel refuses'
        raise PermissionError(errno.EACCES, reason, path)
    try:
        return look_at_file(line.interpreter, depth - 1)
    except FileNotFoundError as error:
        if error.filename == line.interpreter:
            error.strerror = f'{error.strerror}, which the first line of {path} names'
        raise


def _links(path: str) -> Iterator[tuple[str, str]]:
    for _ in range(LINKS):
        try:
            target = os.path.join(os.path.dirname(path), os.readlink(path))
        except OSError:  # no link, or one that is gone
            return
        yield path, target
        path = target


def _venv(paths: tuple[str, ...], real_path: str) -> str | None:
    for path in paths:
        with suppress(OSError), look_at(os.path.join(os.path.dirname(path), os.pardir)) as look:
            venv = look.shown_path
            if os.path.exists(f'{venv}/pyvenv.cfg') and not real_path.startswith(f'{venv}/'):
                return venv
    return None
