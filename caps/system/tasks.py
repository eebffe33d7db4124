"""The capability state of processes and threads, as /proc tells it."""

import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress

from caps import IAB, Caps, CapSet, SecureBits
from caps.accounts import user_name
from caps.proc import comm, require, status_fields
from caps.system.records import dataclass

_name_of = functools.cache(user_name)  # a million accounts, or LDAP, take long to ask
SECCOMP = 'disabled', 'strict', 'filter'
JUDGED_BY = (
    'Uid', 'Gid', 'Groups', 'CapEff', 'CapPrm', 'CapInh', 'CapAmb', 'CapBnd', 'NoNewPrivs',
    'Seccomp',
)  # fmt: skip


@dataclass
class Task:
    """A process or thread, and its state; None is for what this account may not know.

    caps, iab: shared by all whose sets are alike
    differing: the threads whose state differs from the main thread's
    """

    pid: int
    parent: int
    name: str
    uids: list[int]
    gids: list[int]
    caps: Caps
    iab: IAB
    securebits: list[str] | None
    no_new_privs: bool
    seccomp: str
    user_namespace: int | None
    differing: list[int]

    @property
    def user(self) -> str:
        """The account of the effective user id, or the number where it has none."""
        return _name_of(self.uids[1])

    def notes(self, here: int | None) -> Iterator[str]:
        """What else limits the process or is special about it, in words.

        here: the user namespace of who asks.
        """
        if self.differing:
            plural = 's' * (len(self.differing) > 1)
            yield f'differing thread{plural} {" ".join(map(str, self.differing))}'
        if self.no_new_privs:
            yield 'no_new_privs'
        if self.seccomp != 'disabled':
            yield f'seccomp {self.seccomp}'
        if self.user_namespace not in (None, here):
            yield f'user namespace {self.user_namespace}'


def read(pid: int) -> Task:
    """The state of a process or thread; OSError where there is none.  See proc(5)."""
    return _read(pid, require())


def _read(pid: int, own: int) -> Task:
    try:
        fields = status_fields(f'/proc/{pid}')
        name = comm(f'/proc/{pid}') if '\\' in fields['Name'] else fields['Name']
    except (FileNotFoundError, ProcessLookupError) as error:
        raise OSError(error.errno, 'no such process', str(pid)) from None
    caps, iab = _sets(*[fields[f'Cap{name}'] for name in ('Eff', 'Prm', 'Inh', 'Amb', 'Bnd')])
    return Task(
        pid=pid,
        parent=int(fields['PPid']),
        name=name,
        uids=[int(uid) for uid in fields['Uid'].split()],
        gids=[int(gid) for gid in fields['Gid'].split()],
        caps=caps,
        iab=iab,
        securebits=list(SecureBits.from_process()) if pid == own else None,
        no_new_privs=fields['NoNewPrivs'] == '1',
        seccomp=SECCOMP[int(fields.get('Seccomp', 0))],
        user_namespace=user_namespace(pid),
        differing=_differing(pid, fields) if int(fields['Threads']) > 1 else [],
    )


@functools.lru_cache
def _sets(*masks: str) -> tuple[Caps, IAB]:
    effective, permitted, inheritable, ambient, bounding = (
        CapSet.from_mask(int(mask, 16)) for mask in masks
    )
    iab = IAB()
    iab.inheritable, iab.ambient, iab.bounding = inheritable, ambient, bounding
    return Caps(effective=effective, permitted=permitted, inheritable=inheritable), iab


def _differing(pid: int, fields: Mapping[str, str]) -> list[int]:
    """The threads of a process whose state differs from the main thread's."""
    if fields['Tgid'] != fields['Pid']:  # a thread was asked for
        return []
    threads = []
    with suppress(OSError):  # gone meanwhile
        for thread in sorted(map(int, os.listdir(f'/proc/{pid}/task'))):
            with suppress(OSError):
                state = status_fields(f'/proc/{pid}/task/{thread}')
                if any(state.get(name) != fields.get(name) for name in JUDGED_BY):
                    threads.append(thread)
    return threads


def user_namespace(pid: int | str) -> int | None:
    """The inode number of a process's user namespace; None where that may not be known."""
    try:
        return os.stat(f'/proc/{pid}/ns/user').st_ino
    except OSError:
        return None


def everything() -> list[Task]:
    """Every process, in the order of their ids; OSError where /proc is of no use."""
    own, tasks = require(), []
    for pid in sorted(int(name) for name in os.listdir('/proc') if name.isdecimal()):
        with suppress(OSError):  # gone meanwhile
            tasks.append(_read(pid, own))
    return tasks


def tree(processes: Iterable[Task], roots: Sequence[int] = ()) -> list[tuple[int, Task]]:
    """Processes with their depth, each after its parent; only those below `roots` if given."""
    children: dict[int, list[Task]] = {}
    known = {process.pid: process for process in processes}
    for process in known.values():
        children.setdefault(process.parent, []).append(process)
    if roots:
        tops = [known[pid] for pid in roots if pid in known]
    else:
        tops = [process for process in known.values() if process.parent not in known]
    ordered = []
    rest = [(0, process) for process in reversed(tops)]
    while rest:
        depth, process = rest.pop()
        ordered.append((depth, process))
        rest += [(depth + 1, child) for child in reversed(children.get(process.pid, []))]
    return ordered


def in_words(members: CapSet) -> str:
    """A set in words: its members, or those that it lacks where that is shorter."""
    missing = CapSet.all() - members
    if not members or not missing:
        return 'all' if members else 'none'
    return f'all but {missing}' if len(missing) < len(members) else str(members)
