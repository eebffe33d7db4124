"""A privileged copy of a program: written so that no crash leaves half of it, and taken back.

A file has its capabilities last, when nobody can write to it any more, and through a descriptor
by which they are taken away again wherever the name has gone meanwhile.
"""

import errno
import grp
import os
import pwd
import secrets
import stat
from contextlib import ExitStack, suppress

from caps import Caps, _caps
from caps.admin.transaction import AdminError
from caps.system.path import NOBODY

RENAME_EXCHANGE = 2
AT_FDCWD = -100
UNCLAIMED = 1 << 31  # no system gives out ids from here on


def write_copy(
    path: str,
    content: bytes,
    owner: tuple[int, int],
    mode: int,
    caps: Caps | None,
    directory: int | None = None,
) -> int:
    """Write a file, which is on the disk when this returns, and mark it.

    path, directory: where it will be, and the descriptor of the directory that this starts from
    owner, mode, caps: the user and group, permissions, and capabilities; None for no mark

    Returns a descriptor to read it, and to `strip` it by.
    Raises OSError, which names the file, and leaves nothing there.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with open(os.open(path, flags, 0o600, dir_fd=directory), 'wb') as file:
        try:
            file.write(content)
            file.flush()
            fd = os.open(f'/proc/self/fd/{file.fileno()}', os.O_RDONLY | os.O_CLOEXEC)
        except BaseException:
            os.unlink(path, dir_fd=directory)
            raise
    try:
        os.fchown(fd, *owner)  # which takes mode bits and capabilities away
        os.fchmod(fd, mode)
        if caps is not None:
            caps.apply(fd)
        os.fsync(fd)
    except BaseException as error:
        take_back(fd, path, directory)
        os.close(fd)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, path) from None
        raise
    return fd


def strip(fd: int) -> None:
    """Make an open file useless to everyone, whatever it is called by now."""
    with suppress(OSError):  # it may have no capabilities; the mode closes it anyway
        Caps.remove(fd)
    os.fchmod(fd, 0)


def take_back(fd: int, path: str, directory: int | None = None) -> None:
    """Strip a copy, and remove its name where it still is its name."""
    strip(fd)
    with suppress(FileNotFoundError):
        named = os.stat(path, dir_fd=directory, follow_symlinks=False)
        if os.path.samestat(named, os.fstat(fd)):
            os.unlink(path, dir_fd=directory)


def exchange(one: str, other: str) -> None:
    """Exchange two names, so that at no time either is missing.

    A file that loses its name still has the other one, by which a process that runs it finds it in
    /proc.  Where the file system cannot exchange, the second is replaced by the first, and the
    first gets what the second was.
    """
    names = os.fsencode(one), os.fsencode(other)
    call = _caps.RENAMEAT2, AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE
    failed = _caps.system_calls([call], False)
    if failed is None:
        return
    if failed[0] not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(failed[0], os.strerror(failed[0]), other)
    os.link(other, f'{one}.old', follow_symlinks=False)
    os.replace(one, other)
    os.rename(f'{one}.old', one)


def sync(directory: str | int) -> None:
    """Have the names in a directory, by its path or descriptor, on the disk."""
    with ExitStack() as held:
        if isinstance(directory, str):
            directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            held.callback(os.close, directory)
        try:
            os.fsync(directory)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a file system that cannot
                raise


def unused_id() -> int:
    """A number that is no user's and no group's, for what nobody else may reach meanwhile.

    Raises AdminError where this user namespace has none.
    """
    both = [
        range(max(user.start, group.start, 1), min(user.stop, group.stop, 2**32 - 2))
        for user in _mapped('uid')
        for group in _mapped('gid')
    ]
    high = [range(max(ids.start, UNCLAIMED), ids.stop) for ids in both if ids.stop > UNCLAIMED]
    for _ in range(1000):
        if not (ranges := [ids for ids in high or both if ids]):
            break
        number = secrets.choice(secrets.choice(ranges))
        if number not in (NOBODY, 65535) and not _is_used(number):
            return number
    raise AdminError('every id of this user namespace is in use: use one that has more ids')


def _mapped(kind: str) -> list[range]:
    try:
        with open(f'/proc/self/{kind}_map') as file:
            lines = [line.split() for line in file]
    except OSError:
        return [range(2**32)]
    return [range(int(start), int(start) + int(count)) for start, _, count in lines]


def _is_used(number: int) -> bool:
    for find in pwd.getpwuid, grp.getgrgid:
        with suppress(KeyError):
            find(number)
            return True
    return False


def is_ours(info: os.stat_result) -> bool:
    """Whether a file is a regular one that this account made, under one name."""
    return stat.S_ISREG(info.st_mode) and info.st_uid == os.geteuid() and info.st_nlink == 1
