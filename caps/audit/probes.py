"""The two ways in which the kernel shows its checks of capabilities, in `cap_capable`."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from caps.audit.perf import TRACEPOINT, Event, Events, Sample
from caps.audit.records import Check

FUNCTION = 'cap_capable'
KPROBE = '/sys/bus/event_source/devices/kprobe/type'
ENTRY, RETURN = 0, 1
UNAUDITED = 2  # CAP_OPT_NOAUDIT


class Probe(Protocol):
    """One way, once its events are open."""

    method: str
    """How it is named."""

    unseen: Mapping[str, str]
    """What system calls ask for in a way that it does not show, by their names."""

    def restrict(self) -> None:
        """From now on, leave out what is granted."""

    def checks(self, samples: Iterable[Sample]) -> tuple[list[Check], int]:
        """The checks that these samples are of, in order, and how many have no result."""


class Tracepoint:
    """The tracepoint capability:cap_capable, since Linux 6.14."""

    method = 'the tracepoint capability:cap_capable'
    unseen: Mapping[str, str] = {}

    def __init__(self, events: Events, number: int) -> None:
        self._events = events
        self._identifiers = events.add(Event(TRACEPOINT, number), has_stack=True)

    def restrict(self) -> None:
        self._events.restrict('ret != 0')

    def checks(self, samples: Iterable[Sample]) -> tuple[list[Check], int]:
        return [self._check(each) for each in samples if each.event in self._identifiers], 0

    def _check(self, sample: Sample) -> Check:
        raw, where = sample.raw, (sample.time, sample.process, sample.thread)
        namespace = int.from_bytes(raw[16:24], 'little')
        capability, result = (
            int.from_bytes(raw[at : at + 4], 'little', signed=True) for at in (32, 36)
        )
        return Check(*where, capability, result == 0, namespace, sample.stack)


# By architecture the bits, in perf_event_open(2), of the registers in which a function finds its
# second, third and fourth argument, which come in this order; and of the one with its result.
REGISTERS = {'x86_64': ((4, 3, 2), 0), 'aarch64': ((1, 2, 3), 0)}


class Kprobe:
    """A probe at the entry of the function and one at its return, since Linux 4.17."""

    method = 'a kprobe on cap_capable'
    # Where its callers are in the same file of the kernel, the compiler makes it a part of them.
    unseen: Mapping[str, str] = {
        'capset': 'cap_setpcap',
        'prctl': 'cap_setpcap',
        'mmap': 'cap_sys_rawio',
    }

    def __init__(self, events: Events, kind: int) -> None:
        arguments, result = REGISTERS[platform.machine()]
        # A sample has them in the order of their bits.
        self._order = [sorted(arguments).index(bit) for bit in arguments]
        mask = sum(1 << bit for bit in arguments)
        # The probe that is added last is served first: before that of the return exchanges the
        # address of the caller, which hides the whole call chain on Linux 5.10.
        self._returns = events.add(Event(kind, RETURN, '', FUNCTION, 1 << result))
        self._entries = events.add(Event(kind, ENTRY, '', FUNCTION, mask), has_stack=True)
        self._refusals_only = False

    def restrict(self) -> None:
        self._refusals_only = True  # the kernel has no fields to filter by

    def checks(self, samples: Iterable[Sample]) -> tuple[list[Check], int]:
        checks: list[Check] = []
        begun: dict[int, Sample] = {}  # by thread: a check is over before the next one begins
        lost = 0
        for sample in sorted(samples, key=lambda sample: sample.time):
            if sample.event in self._entries:
                lost += sample.thread in begun
                begun[sample.thread] = sample
            elif sample.event in self._returns and sample.thread in begun:
                check = self._check(begun.pop(sample.thread), sample.registers[0])
                if not (check.is_granted and self._refusals_only):
                    checks.append(check)
        return checks, lost + len(begun)

    def _check(self, entry: Sample, result: int) -> Check:
        namespace, capability, options = (entry.registers[at] for at in self._order)
        return Check(
            entry.time, entry.process, entry.thread, capability & 0xFFFFFFFF,
            result & 0xFFFFFFFF == 0, namespace, entry.stack, bool(options & UNAUDITED),
        )  # fmt: skip


def open_probe(events: Events, tracepoint: int | None) -> Probe:
    """Open what this kernel has, the tracepoint before the other.

    tracepoint: its number in tracefs; None where there is none
    Raises OSError where it has neither, or does not let it be opened.
    """
    if tracepoint is not None:
        return Tracepoint(events, tracepoint)
    if platform.machine() not in REGISTERS or (kind := kprobe_kind()) is None:
        raise OSError(
            2, f'this kernel has neither {Tracepoint.method} nor kprobes for perf_event_open(2)'
        )
    return Kprobe(events, kind)


def kprobe_kind() -> int | None:
    """The number of the kprobe PMU."""
    try:
        return int(Path(KPROBE).read_text())
    except FileNotFoundError:
        return None
