"""What an account can do to a process: print the name of each attempt that succeeds."""

import ctypes
import os
import resource
import sys
from pathlib import Path

pid, libc = int(sys.argv[1]), ctypes.CDLL(None, use_errno=True)


def attach() -> None:
    if libc.ptrace(16, pid, None, None) < 0:
        raise OSError


def memory() -> None:
    os.open(f'/proc/{pid}/mem', os.O_RDWR)


def environment() -> None:
    Path(f'/proc/{pid}/environ').read_bytes()


def descriptors() -> None:
    os.listdir(f'/proc/{pid}/fd')


def map() -> None:
    Path(f'/proc/{pid}/maps').read_text()


def kill() -> None:
    os.kill(pid, 0)


def limit() -> None:
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, 3))


for attempt in attach, memory, environment, descriptors, map, kill, limit:
    try:
        attempt()
        print(attempt.__name__)
    except OSError:
        pass
