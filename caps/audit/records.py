"""From the records of one run to its calls: which process belongs to it, which check to which call.

A call that fails with EPERM or EACCES has a record of its own, one that succeeds has none: the
checks of a thread belong to the call that its next failure names, or to one that went on.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from caps import CapSet
from caps.audit.types import UNAUDITED, Call


class Fork(NamedTuple):
    """A process has started another."""

    time: int
    parent: int
    child: int


class Exec(NamedTuple):
    """A process has executed a program."""

    time: int
    process: int


class Check(NamedTuple):
    """The kernel has asked for a capability; `stack` has the innermost function first.

    is_unaudited: it has asked without audit, as far as that was seen; the stack may tell it, too
    """

    time: int
    process: int
    thread: int
    capability: int
    is_granted: bool
    namespace: int
    stack: tuple[int, ...]
    is_unaudited: bool = False


class Failure(NamedTuple):
    """A system call has failed, its number and its error."""

    time: int
    process: int
    thread: int
    number: int
    error: str


Record = Fork | Exec | Check | Failure

SECURITY = re.compile(
    r'(cap|security|(has_)?(ns_)?capab|capable|ns_capable|perfmon_capable|bpf_)\w*'
)
SYSTEM_CALL = re.compile(
    r'(?:__(?:x64|ia32|x32|arm64|riscv|s390x?|do|se)_(?:compat_)?|__|k|do_)?sys_([a-z]\w*?)'
    r'(?:\.[\w.]+)?'
)
NOISE = {
    'security_vm_enough_memory_mm': 'memory overcommit',
    '__vm_enough_memory': 'memory overcommit',
    'cap_vm_enough_memory': 'memory overcommit',
    'has_capability_noaudit': UNAUDITED,
    'has_ns_capability_noaudit': UNAUDITED,
    'ns_capable_noaudit': UNAUDITED,
    'cap_capset': 'capset(2)',
    'security_capset': 'capset(2)',
    'cap_bprm_creds_from_file': 'execve(2)',
    'security_bprm_creds_from_file': 'execve(2)',
    'begin_new_exec': 'execve(2)',
}


class Names(NamedTuple):
    """How to name what records have numbers for; '' where there is no name."""

    function: Callable[[int], str]
    system_call: Callable[[int], str]
    capability: Callable[[int], str]


@dataclass
class Seen:
    """What one run has asked for, and which processes did."""

    calls: Counter[Call] = field(default_factory=Counter)
    callers: dict[Call, set[int]] = field(default_factory=dict)
    granted: CapSet = field(default_factory=CapSet)

    def add(self, call: Call, process: int) -> None:
        self.calls[call] += 1
        self.callers.setdefault(call, set()).add(process)


def read(
    records: Iterable[Record],
    names: Names,
    process: int,
    skipped: int,
    namespace: int,
    unseen: Mapping[str, str] = MappingProxyType({}),
) -> Seen:
    """What a run has asked for.

    records: of the whole machine, in any order
    process: the first of the run
    skipped: how many programs it executes before the command's own runs
    namespace: the user namespace that counts; what is asked in others is nothing outside them
    unseen: the capability that a system call may have been refused where it fails with EPERM
        without a check, by its name
    """
    reading = _Reading(names, unseen)
    for record in _of_run(records, process, skipped):
        if isinstance(record, Failure):
            reading.fail(record)
        elif isinstance(record, Check) and record.namespace == namespace:
            reading.check(record)
    for key in [*reading.open]:
        reading.close(key)
    return reading.seen


def _of_run(records: Iterable[Record], process: int, skipped: int) -> Iterable[Record]:
    """The records of a process and of all that it started, once it has executed the command."""
    processes = {process}
    for record in sorted(records):
        if isinstance(record, Fork):
            if record.parent in processes:
                processes.add(record.child)
        elif record.process not in processes:
            continue
        elif isinstance(record, Exec):
            skipped -= record.process == process
        elif skipped <= 0:
            yield record


class _Naming:
    """The names of checks, each kind of check looked up once."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._known: dict[tuple[int, tuple[int, ...], bool], _Named] = {}

    def of(self, check: Check) -> _Named:
        key = check.capability, check.stack, check.is_unaudited
        if key not in self._known:
            functions = [self._names.function(address) for address in check.stack]
            sites = (name for name in functions if name and not SECURITY.fullmatch(name))
            noises = (NOISE[name] for name in functions if name in NOISE)
            calls = (m[1] for name in reversed(functions) if (m := SYSTEM_CALL.fullmatch(name)))
            capability = self._names.capability(check.capability)
            otherwise = UNAUDITED if check.is_unaudited else ''
            noise = next(noises, otherwise)
            self._known[key] = _Named(capability, next(calls, ''), next(sites, ''), noise)
        return self._known[key]


class _Named(NamedTuple):
    capability: str
    call: str
    site: str
    noise: str


class _Reading:
    """What has been read so far; `open` has each thread's checks of a call that has not ended."""

    def __init__(self, names: Names, unseen: Mapping[str, str]) -> None:
        self._names, self._naming, self._unseen = names, _Naming(names), unseen
        self.seen = Seen()
        self.open: dict[tuple[int, int], list[_Named]] = {}

    def check(self, record: Check) -> None:
        check, key = self._naming.of(record), (record.process, record.thread)
        if record.is_granted:
            if not check.noise:
                self.seen.granted.add(check.capability)
            return
        if check.noise == 'memory overcommit':  # in any call, and of none
            self.seen.add(_call(check.call, '', [check]), record.process)
            return
        before = self.open.get(key, [])
        is_asked_again = check.capability in {other.capability for other in before}
        if is_asked_again or (before and not _same(before[0].call, check.call)):
            self.close(key)
        self.open.setdefault(key, []).append(check)

    def fail(self, record: Failure) -> None:
        name, key = self._names.system_call(record.number), (record.process, record.thread)
        before = self.open.get(key, [])
        if before and not _same(before[0].call, name):
            self.close(key)
        checks = self.open.pop(key, [])
        if not checks and record.error == 'EPERM' and name in self._unseen:
            checks = [_Named(self._unseen[name], name, '', '')]
        name = name or (checks[0].call if checks else '') or f'system call {record.number}'
        self.seen.add(_call(name, record.error, checks), record.process)

    def close(self, key: tuple[int, int]) -> None:
        """A call has gone on, or has failed for another reason."""
        if checks := self.open.pop(key, []):
            self.seen.add(_call(checks[0].call, '', checks), key[0])


def _call(name: str, error: str, checks: Sequence[_Named]) -> Call:
    refused = tuple(check.capability for check in checks)
    noises = {check.noise for check in checks}
    noise = noises.pop() if len(noises) == 1 else ''
    return Call(name, error, refused, checks[0].site if checks else '', noise)


def _same(one: str, other: str) -> bool:
    """Whether two names may be of one system call, as openat and openat2 of do_sys_openat2."""
    return not one or not other or _plain(one) == _plain(other)


def _plain(name: str) -> str:
    return re.sub(r'^new|_pgoff|_time(?=32|64)|\d+$', '', name)
