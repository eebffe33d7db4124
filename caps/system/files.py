"""A file that may be executed: what of it, of its links and of its first line has a say."""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from caps.system.mounts import Mount, mount_of
from caps.system.types import File, FileCaps

HEAD = 256  # what the kernel reads of a file to recognise it
DEPTH = 7  # one more than the kernel follows
SIZE = 1 << 26  # of a file that is read as a whole, since anyone's file is looked at


@dataclass(frozen=True)
class Executable:
    """A file, and what is worth saying about it.

    path: as it was given
    real_path: without symbolic links
    size: in bytes
    links: each symbolic link that `path` itself is, and what it names
    venv: the virtual environment that the path is in and the file is not
    shebang: the first line of a script, without its newline
    has_acl: whether it has an access control list
    file: what the model of execve(2) wants
    interpreter: the program that the shebang names
    """

    path: str
    real_path: str
    size: int
    links: tuple[tuple[str, str], ...]
    venv: str | None
    mount: Mount
    shebang: str | None
    has_acl: bool
    file: File
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
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        info, mount = os.fstat(descriptor), mount_of(descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise OSError(errno.EACCES, 'not a regular file, which nothing can execute', path)
    finally:
        os.close(descriptor)
    real_path = os.path.realpath(path)
    head = _head(path)
    shebang, interpreter = _shebang(head)
    try:
        program = look_at_file(interpreter, depth - 1) if interpreter and depth > 1 else None
    except FileNotFoundError as error:
        if error.filename == interpreter:
            error.strerror = f'{error.strerror}, which the first line of {path} names'
        raise
    value = _attribute(path, 'security.capability')
    file = File(
        path=path,
        mode=info.st_mode,
        uid=info.st_uid,
        gid=info.st_gid,
        caps=None if value is None else FileCaps.from_xattr(value),
        nosuid=mount.nosuid,
        noexec=mount.noexec,
        interpreter=program.file if program else None,
        is_program=head is None or head[:4] == b'\x7fELF' or program is not None,
    )
    links = tuple(_links(path))
    return Executable(
        path=path,
        real_path=real_path,
        size=info.st_size,
        links=links,
        venv=_venv((path, *(target for _, target in links)), real_path),
        mount=mount,
        shebang=shebang,
        has_acl=_attribute(path, 'system.posix_acl_access') is not None,
        file=file,
        interpreter=program,
    )


def _head(path: str) -> bytes | None:
    """The first bytes of a regular file, None where it may not be read."""
    if not os.path.isfile(path):
        return b''
    try:
        with open(path, 'rb') as file:
            return file.read(HEAD)
    except PermissionError:
        return None


def _shebang(head: bytes | None) -> tuple[str | None, str | None]:
    """The first line of a script and the interpreter in it; load_script() of the kernel."""
    if head is None or head[:2] != b'#!':
        return None, None
    line, newline, _ = head.partition(b'\n')
    words = re.split(rb'[ \t\0]', line[2:].strip(b' \t'), maxsplit=1)
    is_cut = not newline and len(head) == HEAD and len(words) == 1
    return os.fsdecode(line), None if is_cut else os.fsdecode(words[0]) or None


def _links(path: str) -> Iterator[tuple[str, str]]:
    while os.path.islink(path):
        target = os.path.join(os.path.dirname(path), os.readlink(path))
        yield path, target
        path = target


def _venv(paths: tuple[str, ...], real_path: str) -> str | None:
    for path in paths:
        venv = os.path.realpath(os.path.join(os.path.dirname(path), os.pardir))
        if os.path.exists(f'{venv}/pyvenv.cfg') and not real_path.startswith(f'{venv}/'):
            return venv
    return None


def _attribute(path: str, name: str) -> bytes | None:
    try:
        return os.getxattr(path, name)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        if error.errno == errno.EOVERFLOW:  # for a user namespace that this one cannot see
            return struct.pack('<6I', 3 << 24, 0, 0, 0, 0, 2**32 - 1)
        raise
