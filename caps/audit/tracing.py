"""How runs are observed: each check of a capability, and each system call that was refused."""

from __future__ import annotations

import ctypes
import json
import os
from contextlib import suppress
from pathlib import Path

from caps.audit.kernel import NAMES
from caps.audit.perf import TRACEPOINT, Event, Events, Sample, Task
from caps.audit.probes import open_probe
from caps.audit.records import Check, Exec, Failure, Fork, Record, Seen, read

TRACEFS = '/sys/kernel/tracing'
CHECK, EXIT = 'capability/cap_capable', 'raw_syscalls/sys_exit'
ERRORS = {-1: 'EPERM', -13: 'EACCES'}
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 1 << 18
PR_CAPBSET_DROP = 24


class Tracer:
    """Records what every process asks for; `of` is about one run.

    refusals_only: leave out what is granted
    Raises OSError, whose message says what is missing, where nothing can be traced.
    """

    def __init__(self, *, refusals_only: bool) -> None:
        check, leave = _tracepoints()
        self._events = Events()
        try:
            self._probe = open_probe(self._events, check)
            self.method = f'traced by {self._probe.method}'
            failed = ' || '.join(f'ret == {error}' for error in ERRORS)
            self._failures = self._events.add(Event(TRACEPOINT, leave, failed))
            # What this process asks for tells which user namespace it is in.
            self._namespace = self._own_namespace()
            if refusals_only:
                self._probe.restrict()
        except OSError:
            self._events.close()
            raise

    def _own_namespace(self) -> int:
        self.start()
        # The kernel first asks for cap_setpcap, and then finds that there is no such capability.
        ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, 1 << 16, 0, 0, 0)
        for record in self.stop(os.getpid())[0]:
            if isinstance(record, Check):
                return record.namespace
        raise OSError(0, f'{self._probe.method} records nothing')

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
        taken, lost = self._events.take(process)
        samples = [each for each in taken if isinstance(each, Sample)]
        checks, without_result = self._probe.checks(samples)
        records: list[Record] = [_task(each) for each in taken if isinstance(each, Task)]
        records += checks
        records += [_failure(each) for each in samples if each.event in self._failures]
        return records, lost + without_result

    def of(self, records: list[Record], process: int, skipped: int) -> Seen:
        """What a run has asked for; see `caps.audit.records.read`."""
        return read(records, NAMES, process, skipped, self._namespace, self._probe.unseen)

    def close(self) -> None:
        """End all this."""
        self._events.close()


def _task(task: Task) -> Record:
    if task.other:
        return Fork(task.time, task.other, task.process)
    return Exec(task.time, task.process)


def _failure(sample: Sample) -> Failure:
    number, result = (  # after the common fields
        int.from_bytes(sample.raw[at : at + 8], 'little', signed=True) for at in (8, 16)
    )
    return Failure(sample.time, sample.process, sample.thread, number, ERRORS[result])


def _tracepoints() -> tuple[int | None, int]:
    """The numbers of the two tracepoints; the first is None where there is none."""
    if not os.path.exists(f'{TRACEFS}/events'):
        return _mounted_tracepoints()
    return _number(CHECK), _must(_number(EXIT))


def _must(number: int | None) -> int:
    if number is None:
        raise OSError(2, f'this kernel has no tracepoint {EXIT.replace("/", ":")}')
    return number


def _number(tracepoint: str) -> int | None:
    try:
        return int(Path(TRACEFS, 'events', tracepoint, 'id').read_text())
    except FileNotFoundError:
        return None


def _mounted_tracepoints() -> tuple[int | None, int]:
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
                os.write(theirs, json.dumps([_number(CHECK), _number(EXIT)]).encode())
        os._exit(0)
    os.close(theirs)
    with open(ours) as file:
        said = file.read()
    os.waitpid(child, 0)
    try:
        check, leave = json.loads(said)
    except ValueError:
        raise OSError(1, said or 'tracefs cannot be read') from None
    return check, _must(leave)
