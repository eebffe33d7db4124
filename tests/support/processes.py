"""Processes of tests, known by an argument."""

from contextlib import suppress
from pathlib import Path


def sleeping(argument: str) -> list[int]:
    """The processes of sleep(1) with an argument."""
    pids = []
    for path in Path('/proc').glob('[0-9]*/cmdline'):
        with suppress(OSError):  # it has ended
            if path.read_bytes().split(b'\0')[:2] == [b'sleep', argument.encode()]:
                pids.append(int(path.parent.name))
    return pids
