"""All or nothing: what is taken back where a step fails, one command at a time, no half deed."""

import fcntl
import os
import signal
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


def lock(directory: str) -> int | None:
    """Wait for the lock of a directory; None where the path has come to name another or none."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        while not _take(fd):
            stop_if_signalled()
            time.sleep(0.05)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), os.lstat(directory)):
                return fd
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _take(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
