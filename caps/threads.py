"""System calls on this thread or on all; the twin of ext/threads.c."""

import os
import sys
from _collections_abc import Iterable
from _thread import get_native_id

from caps import _caps
from caps.capset import CapSet
from caps.proc import comm
from caps.text import parse, written

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    NamedCall = tuple[str, tuple[int | bytes, ...]]  # its name in errors, and what syscall(2) takes


_NO_PROC = (
    'nothing was changed: all threads are found in /proc, which is not mounted: do this before '
    'os.chroot(), or mount /proc'
)


def thread_ids() -> list[int]:
    """The threads of the process."""
    try:
        return list(map(int, os.listdir('/proc/self/task')))
    except FileNotFoundError as error:
        raise OSError(error.errno, _NO_PROC) from None


def run_calls(calls: 'Sequence[NamedCall]', all_threads: bool) -> None:
    """Make system calls in this order, on this thread or on all; OSError says how far that got."""
    failure = _caps.system_calls([call for _, call in calls], all_threads)
    if failure is None:
        return
    number, index, threads, count = failure
    names = ', '.join(map(thread_name, threads))
    if count > len(threads):
        names += f' and {count - len(threads)} more'
    if index < 0:
        reason = _no_answer(number, names)
    else:
        reason = f'{calls[index][0] or "making cap_setpcap effective"}: {os.strerror(number)}'
        done = ', '.join(dict.fromkeys(what for what, _ in calls[:index] if what))
        if all_threads and threads != [get_native_id()]:
            reason += f' in thread {names}, while all others were changed'
        elif done:
            reason += f', after {done} in this thread only'
    raise OSError(number, reason)


def _no_answer(number: int, names: str) -> str:
    """Why threads could not be asked, or did not answer; no call was made.

    number: of the error.
    names: of the threads that did not answer, if it was because of them.
    """
    import errno

    if number == errno.ENOENT:
        return _NO_PROC
    if names and number == errno.EBUSY:
        reason = (
            f'thread {names} works for io_uring and keeps the privilege that the ring was made '
            'with; close the ring first, or make it afterwards'
        )
    elif names:
        reason = f'no answer from thread {names}'
    elif number == errno.EBUSY:
        reason = 'other threads are asked by a real-time signal, and none is unused'
    elif number == errno.EAGAIN:
        reason = (
            'other threads are asked by signals, and the limit of pending ones (ulimit -i) is '
            'reached'
        )
    elif number == errno.E2BIG:
        reason = f'there are more than {_caps.MAX_THREADS} other threads'
    else:
        reason = f'reading /proc/self/task: {os.strerror(number)}'
    return f'nothing was changed: {reason}'


def thread_name(thread: int) -> str:
    try:
        return f'{thread} ({comm(f"/proc/self/task/{thread}")})'
    except OSError:
        return str(thread)


def prctl(what: str, option: int, *arguments: int) -> 'NamedCall':
    return what, (_caps.PRCTL, option, *arguments, *(0,) * (4 - len(arguments)))


NO_NEW_PRIVS = prctl('setting no_new_privs', _caps.PR_SET_NO_NEW_PRIVS, 1)


def capset(
    effective: int, permitted: int, inheritable: int, what: str | None = None
) -> 'NamedCall':
    """The call that makes three masks the state of a thread.

    what: its name in errors; by default the state's text.
    """
    masks = effective, permitted, inheritable
    words = [mask >> shift & 0xFFFFFFFF for shift in (0, 32) for mask in masks]
    header, data = (
        b''.join(word.to_bytes(4, sys.byteorder) for word in part)
        for part in ([_caps.CAPSET_VERSION, 0], words)
    )
    what = f'capset to {written(*masks)!r}' if what is None else what
    return what, (_caps.CAPSET, header, data)


def masks_of(thread: int = 0) -> tuple[int, int, int]:
    """The effective, permitted and inheritable masks of a thread, by default the calling one."""
    sets = parse(_caps.get_process(thread))
    return sets['e'], sets['p'], sets['i']


def run_with_setpcap(
    calls: 'list[NamedCall]', all_threads: bool, inheritable: CapSet | None = None
) -> None:
    """Make system calls with cap_setpcap effective meanwhile, where it is permitted."""
    effective, permitted, now_inheritable = masks_of()
    if all_threads:
        require_permitted(CapSet.from_mask(permitted))
    raised = effective | permitted & CapSet('cap_setpcap').mask
    raising = [capset(raised, permitted, now_inheritable, '')]
    after = now_inheritable
    if inheritable is not None:
        after = inheritable.mask
        raising.append(capset(raised, permitted, after))
    try:
        run_calls([*raising, *calls, capset(effective, permitted, after)], all_threads)
    except OSError:
        _, permitted, inheritable_now = masks_of()
        _caps.set_process(written(effective, permitted, inheritable_now))
        raise


def require_permitted(permitted: CapSet) -> None:
    """Raise OSError if a thread lacks a permitted capability that all threads are to have."""
    import errno

    for thread in thread_ids():
        try:
            missing = permitted.mask & ~masks_of(thread)[1]
        except ProcessLookupError:  # it has ended
            continue
        if missing:
            raise OSError(
                errno.EPERM,
                f'nothing was changed: {CapSet.from_mask(missing)} is not permitted in thread '
                f'{thread_name(thread)}, and permitted can only be reduced',
            )


def drop_bounding(names: Iterable[str]) -> 'list[NamedCall]':
    return [
        prctl('dropping from bounding', _caps.PR_CAPBSET_DROP, bit)
        for name in names
        for bit in [CapSet(name).mask.bit_length() - 1]
    ]
