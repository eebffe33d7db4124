"""All or nothing: what takes back changes where a step fails, and one command at a time."""

import fcntl
import os
import signal
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from caps.system.run import ENDING, stop_if_signalled


class AdminError(Exception):
    """The reason why nothing was changed."""


@contextmanager
def transaction() -> Iterator[ExitStack]:
    """A stack of what takes changes back, which it does where the block fails.

    A signal that ends this process waits until the next `stop_if_signalled` or `run_as`, then the
    block fails, then the signal arrives: it never falls between a change and the way back.
    """
    # One that is ignored would be pending for ever.
    held = {number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    undo = ExitStack()
    try:
        yield undo
    except BaseException as error:
        try:
            undo.close()
        except OSError as left:
            raise AdminError(f'{error}; besides, this could not be undone: {left}') from error
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def lock(path: str, directory: int | None = None, wait: bool = True) -> int | None:
    """Hold a lock: a file that only this account can open, so that no other keeps us waiting.

    path, directory: of the file, which is there only as long, and the descriptor it starts from
    wait: until nobody has it; else BlockingIOError is raised

    Returns a descriptor, or None where the path's directory is gone.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        try:
            _clear(path, directory)
            fd = os.open(path, flags, 0o600, dir_fd=directory)
        except FileNotFoundError:
            return None
        try:
            _take(fd, wait)
            if _is_at(fd, path, directory):  # else the command that had it has taken it away
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def unlock(fd: int, path: str, directory: int | None = None) -> None:
    """Take a lock away, which closing its descriptor gives back; also where it is gone."""
    if _is_at(fd, path, directory):
        os.unlink(path, dir_fd=directory)


def _clear(path: str, directory: int | None) -> None:
    """Take away what is no lock of this account: the directory's owner could keep one there."""
    with suppress(FileNotFoundError):
        info = os.stat(path, dir_fd=directory, follow_symlinks=False)
        if info.st_uid != os.geteuid() or not stat.S_ISREG(info.st_mode):
            os.unlink(path, dir_fd=directory)


def _take(fd: int, wait: bool) -> None:
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise
        stop_if_signalled()
        time.sleep(0.05)


def _is_at(fd: int, path: str, directory: int | None) -> bool:
    with suppress(FileNotFoundError):
        named = os.stat(path, dir_fd=directory, follow_symlinks=False)
        return os.path.samestat(named, os.fstat(fd))
    return False
