"""A look at a file that anybody may own, and that they may exchange meanwhile.

1. The name is followed once, to one descriptor; all that is said of the file comes through that.
2. The descriptor is of the path only, so nothing happens to a device, a FIFO or a socket.
3. Only a regular file that has content is opened to be read, and no read of it waits or is longer
   than asked for.
4. The real path is a name that led to this very file after it was looked at, or there is none.

A file system in user space (FUSE) can keep any look at its files waiting for ever.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

NO_PROC = '/proc is not mounted here, and files are looked at by their names in it'
NO_NAMESPACE_OF_OURS = struct.pack('<6I', 3 << 24, 0, 0, 0, 0, 2**32 - 1)


class Look:
    """A file by an open descriptor.

    path: as it was given
    fd: of the path only, see open(2), "O_PATH"
    info: what fstat(2) says
    """

    def __init__(self, path: str, fd: int) -> None:
        self.path, self.fd, self.info = path, fd, os.fstat(fd)
        self._way = f'/proc/self/fd/{fd}'

    @property
    def is_regular(self) -> bool:
        """Whether it is a file that can be read without effect."""
        return stat.S_ISREG(self.info.st_mode)

    @property
    def shown_path(self) -> str:
        """What the kernel calls it, which need not be a path that leads to it."""
        return os.readlink(self._way)

    @property
    def real_path(self) -> str | None:
        """Its path without symbolic links; None where no path leads to it."""
        path = self.shown_path
        with suppress(OSError):
            if os.path.samestat(os.lstat(path), self.info):
                return path
        return None

    def attribute(self, name: str) -> bytes | None:
        """An extended attribute, None where there is none; the kernel has 64 KiB as their limit."""
        try:
            return os.getxattr(self._way, name)
        except OSError as error:
            if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
                return None
            if error.errno == errno.EOVERFLOW:  # for a user namespace that this one cannot see
                return NO_NAMESPACE_OF_OURS
            raise OSError(error.errno, error.strerror, self.path) from None

    @contextmanager
    def opened(self) -> Iterator[int | None]:
        """A descriptor to read from; None where it is no regular file, or may not be read."""
        if not self.is_regular:
            yield None
            return
        # A file that the kernel makes up has no size, and reading it may consume it (/proc/kmsg).
        way = self._way if self.info.st_size else os.devnull
        try:
            fd = os.open(way, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise OSError(errno.EOPNOTSUPP, NO_PROC) from None
        except OSError:  # no permission, or a lease that its owner does not give up
            yield None
            return
        try:
            yield fd
        finally:
            os.close(fd)


@contextmanager
def look_at(path: str) -> Iterator[Look]:
    """A look at a file, links being followed.

    Raises OSError where there is no such file.
    """
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        yield Look(path, fd)
    finally:
        os.close(fd)


def part(fd: int, size: int, offset: int = 0) -> bytes:
    """Bytes of a file, fewer where it ends or does not answer at once."""
    content = b''
    with suppress(OSError):
        while len(content) < size and offset + size < 1 << 63:
            more = os.pread(fd, size - len(content), offset + len(content))
            if not more:
                break
            content += more
    return content
