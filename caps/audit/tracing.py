"""How runs are observed: by the tracepoint of cap_capable where there is one, or not at all."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path

from caps import Caps
from caps.audit.kernel import NAMES
from caps.audit.perf import Events, Sample, Task
from caps.audit.records import Check, Exec, Failure, Fork, Record, Seen, read

TRACEFS = '/sys/kernel/tracing'
CHECK, EXIT = 'capability/cap_capable', 'raw_syscalls/sys_exit'
ERRORS = {-1: 'EPERM', -13: 'EACCES'}
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 1 << 18


class Tracer:
    """Records what every process asks for; `of` is about one run.

    refusals_only: leave out what is granted
    Raises OSError, whose message says what is missing, where nothing can be traced.
    """

    method = 'traced by the tracepoint capability:cap_capable'

    def __init__(self, *, refusals_only: bool) -> None:
        check, leave = _tracepoints()
        self._events = Events()
        try:
            self._checks = self._events.add(check, '', is_first=True)
            self._events.add(leave, ' || '.join(f'ret == {error}' for error in ERRORS))
            # What this process is granted tells which user namespace it is in.
            self._namespace = self._own_namespace()
            if refusals_only:
                self._events.restrict('ret != 0')
        except OSError:
            self._events.close()
            raise

    def _own_namespace(self) -> int:
        self.start()
        Caps.from_process().apply()
        for record in self.stop(os.getpid())[0]:
            if isinstance(record, Check):
                return record.namespace
        raise OSError(0, 'the tracepoint capability:cap_capable records nothing')

    @property
    def readable(self) -> list[int]:
        """Descriptors to be polled; then `drain`."""
        return self._events.readable

    def drain(self) -> None:
        """Make room for more records."""
        self._events.drain()

    def start(self) -> None:
        """Begin to record."""
        self._events.enable()

    def stop(self, process: int) -> tuple[list[Record], int]:
        """End to record; what there was of a process and its descendants, and how much was lost."""
        self._events.disable()
        records, lost = self._events.take(process)
        return [self._record(record) for record in records], lost

    def of(self, records: list[Record], process: int, skipped: int) -> Seen:
        """What a run has asked for; see `caps.audit.records.read`."""
        return read(records, NAMES, process, skipped, self._namespace)

    def _record(self, record: Sample | Task) -> Record:
        if isinstance(record, Task):
            if record.other:
                return Fork(record.time, record.other, record.process)
            return Exec(record.time, record.process)
        raw, where = record.raw, (record.time, record.process, record.thread)
        if record.event not in self._checks:  # number and result, after the common fields
            number, result = (
                int.from_bytes(raw[at : at + 8], 'little', signed=True) for at in (8, 16)
            )
            return Failure(*where, number, ERRORS[result])
        namespace = int.from_bytes(raw[16:24], 'little')
        capability, result = (
            int.from_bytes(raw[at : at + 4], 'little', signed=True) for at in (32, 36)
        )
        return Check(*where, capability, result == 0, namespace, record.stack)

    def close(self) -> None:
        """End all this."""
        self._events.close()


def _tracepoints() -> tuple[int, int]:
    """The numbers of the two tracepoints."""
    if not os.path.exists(f'{TRACEFS}/events'):
        return _mounted_tracepoints()
    return _number(CHECK), _number(EXIT)


def _number(tracepoint: str) -> int:
    path = Path(TRACEFS, 'events', tracepoint, 'id')
    try:
        return int(path.read_text())
    except FileNotFoundError:
        name = tracepoint.replace('/', ':')
        raise OSError(2, f'this kernel has no tracepoint {name}') from None


def _mounted_tracepoints() -> tuple[int, int]:
    """The same with tracefs mounted in a child, in a mount namespace that ends with it."""
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        with suppress(BaseException):
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.unshare(CLONE_NEWNS) or libc.mount(
                b'none', b'/', None, MS_REC | MS_PRIVATE, None
            ):
                os.write(theirs, b'no mount namespace can be made to mount tracefs in')
            elif libc.mount(b'tracefs', TRACEFS.encode(), b'tracefs', 0, None):
                os.write(theirs, b'tracefs cannot be mounted')
            else:
                os.write(theirs, f'{_number(CHECK)} {_number(EXIT)}'.encode())
        os._exit(0)
    os.close(theirs)
    with open(ours) as file:
        said = file.read()
    os.waitpid(child, 0)
    try:
        check, leave = map(int, said.split())
    except ValueError:
        reason = said or 'this kernel has no tracepoint capability:cap_capable'
        raise OSError(1, reason) from None
    return check, leave
