"""What calls leave behind: run by test_leaks.py with sources by name, it prints what each left.

Every source is run in a fork, so that none sees what another did to its process.
"""

import ctypes
import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from inside import start

import caps
from caps import threads

FIELDS = 'arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost'
mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = type('mallinfo2', (ctypes.Structure,), {
    '_fields_': [(name, ctypes.c_size_t) for name in FIELDS.split()]
})  # fmt: skip


def held() -> tuple[int, int, int, int]:
    """C's bytes, Python's blocks, descriptors and threads."""
    descriptors, threads = (
        len(os.listdir(f'/proc/self/{directory}')) for directory in ('fd', 'task')
    )
    gc.collect()
    info = mallinfo()
    return info.uordblks + info.hblkhd, sys.getallocatedblocks(), descriptors, threads


def left_by(call: Callable[[], object], times: int) -> list[int] | None:
    """What the last of many rounds left behind; None once a round leaves nothing."""
    before = held()
    for _ in range(12):
        for _ in range(times):
            call()
        after = held()
        left = [now - was for was, now in zip(before, after, strict=True)]
        if max(left) < times / 10:  # a cache that is still filling is no leak
            return None
        before = after
    return left


class Refused:
    """A block that must raise."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> bool:
        assert issubclass(kind or BaseException, Exception), 'it was not refused'
        return True


def suspended() -> Iterator[None]:
    with caps.raised():
        yield


def enter(block: AbstractContextManager[object]) -> None:
    with block:
        pass


def in_a_thread(function: Callable[..., object], *arguments: object) -> None:
    thread = threading.Thread(target=function, args=arguments)
    thread.start()
    thread.join()


def measure(name: str, source: str, times: int, files: dict[str, str]) -> list[int] | None:
    scope = {name: getattr(caps, name) for name in (*caps.__all__, '_caps')} | {'threads': threads}
    signal.alarm(600)
    start(time.sleep, 600, count=2)
    if name.endswith(' refused'):
        caps.Caps().apply(all_threads=True)
    exec(source, globals() | scope | files, scope)
    return left_by(scope['call'], times)


if __name__ == '__main__':
    import grp  # noqa: F401, another account might not be able to read it
    import pwd  # noqa: F401

    raising = caps.raised('cap_kill')
    kept: list[object] = []
    sources, times, files = json.loads(sys.argv[1])
    for name, source in sources.items():
        if pid := os.fork():
            os.waitpid(pid, 0)
            continue
        left: list[int] | str | None
        try:
            left = measure(name, source, times, files)
        except BaseException as error:
            left = repr(error)
        print(json.dumps([name, left]), flush=True)
        os._exit(0)
