"""What is the whole machine's, and so is changed by one suite at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

# The same file in a chroot and in another mount namespace.
LOCK = '/sys/kernel'


@contextmanager
def alone() -> Iterator[None]:
    """Keep other suites, and other workers of this one, from changing the machine meanwhile."""
    lock = os.open(LOCK, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


@contextmanager
def sysctls(settings: dict[str, str]) -> Iterator[None]:
    """Settings of the kernel, by their names below /proc/sys, for a while."""
    with alone(), ExitStack() as stack:
        for name, value in settings.items():
            file = Path('/proc/sys', name)
            stack.callback(file.write_text, file.read_text())
            file.write_text(value)
        yield
