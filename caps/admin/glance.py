"""Listed files that are wholly as listed: told by few system calls, and in no words.

`caps.admin.restoring` looks at all other files.
"""

import hashlib
import os
import stat
from contextlib import suppress

from caps.admin.listed import Listed
from caps.admin.places import stops
from caps.system.packages import Digest
from caps.system.path import strangers
from caps.system.types import FileCaps

READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
SIZE = 1 << 24  # bytes of a file that is read at once
NAME = 'security.capability'


class Glance:
    """Keeps the directory of the last file open, since the files of one stand together."""

    def __init__(self) -> None:
        self._directory, self._path, self._fd = '', '', -1
        self._is_safe: dict[int, bool] = {}
        self._ids: dict[tuple[str, str], tuple[int, int] | None] = {}
        self._marks: dict[tuple[bytes, str, int], bool] = {}

    def __enter__(self) -> 'Glance':
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    def is_as_listed(self, listed: Listed, recorded: Digest | None) -> bool:
        """Whether a file is as listed, in a place where only its owner and root can change it.

        recorded: of its content, by its package
        """
        directory, _, name = listed.path.rpartition('/')
        if directory != self._directory or self._fd < 0:
            self._enter(directory)
        ids = self._ids_of(listed)
        if ids is None or listed.mode & 0o022 or not self._is_safe_for(ids[0]):
            return False
        try:
            fd = os.open(name, READ, dir_fd=self._fd)
        except OSError:
            return False
        try:
            info = os.fstat(fd)
            return (
                info.st_mode == stat.S_IFREG | listed.mode
                and (info.st_uid, info.st_gid) == ids
                and info.st_nlink == 1
                and self._is_mark(os.getxattr(fd, NAME), listed)
                and _is_content(fd, info.st_size, listed.sha256, recorded)
            )
        except OSError:
            return False
        finally:
            os.close(fd)

    def _enter(self, directory: str) -> None:
        self._leave()
        *linked, last = stops(directory or '/')
        if any(reason for stop in linked for reason in strangers(stop)):
            return
        with suppress(OSError):
            flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
            self._fd = os.open(directory or '/', flags)
            is_here = os.path.samestat(os.lstat(last), os.fstat(self._fd))
            if is_here and os.readlink(f'/proc/self/fd/{self._fd}') == last:
                self._directory, self._path = directory, last
            else:
                self._leave()

    def _leave(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._directory, self._fd = '', -1
        self._is_safe.clear()

    def _is_safe_for(self, uid: int) -> bool:
        """Whether only root and an owner can change the directory, and the way to it."""
        if self._fd < 0:
            return False
        if uid not in self._is_safe:
            self._is_safe[uid] = not any(strangers(self._path, uid))
        return self._is_safe[uid]

    def _ids_of(self, listed: Listed) -> tuple[int, int] | None:
        names = listed.owner, listed.group
        if names not in self._ids:
            self._ids[names] = None
            with suppress(LookupError, ValueError):
                self._ids[names] = listed.ids
        return self._ids[names]

    def _is_mark(self, attribute: bytes, listed: Listed) -> bool:
        key = attribute, listed.text, listed.root_id
        if key not in self._marks:
            self._marks[key] = False
            with suppress(ValueError):
                self._marks[key] = FileCaps.from_xattr(attribute) == FileCaps.of(listed.caps)
        return self._marks[key]


def _is_content(fd: int, size: int, sha256: str | None, recorded: Digest | None) -> bool:
    if size > SIZE:
        return False
    content = os.read(fd, size + 1)
    if sha256:
        return hashlib.sha256(content).hexdigest() == sha256
    if recorded:
        digest = hashlib.new(recorded.algorithm, content, usedforsecurity=False)
        return digest.hexdigest() == recorded.digits
    return False
