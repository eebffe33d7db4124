"""drop: give up privilege for good, in every thread; see capabilities(7) and setresuid(2)."""

import os
import sys
from _collections_abc import Iterable, Iterator

from caps import _caps
from caps.accounts import id_of, ids_of
from caps.capset import CapSet
from caps.iab import IAB
from caps.proc import some_status_fields
from caps.secbits import SecureBits
from caps.state import Caps
from caps.threads import (
    NO_NEW_PRIVS,
    capset,
    drop_bounding,
    prctl,
    require_permitted,
    run_calls,
    thread_ids,
    thread_name,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from caps.capset import Members
    from caps.threads import NamedCall


def drop(
    keep: 'Members' = (),
    user: str | int | None = None,
    group: str | int | None = None,
    groups: 'Iterable[str | int]' = (),
    *,
    no_new_privs: bool = False,
) -> CapSet:
    """Give up privilege for good in every thread, as a daemon that was started as root does.

    keep: what stays permitted and effective; inheritable and ambient become empty, and so does
    bounding where cap_setpcap is permitted.
    user, group: names or numbers to become; by default the group of the user's account.
    groups: the supplementary groups of a new user or group; without either they stay if empty.
    no_new_privs: also keep execve(2) from giving any privilege again.
    Returns the bounding set that is left: not empty if cap_setpcap was missing.
    Raises, before anything is changed, OSError with EPERM for what the process may not do,
    LookupError for an unknown account; afterwards OSError that says how far it got, also where
    threads do not answer, and RuntimeError where a way back was found.
    See capabilities(7), setresuid(2), setgroups(2).
    """
    kept = CapSet(keep)
    uid, gid = ids_of(user, group)
    gids = [id_of('group', name) for name in groups]
    before = Caps.from_process()
    is_new = uid is not None or gid is not None or bool(gids)
    _check_drop(kept, before.permitted, uid, gid, is_new)
    require_permitted(before.permitted)
    calls = [capset(before.permitted.mask, before.permitted.mask, 0)]
    if 'cap_setpcap' in before.permitted:
        calls += drop_bounding(CapSet.all())
    if is_new and not _have_groups(gids):
        packed = b''.join(number.to_bytes(4, sys.byteorder) for number in gids)
        calls.append((f'setgroups({gids})', (_caps.SETGROUPS, len(gids), packed)))
    if gid is not None:
        calls.append((f'setresgid to {gid}', (_caps.SETRESGID, gid, gid, gid)))
    if uid is not None:
        keeping = prctl('keeping capabilities', _caps.PR_SET_KEEPCAPS, 1)
        calls += [keeping] if kept and uid else []
        calls.append((f'setresuid to {uid}', (_caps.SETRESUID, uid, uid, uid)))
        calls += [prctl('keeping no more', _caps.PR_SET_KEEPCAPS, 0)] if kept and uid else []
    calls.append(capset(kept.mask, kept.mask, 0))
    promised = {'CapInh': [0], 'CapPrm': [kept.mask], 'CapEff': [kept.mask], 'CapAmb': [0]}
    promised |= {'CapBnd': [0]} if 'cap_setpcap' in before.permitted else {}
    promised |= {'Uid': [uid] * 4} if uid is not None else {}
    promised |= {'Gid': [gid] * 4} if gid is not None else {}
    promised |= {'Groups': sorted(gids)} if is_new else {}
    promised |= {'NoNewPrivs': [1]} if no_new_privs else {}
    ids = os.getresuid(), os.getresgid()
    run_calls(calls + [NO_NEW_PRIVS] * no_new_privs, all_threads=True)
    _check_threads(promised)
    _try_to_return(kept, before, ids, uid, gid)
    return IAB.from_process().bounding


def _check_drop(
    kept: CapSet, permitted: CapSet, uid: int | None, gid: int | None, is_new: bool
) -> None:
    needed = CapSet()
    if uid is not None and {uid} != set(os.getresuid()):
        needed.add('cap_setuid')
    if is_new:
        needed.add('cap_setgid')
    import errno

    if missing := kept - permitted:
        raise OSError(errno.EPERM, f'{missing} cannot be kept: it is not permitted')
    if missing := needed - permitted:
        raise OSError(errno.EPERM, f'ids cannot be changed: {missing} is not permitted')
    if kept and uid and 'keep_caps_locked' in SecureBits.from_process():
        raise OSError(errno.EPERM, f'{kept} cannot be kept: the secure bit keep_caps is locked')


def _statuses(names: 'Iterable[str]') -> 'Iterator[tuple[int, dict[str, str]]]':
    """The id and some fields of the status of the living threads, once where many have the same."""
    seen = set()
    names = ['State', *names]
    for thread in thread_ids():
        try:
            values = some_status_fields(f'/proc/self/task/{thread}', names)
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue
        if values in seen or values[0][:1] in 'ZX':  # in which it is listed, but has ended too
            continue
        seen.add(values)
        yield thread, dict(zip(names, values, strict=True))


def _numbers(fields: dict[str, str], name: str) -> list[int]:
    return sorted(int(word, 16 if name[:3] == 'Cap' else 10) for word in fields[name].split())


def _have_groups(gids: list[int]) -> bool:
    """Whether these are the supplementary groups of every thread."""
    return all(_numbers(fields, 'Groups') == sorted(gids) for _, fields in _statuses(['Groups']))


def _check_threads(promised: dict[str, list[int]]) -> None:
    """Raise RuntimeError unless every thread is what drop() promised, in fields of its status."""
    for thread, fields in _statuses(promised):
        broken = [name for name in promised if _numbers(fields, name) != promised[name]]
        if broken:
            kept = ', '.join(f'{name} {fields[name]}' for name in broken)
            raise RuntimeError(f'thread {thread_name(thread)} did not drop: {kept}')


def _try_to_return(
    kept: CapSet,
    before: Caps,
    ids: tuple[tuple[int, int, int], tuple[int, int, int]],
    uid: int | None,
    gid: int | None,
) -> None:
    """Raise RuntimeError if the calling thread can take back an id or capability it gave up."""
    ways: list[NamedCall] = []
    for number, capability, now, old in (
        (_caps.SETRESUID, 'cap_setuid', uid, ids[0]),
        (_caps.SETRESGID, 'cap_setgid', gid, ids[1]),
    ):
        if now is not None and capability not in kept:
            ways += [(f'id {id_}', (number, -1, id_, -1)) for id_ in {0, *old} - {now}]
    if before.permitted != kept:
        ways.append(capset(before.permitted.mask, before.permitted.mask, 0))
    for what, call in ways:
        if _caps.system_calls([call], False) is None:
            raise RuntimeError(f'there is a way back to {what}')
