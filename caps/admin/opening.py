"""A file that somebody else may own, opened to be changed: one descriptor is judged and changed.

Its own path in the kernel is the one that was named, with no link on it but root's, in directories
that only root and its owner can change.  So nobody who owns a directory above can have another
file changed.
"""

import fcntl
import os
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from caps.admin.places import stops
from caps.admin.transaction import AdminError
from caps.system.path import strangers

PathText = str | os.PathLike[str]


@contextmanager
def opened_file(
    file: PathText, owner: int | None = None, refusal: type[AdminError] = AdminError
) -> Iterator[tuple[str, int]]:
    """The path of a file and a descriptor, where only root and its owner can change the path.

    owner: who that is; by default whose the file is
    refusal: what is raised where it is otherwise
    """
    given = os.path.abspath(file)
    with ExitStack() as held:
        try:
            opened = os.open(given, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            held.callback(os.close, opened)
            info = os.fstat(opened)
            if stat.S_ISLNK(info.st_mode):
                raise refusal(f'{given} is a symbolic link: name what it leads to')
            if not stat.S_ISREG(info.st_mode):
                raise refusal(f'{given} is not a regular file')
            fd = os.open(f'/proc/self/fd/{opened}', os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            held.callback(os.close, fd)
        except OSError as error:
            raise refusal(f'{given}: {error.strerror}') from None
        path = os.readlink(f'/proc/self/fd/{fd}')
        directory, base = os.path.split(path)
        *linked, last = stops(os.path.dirname(given))
        if (last, os.path.basename(given)) != (directory, base):
            raise refusal(f'{given} has become another file meanwhile')
        if not _leads_to(path, fd):  # by way of /proc, for one, where paths are another process's
            raise refusal(f'{given} leads to a file that has no path here')
        for stop in linked:
            refuse(strangers(stop), refusal)
        refuse(strangers(directory, info.st_uid if owner is None else owner), refusal)
        yield path, fd


def _leads_to(path: str, fd: int) -> bool:
    with suppress(OSError):
        return os.path.samestat(os.lstat(path), os.fstat(fd))
    return False


def refuse(reasons: Iterator[str], refusal: type[AdminError]) -> None:
    """Raise the first reason, if there is one."""
    if reason := next(reasons, None):
        raise refusal(reason)


@contextmanager
def without_writers(fd: int) -> Iterator[Callable[[], bool]]:
    """Let nobody write to a file that only its owner and root may open for that.

    Nobody has it open or mapped to write to it when the block begins, and anyone who opens it then
    waits for the block to end.  The kernel lets in those who have waited too long: the function
    says whether that is about to happen, or has.

    Raises BlockingIOError where somebody has it open, and OSError, EINVAL or another, where the
    file system has no leases; see fcntl(2), "Leases".
    """
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)  # which is ignored; SIGIO would end this process
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    try:
        yield lambda: fcntl.fcntl(fd, fcntl.F_GETLEASE) != fcntl.F_RDLCK
    finally:
        with suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
