"""perf_event_open(2): events of the whole machine, one ring of records for each processor.

They end with their descriptors, so that nothing stays behind, however this process ends.  They are
of the machine and not of the command, since the kernel takes those of a process away where it
executes a program that it may not read, or that has privilege.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

OPEN = {'x86_64': 298, 'i686': 336, 'armv7l': 364, 'ppc64le': 319, 's390x': 331}
OPEN_GENERIC = 241
CLOEXEC = 8  # PERF_FLAG_FD_CLOEXEC
ENABLE, DISABLE, SET_OUTPUT = 0x2400, 0x2401, 0x2405
SET_FILTER, GET_ID = 0x40082406, 0x80082407

# perf_event_attr, as far as it is used: type, size, config, period, sample_type, read_format,
# flags, wakeup, config1, clock, registers.
ATTRIBUTE = struct.Struct('=IIQQQQQI4xQ28xiQ8x')
# What a sample has, and in this order: identifier, thread, time, call chain, raw data, registers.
IDENTIFIER, THREAD, TIME, CALLCHAIN, RAW = 1 << 16, 1 << 1, 1 << 2, 1 << 5, 1 << 10
REGISTERS = 1 << 18
FORMAT_LOST = 1 << 4  # since Linux 6.0
DISABLED, COMM, TASK, WATERMARK, SAMPLE_ID_ALL = 1, 1 << 9, 1 << 13, 1 << 14, 1 << 18
NO_USER_CHAIN, COMM_EXEC, USE_CLOCK = 1 << 22, 1 << 24, 1 << 25
CLOCK_MONOTONIC = 1

COMMAND, FORK, SAMPLE = 3, 7, 9  # the types of records
IS_EXEC = 1 << 13
CONTEXT = 2**64 - 4095  # from here on, what says whose addresses follow
HEADER = struct.Struct('=IHH')

LONGEST = 1 << 12  # bytes of a record: its call chain has no more than 127 functions
RING = 1 << 23  # bytes for each processor
ALL_RINGS = 1 << 26
KEPT = 1 << 27  # bytes of a run's records; everybody on the machine can add to them


TRACEPOINT = 2


class Event(NamedTuple):
    """What is recorded.

    kind: whose number it has: TRACEPOINT, or what sysfs says of the kprobe PMU
    number: of a tracepoint in tracefs; 0 for the entry of a function, 1 for its return
    condition: what the fields of a tracepoint must be, as tracefs has it; '' for anything
    function: the name of the function of the kernel, for a kprobe
    registers: a mask of those that its samples have, instead of raw data
    """

    kind: int
    number: int
    condition: str = ''
    function: str = ''
    registers: int = 0


class Sample(NamedTuple):
    """A record of an event; `raw` are the fields of a tracepoint, registers those of a kprobe."""

    event: int
    process: int
    thread: int
    time: int
    stack: tuple[int, ...]
    raw: bytes
    registers: tuple[int, ...]


class Task(NamedTuple):
    """A record of a fork or an exec; `other` is the parent, 0 for an exec."""

    time: int
    process: int
    other: int


class Events:
    """Events on every processor, recorded between `enable` and `disable`.

    Raises OSError where the kernel does not let them be opened.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._number = OPEN.get(platform.machine(), OPEN_GENERIC)
        self._fds: list[int] = []
        self._rings: dict[int, _Ring] = {}  # by processor
        self._lost = 0
        self._dropped = 0  # how often too many records were taken
        # By the identifier of an event what its samples have, and how many registers.
        self._formats: dict[int, tuple[int, int]] = {}
        self._read_format = FORMAT_LOST
        self._dropped = 0  # how often too many records were taken

    def add(self, event: Event, *, has_stack: bool = False) -> set[int]:
        """Open an event.

        has_stack: the one with a call chain, and with records of forks and execs
        Returns the identifiers that its samples have.
        """
        flags = DISABLED | WATERMARK | SAMPLE_ID_ALL | USE_CLOCK | NO_USER_CHAIN
        sample = IDENTIFIER | THREAD | TIME | (REGISTERS if event.registers else RAW)
        if has_stack:
            flags |= COMM | COMM_EXEC | TASK
            sample |= CALLCHAIN
        identifiers = set()
        for processor in _processors():
            fd = self._open(event, sample, flags, processor)
            self._fds.append(fd)
            if event.condition:
                self._restrict(fd, event.condition)
            identifier = int.from_bytes(fcntl.ioctl(fd, GET_ID, bytes(8)), 'little')
            identifiers.add(identifier)
            self._formats[identifier] = sample, event.registers.bit_count()
            if processor not in self._rings:
                self._rings[processor] = _Ring(fd, tells_losses=bool(self._read_format))
            else:
                fcntl.ioctl(fd, SET_OUTPUT, self._rings[processor].fd)
        return identifiers

    def restrict(self, condition: str) -> None:
        """Record of the first event only what its fields meet, from now on."""
        for ring in self._rings.values():
            self._restrict(ring.fd, condition)

    def _restrict(self, fd: int, condition: str) -> None:
        text = ctypes.create_string_buffer(condition.encode())
        if self._libc.ioctl(fd, ctypes.c_ulong(SET_FILTER), text):
            raise _error('a filter of perf_event_open(2)')

    def _open(self, event: Event, sample: int, flags: int, processor: int) -> int:
        function = ctypes.create_string_buffer(event.function.encode())
        attribute = ATTRIBUTE.pack(
            event.kind, ATTRIBUTE.size, event.number, 1, sample, self._read_format, flags,
            _ring_size() // 4, ctypes.addressof(function) if event.function else 0,
            CLOCK_MONOTONIC, event.registers,
        )  # fmt: skip
        fd = self._libc.syscall(self._number, attribute, -1, processor, -1, CLOEXEC)
        if fd < 0 and ctypes.get_errno() == errno.EINVAL and self._read_format:
            self._read_format = 0
            return self._open(event, sample, flags, processor)
        if fd < 0:
            raise _error('perf_event_open(2)')
        return int(fd)

    @property
    def readable(self) -> list[int]:
        """Descriptors to be polled; then `drain` them."""
        return [ring.fd for ring in self._rings.values()]

    def enable(self) -> None:
        for fd in self._fds:
            fcntl.ioctl(fd, ENABLE, 0)

    def disable(self) -> None:
        for fd in reversed(self._fds):
            fcntl.ioctl(fd, DISABLE, 0)

    def drain(self) -> None:
        """Take what the rings hold, so that there is room for more; too much of it is lost."""
        for ring in self._rings.values():
            ring.drain()
        if sum(ring.kept for ring in self._rings.values()) > KEPT:
            for ring in self._rings.values():
                ring.take()
            self._dropped += 1

    def take(self, process: int) -> tuple[list[Sample | Task], int]:
        """All records of a process and its descendants, and how many were lost of all records."""
        self.drain()
        contents = [ring.take() for ring in self._rings.values()]
        lost = sum(int.from_bytes(os.read(fd, 16)[8:], 'little') for fd in self._fds)
        lost += sum(ring.overruns for ring in self._rings.values())
        newly_lost, self._lost = lost - self._lost, lost
        newly_lost, self._dropped = newly_lost + self._dropped, 0
        # Most are of others: only who they are of is looked at.
        tasks: list[Task] = []
        samples: dict[int, list[tuple[bytes, int]]] = {}
        for content in contents:
            for kind, misc, body, end in _parts(content):
                if kind == SAMPLE:
                    (whose,) = struct.unpack_from('=I', content, body + 8)
                    samples.setdefault(whose, []).append((content, body))
                elif kind == FORK or (kind == COMMAND and misc & IS_EXEC):
                    whose, other = struct.unpack_from('=II', content, body)
                    (time,) = struct.unpack_from('=Q', content, end - 16)
                    tasks.append(Task(time, whose, other if kind == FORK else 0))
        processes = {process}
        own = [task for task in sorted(tasks) if _belongs(task, processes)]
        parts = [part for whose in processes for part in samples.get(whose, ())]
        return [*own, *(self._sample(*part) for part in parts)], newly_lost

    def _sample(self, content: bytes, at: int) -> Sample:
        event, process, thread, time = struct.unpack_from('=QIIQ', content, at)
        at += 24
        parts, count = self._formats[event]
        stack: tuple[int, ...] = ()
        registers: tuple[int, ...] = ()
        raw = b''
        if parts & CALLCHAIN:
            (depth,) = struct.unpack_from('=Q', content, at)
            addresses = struct.unpack_from(f'={depth}Q', content, at + 8)
            stack = tuple(address for address in addresses if address < CONTEXT)
            at += 8 + 8 * depth
        if parts & RAW:
            (size,) = struct.unpack_from('=I', content, at)
            raw = content[at + 4 : at + 4 + size]
        else:  # first, of which kind they are
            registers = struct.unpack_from(f'={count}Q', content, at + 8)
        return Sample(event, process, thread, time, stack, raw, registers)

    def close(self) -> None:
        for ring in self._rings.values():
            ring.close()
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
        self._rings.clear()


def _parts(content: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Of each record its type, its flags, and where its body begins and ends."""
    at = 0
    while at < len(content):
        kind, misc, size = HEADER.unpack_from(content, at)
        yield kind, misc, at + HEADER.size, at + size
        at += size


def _belongs(task: Task, processes: set[int]) -> bool:
    """Whether a record is of one of these processes, to which a fork adds its child."""
    if task.other in processes:
        processes.add(task.process)
    return task.process in processes


class _Ring:
    """The records of one processor; see perf_event_open(2), "MMAP layout"."""

    def __init__(self, fd: int, *, tells_losses: bool) -> None:
        self.fd, self._size = fd, _ring_size()
        self._tells_losses = tells_losses
        self.overruns = 0  # how often it was full, where nobody tells how much was lost
        self._map = mmap.mmap(fd, mmap.PAGESIZE + self._size)
        self._parts: list[bytes] = []
        self.kept = 0  # bytes

    def drain(self) -> None:
        head, tail = struct.unpack_from('=QQ', self._map, 1024)
        if head == tail:
            return
        self.overruns += not self._tells_losses and head - tail > self._size - LONGEST
        start, end = tail % self._size, head % self._size
        first = mmap.PAGESIZE
        if start < end:
            self._parts.append(self._map[first + start : first + end])
        else:
            self._parts += [self._map[first + start :], self._map[first : first + end]]
        self.kept += head - tail
        struct.pack_into('=Q', self._map, 1032, head)

    def take(self) -> bytes:
        content = b''.join(self._parts)
        self._parts.clear()
        self.kept = 0
        return content

    def close(self) -> None:
        self._map.close()


def _ring_size() -> int:
    share = ALL_RINGS // len(_processors())
    return max(mmap.PAGESIZE, min(RING, 1 << share.bit_length() - 1))


def _processors() -> list[int]:
    found: list[int] = []
    for part in Path('/sys/devices/system/cpu/online').read_text().strip().split(','):
        first, _, last = part.partition('-')
        found += range(int(first), int(last or first) + 1)
    return found


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f'{what}: {os.strerror(number)}')
