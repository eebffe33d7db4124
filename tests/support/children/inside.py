"""What a test's child knows of its own threads, and threads of every kind for it to have."""

import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from caps import CapSet

Fields = dict[str, str | int]
FIELDS = 'Uid', 'Gid', 'Groups', 'CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb', 'NoNewPrivs'


def status_fields(thread: int | str) -> Fields | None:
    """Some fields of a thread in /proc; None where it has ended."""
    try:
        with open(f'/proc/self/task/{thread}/status', errors='replace') as file:
            fields = dict(line.rstrip('\n').split(':\t', 1) for line in file)
    except (FileNotFoundError, ProcessLookupError):
        return None
    if fields['State'][0] in 'ZX':
        return None
    return {
        name: int(fields[name], 16) if name[:3] == 'Cap' else fields[name].strip()
        for name in FIELDS
    }


def threads() -> dict[int, Fields]:
    """The fields of every living thread, by its id."""
    listed = {int(thread): status_fields(thread) for thread in os.listdir('/proc/self/task')}
    return {thread: fields for thread, fields in listed.items() if fields}


def seen(field: str) -> set[str | int]:
    """The values that a field has in this process's threads."""
    return {fields[field] for fields in threads().values()}


def ended(kept: str = '', uid: int = 0, gid: int = 0, groups: str = '') -> None:
    """Every thread has exactly such sets, ids and groups."""
    mask = CapSet(kept).mask
    wanted = {'CapPrm': mask, 'CapEff': mask, 'CapInh': 0, 'CapAmb': 0, 'Groups': groups}
    wanted |= {name: '\t'.join([str(id)] * 4) for name, id in (('Uid', uid), ('Gid', gid))}
    for name, value in wanted.items():
        assert seen(name) == {value}, (name, seen(name), value)


# Seconds after which something counts as hanging, on however busy a machine.
PATIENCE = 600


def wait_for(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'it never happened'
        time.sleep(0.002)


def start(
    work: Callable[..., object], *arguments: object, count: int = 1
) -> list[threading.Thread]:
    """Threads that are at work."""
    started = [threading.Thread(target=work, args=arguments, daemon=True) for _ in range(count)]
    for thread in started:
        thread.start()
    ids = {str(thread.native_id) for thread in started}
    wait_for(lambda: ids <= {*os.listdir('/proc/self/task')})
    return started


def refusal(function: Callable[..., object], *arguments: object, **options: object) -> OSError:
    """The OSError of a call."""
    try:
        function(*arguments, **options)
    except OSError as error:
        return error
    raise AssertionError('it was not refused')


class Job(ctypes.Structure):
    _fields_ = (
        ('started', ctypes.c_int), ('stop', ctypes.c_int), ('fd', ctypes.c_int),
        ('result', ctypes.c_long),
    )  # fmt: skip


class Raw:
    """The library of rawthread.c."""

    def __init__(self, path: str) -> None:
        self.library = ctypes.CDLL(path)
        self.library.start.restype = ctypes.c_long
        self.jobs: list[Job] = []  # a thread must not outlive its job

    def start(self, work: str, fd: int = -1) -> tuple[int, Job]:
        """A thread made by clone(2); its id and its job."""
        job = Job(fd=fd)
        self.jobs.append(job)
        thread = self.library.start(getattr(self.library, work), ctypes.byref(job))
        assert thread > 0
        wait_for(lambda: job.started)
        return thread, job


def leave() -> NoReturn:
    """End the process at once, whatever its threads are at."""
    sys.stdout.flush()
    os._exit(0)
