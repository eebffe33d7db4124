"""What acts on the whole process: all its threads, dropping for good, raising, starting others."""

import os
import sys
from _collections_abc import Iterable, Iterator, MutableSet
from _thread import get_native_id

from caps import IAB, Caps, CapSet, _caps, first_broken
from caps.proc import comm, status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from caps import Members

    Step = tuple[str, tuple[int | bytes, ...]]  # what it is for a reader, what for syscall(2)

# capabilities(7), "The securebits flags"; each is followed by the one that locks it.
_FLAGS = (
    'noroot',
    'no_setuid_fixup',
    'keep_caps',
    'no_cap_ambient_raise',
    'exec_restrict_file',
    'exec_deny_interactive',
)
_SECURE_BITS = {
    name: bit
    for number, flag in enumerate(_FLAGS)
    for name, bit in ((flag, 2 * number), (f'{flag}_locked', 2 * number + 1))
}


class SecureBits(MutableSet[str]):
    """The secure bits of a thread, as a set of names such as ``noroot`` and ``noroot_locked``.

    A bit without a name, from a newer kernel, is its number as text.  A name may be spelled as
    SECBIT_NOROOT too.

    members: names of bits.
    Raises ValueError for an unknown name; see capabilities(7), "The securebits flags".
    """

    __slots__ = ('mask',)

    mask: int
    """The bits as prctl(2) has them."""

    def __init__(self, members: Iterable[str] = ()) -> None:
        self.mask = 0
        for member in members:
            self.add(member)

    @classmethod
    def from_process(cls) -> 'SecureBits':
        """Those of the calling thread; see cap_get_secbits(3)."""
        self = cls()
        self.mask = _caps.securebits()
        return self

    def apply(self, *, all_threads: bool = False) -> 'SecureBits':
        """Make these the secure bits of the calling thread, or of all; returns self.

        cap_setpcap is made effective meanwhile where it is permitted.

        all_threads: change every thread of the process or none.
        Raises OSError, EPERM where it is not permitted, a bit to change is locked or the kernel
        does not know it; see prctl(2).
        """
        import errno

        now = self.from_process()
        locks = now.mask & 0xAAAAAAAA
        locked = SecureBits()
        locked.mask = (self.mask ^ now.mask) & (locks | locks >> 1)
        if locked:
            raise OSError(errno.EPERM, f'{", ".join(locked)} cannot be changed: locked')
        step = _prctl(f'setting {self!r}', _caps.PR_SET_SECUREBITS, self.mask)
        _make_with_setpcap([step], all_threads)
        return self

    @staticmethod
    def _bit(member: object) -> int:
        text = str(member).lower().removeprefix('secbit_')
        bit = int(text) if text.isdecimal() else _SECURE_BITS.get(text, 32)
        if bit >= 32:
            raise ValueError(f'{member!r} is not a secure bit; there are {", ".join(_SECURE_BITS)}')
        return bit

    def add(self, member: str) -> None:
        """Set a bit.

        member: its name.
        Raises ValueError for an unknown name.
        """
        self.mask |= 1 << self._bit(member)

    def discard(self, member: str) -> None:
        """Clear a bit.

        member: its name.
        Raises ValueError for an unknown name.
        """
        self.mask &= ~(1 << self._bit(member))

    def __contains__(self, member: object) -> bool:
        return bool(self.mask >> self._bit(member) & 1)

    def __iter__(self) -> Iterator[str]:
        names = {bit: name for name, bit in _SECURE_BITS.items()}
        return (names.get(bit, str(bit)) for bit in range(32) if self.mask >> bit & 1)

    def __len__(self) -> int:
        return self.mask.bit_count()

    def __repr__(self) -> str:
        return f'SecureBits({list(self)!r})'


def no_new_privs() -> bool:
    """Whether execve(2) can no longer give the calling thread privilege; see prctl(2)."""
    return status('/proc/thread-self')['NoNewPrivs'] == '1'


def set_no_new_privs(*, all_threads: bool = True) -> None:
    """Keep execve(2) from ever giving privilege again; it cannot be taken back.

    all_threads: change every thread of the process or none, else the calling one.
    Raises OSError with the threads that did not answer in about two seconds; see
    PR_SET_NO_NEW_PRIVS in prctl(2).
    """
    _make([_NO_NEW_PRIVS], all_threads)


def apply(state: 'Caps | IAB', *, all_threads: bool = False) -> None:
    """Make a state that of the calling thread, or of every thread or none; see Caps and IAB."""
    if isinstance(state, Caps):
        if all_threads:
            _check_permitted(state.permitted)
        _make([_capset(state)], all_threads)
        return
    import errno

    if broken := _iab_refusal(state):
        raise OSError(errno.EPERM, broken)
    steps = [_prctl('clearing ambient', _caps.PR_CAP_AMBIENT, _caps.PR_CAP_AMBIENT_CLEAR_ALL)]
    for name in state.ambient:
        bit = CapSet(name).mask.bit_length() - 1
        raising = _caps.PR_CAP_AMBIENT, _caps.PR_CAP_AMBIENT_RAISE, bit
        steps.append(_prctl(f'making {name} ambient', *raising))
    has_setpcap = 'cap_setpcap' in Caps.from_process().permitted
    # Other threads may have more in bounding than this one.
    there = CapSet.all() if all_threads and has_setpcap else IAB.from_process().bounding
    steps += _drop_bounding(there - state.bounding)
    _make_with_setpcap(steps, all_threads, state.inheritable)


def _iab_refusal(wanted: IAB) -> str:
    """Which rule an IAB state would break in the calling thread, '' for none."""
    caps, now = Caps.from_process(), IAB.from_process()
    has_setpcap = 'cap_setpcap' in caps.permitted
    if not has_setpcap and (dropped := now.bounding - wanted.bounding):
        return f'{dropped} cannot be taken from bounding: cap_setpcap is not permitted'
    if wanted.ambient and 'no_cap_ambient_raise' in SecureBits.from_process():
        return f'{wanted.ambient} cannot be ambient: the secure bit no_cap_ambient_raise is set'
    raisable = caps.inheritable | (now.bounding if has_setpcap else caps.permitted & now.bounding)
    return first_broken(
        ('bounding', wanted.bounding - now.bounding, 'bounding can only be reduced'),
        (
            'inheritable',
            wanted.inheritable - raisable,
            'it must be in the bounding set and, without cap_setpcap permitted, permitted',
        ),
        (
            'ambient',
            wanted.ambient - (wanted.inheritable & caps.permitted),
            'it must be permitted and inheritable',
        ),
    )


def _make(steps: 'Sequence[Step]', all_threads: bool) -> None:
    """Make system calls in turn, on this thread or on all; OSError says how far that got."""
    failure = _caps.system_calls([call for _, call in steps], all_threads)
    if failure is None:
        return
    import errno

    number, index, threads, count = failure
    names = ', '.join(map(_thread_name, threads))
    if count > len(threads):
        names += f' and {count - len(threads)} more'
    if index >= 0:
        done = ', '.join(dict.fromkeys(what for what, _ in steps[:index] if what))
        reason = f'{steps[index][0] or "making cap_setpcap effective"}: {os.strerror(number)}'
        if all_threads and threads != [get_native_id()]:
            reason += f' in thread {names}, while all others were changed'
        elif done:
            reason += f', after {done} in this thread only'
    elif count:
        reason = f'nothing was changed: no answer from thread {names}'
    elif number == errno.EBUSY:
        reason = 'nothing was changed: no real-time signal is left to ask other threads by'
    else:
        reason = f'nothing was changed: reading /proc/self/task: {os.strerror(number)}'
    raise OSError(number, reason)


def _thread_name(thread: int) -> str:
    try:
        return f'{thread} ({comm(f"/proc/self/task/{thread}")})'
    except OSError:
        return str(thread)


def _prctl(what: str, option: int, *arguments: int) -> 'Step':
    return what, (_caps.PRCTL, option, *arguments, *(0,) * (4 - len(arguments)))


_NO_NEW_PRIVS = _prctl('setting no_new_privs', _caps.PR_SET_NO_NEW_PRIVS, 1)


def _capset(caps: Caps, what: str | None = None) -> 'Step':
    masks = [caps[name].mask for name in ('effective', 'permitted', 'inheritable')]
    words = [mask >> shift & 0xFFFFFFFF for shift in (0, 32) for mask in masks]
    header, data = (
        b''.join(word.to_bytes(4, sys.byteorder) for word in part)
        for part in ([_caps.CAPSET_VERSION, 0], words)
    )
    what = f'capset to {str(caps)!r}' if what is None else what
    return what, (_caps.CAPSET, header, data)


def _make_with_setpcap(
    steps: 'list[Step]', all_threads: bool, inheritable: CapSet | None = None
) -> None:
    """Make system calls with cap_setpcap effective meanwhile if that is permitted."""
    before = Caps.from_process()
    if all_threads:
        _check_permitted(before.permitted)
    during, after = before.copy(), before.copy()
    during.effective |= during.permitted & ['cap_setpcap']
    raising = [_capset(during, '')]
    if inheritable is not None:
        during.inheritable = after.inheritable = inheritable
        raising.append(_capset(during))
    try:
        _make([*raising, *steps, _capset(after)], all_threads)
    except OSError:
        now = Caps.from_process()
        now.effective = before.effective
        now.apply()
        raise


def _check_permitted(permitted: CapSet) -> None:
    """OSError if a thread has less permitted than all threads shall have."""
    import errno

    for thread in map(int, os.listdir('/proc/self/task')):
        try:
            missing = permitted - Caps.from_process(thread).permitted
        except ProcessLookupError:  # it has ended
            continue
        if missing:
            raise OSError(
                errno.EPERM,
                f'nothing was changed: {missing} is not permitted in thread '
                f'{_thread_name(thread)}, and permitted can only be reduced',
            )


def _drop_bounding(names: Iterable[str]) -> 'list[Step]':
    return [
        _prctl('dropping from bounding', _caps.PR_CAPBSET_DROP, bit)
        for name in names
        for bit in [CapSet(name).mask.bit_length() - 1]
    ]


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
    user, group: names or numbers to become; the group of a user is by default that of the account.
    groups: the supplementary groups of a new user or group; without either they stay if empty.
    no_new_privs: also keep execve(2) from giving any privilege again.
    Returns the bounding set that is left: not empty if cap_setpcap was missing.
    Raises, before anything is changed, OSError with EPERM for what the process may not do,
    LookupError for an unknown account; afterwards OSError that says how far it got, also where
    threads do not answer, and RuntimeError where a way back was found.
    See capabilities(7), setresuid(2), setgroups(2).
    """
    from caps.accounts import id_of, ids_of

    kept = CapSet(keep)
    uid, gid = ids_of(user, group)
    gids = [id_of('group', one) for one in groups]
    before = Caps.from_process()
    is_new = uid is not None or gid is not None or bool(gids)
    _check_drop(kept, before.permitted, uid, gid, is_new)
    _check_permitted(before.permitted)
    steps = [_capset(Caps(effective=before.permitted, permitted=before.permitted))]
    if 'cap_setpcap' in before.permitted:
        steps += _drop_bounding(CapSet.all())
    if is_new and sorted(gids) != sorted(os.getgroups()):
        packed = b''.join(one.to_bytes(4, sys.byteorder) for one in gids)
        steps.append((f'setgroups({gids})', (_caps.SETGROUPS, len(gids), packed)))
    if gid is not None:
        steps.append((f'setresgid to {gid}', (_caps.SETRESGID, gid, gid, gid)))
    if uid is not None:
        keeping = _prctl('keeping capabilities', _caps.PR_SET_KEEPCAPS, 1)
        steps += [keeping] if kept and uid else []
        steps.append((f'setresuid to {uid}', (_caps.SETRESUID, uid, uid, uid)))
        steps += [_prctl('keeping no more', _caps.PR_SET_KEEPCAPS, 0)] if kept and uid else []
    steps.append(_capset(Caps(effective=kept, permitted=kept)))
    ids = os.getresuid(), os.getresgid()
    _make(steps + [_NO_NEW_PRIVS] * no_new_privs, all_threads=True)
    _check_threads(kept, uid, gid)
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


def _check_threads(kept: CapSet, uid: int | None, gid: int | None) -> None:
    """RuntimeError unless every thread is what drop() promised."""
    wanted = dict.fromkeys(('CapEff', 'CapPrm'), kept.mask) | dict.fromkeys(('CapInh', 'CapAmb'), 0)
    for thread in os.listdir('/proc/self/task'):
        try:
            fields = status(f'/proc/self/task/{thread}')
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue
        if fields['State'][0] in 'ZX':  # so has this one, though it is listed
            continue
        sets = {name: int(fields[name], 16) for name in wanted}
        ids = {'Uid': uid, 'Gid': gid}
        if sets != wanted or any(
            new is not None and set(fields[name].split()) != {str(new)} for name, new in ids.items()
        ):
            found = ', '.join(f'{name} {fields[name]}' for name in (*ids, *wanted))
            raise RuntimeError(f'thread {_thread_name(int(thread))} did not drop: {found}')


def _try_to_return(
    kept: CapSet,
    before: Caps,
    ids: tuple[tuple[int, int, int], tuple[int, int, int]],
    uid: int | None,
    gid: int | None,
) -> None:
    """RuntimeError if the calling thread can take back what it was, by what it did not keep."""
    ways: list[Step] = []
    for number, capability, now, old in (
        (_caps.SETRESUID, 'cap_setuid', uid, ids[0]),
        (_caps.SETRESGID, 'cap_setgid', gid, ids[1]),
    ):
        if now is not None and capability not in kept:
            ways += [(f'id {one}', (number, -1, one, -1)) for one in {0, *old} - {now}]
    if before.permitted != kept:
        ways.append(_capset(Caps(effective=before.permitted, permitted=before.permitted)))
    for what, call in ways:
        if _caps.system_calls([call], False) is None:
            raise RuntimeError(f'there is a way back to {what}')


class raised:
    """``with raised('cap_net_bind_service'):`` makes permitted capabilities effective in a block.

    In this thread only, and the effective set is exactly what it was when the block is left.
    A generator or a coroutine can be suspended inside the block, and others would run with what
    it raised, so there it is refused: put the block in a plain function.

    names: capabilities; all that are permitted without any.
    Raises OSError, EPERM for what is not permitted; RuntimeError in a generator or coroutine, or
    where contextlib's ExitStack enters it; see capset(2).
    """

    def __init__(self, *names: str | int) -> None:
        self._names = CapSet(names)
        self._before: dict[int, list[CapSet]] = {}

    def __enter__(self) -> CapSet:
        caller = sys._getframe(1)
        # CO_GENERATOR, CO_COROUTINE, CO_ITERABLE_COROUTINE and CO_ASYNC_GENERATOR of inspect
        suspends = caller.f_code.co_flags & (0x20 | 0x80 | 0x100 | 0x200)
        if suspends or caller.f_globals.get('__name__') == 'contextlib':
            raise RuntimeError(
                f'{caller.f_code.co_name} can be left with capabilities raised: use a with '
                'statement in a plain function'
            )
        caps = Caps.from_process()
        before = caps.effective.copy()
        caps.activate(*(self._names or caps.permitted)).apply()
        self._before.setdefault(get_native_id(), []).append(before)
        return caps.effective

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: 'TracebackType | None',
    ) -> None:
        caps, thread = Caps.from_process(), get_native_id()
        caps.effective = self._before[thread].pop() & caps.permitted
        if not self._before[thread]:
            del self._before[thread]
        caps.apply()


def command(
    argv: 'Sequence[str | os.PathLike[str]]',
    *,
    ambient: 'Members' = (),
    inheritable: 'Members | None' = None,
    bounding: 'Members | None' = None,
    user: str | int | None = None,
    group: str | int | None = None,
    groups: 'Iterable[str | int]' = (),
    no_new_privs: bool = False,
) -> list[str]:
    """The setpriv(1) command line that starts a program so, for subprocess and anything else.

    argv: the program and its arguments.
    ambient: what the program has permitted and effective, and so have its children.
    inheritable: its inheritable set, to which ambient is added; by default what it is now.
    bounding: its bounding set; by default what it is now.
    user, group, groups: as for `drop`.
    no_new_privs: also keep execve(2) from giving it any privilege.
    Returns the words of the command line.
    Raises OSError, EPERM for what this process may not give; LookupError for an unknown account;
    ValueError for one string; see execve(2) and capabilities(7).
    """
    import errno

    from caps.accounts import id_of, ids_of

    if isinstance(argv, (str, bytes)) or not argv:
        raise ValueError(f'{argv!r} is not a program and its arguments')
    uid, gid = ids_of(user, group)
    gids = [id_of('group', one) for one in groups]
    now = IAB.from_process()
    after = now.copy()
    after.ambient = ambient
    if inheritable is not None:
        after.inheritable = inheritable
    after.inheritable |= after.ambient
    if bounding is not None:
        after.bounding = bounding
    is_new = uid is not None or gid is not None or bool(gids)
    needed = CapSet(['cap_setgid'] if is_new else [])
    needed |= ['cap_setuid'] if uid not in (None, os.getuid(), os.geteuid()) else []
    needed |= ['cap_setpcap'] if after.bounding != now.bounding else []
    given, bits = _given_by_execve(now), SecureBits.from_process()
    raisable = CapSet.all() if 'cap_setpcap' in given else given
    if missing := needed - given:
        broken = f'{missing} is needed, and execve(2) does not give it to programs of this process'
    elif 'keep_caps_locked' in bits:
        broken = 'setpriv(1) sets the secure bit keep_caps, which is locked'
    elif after.ambient and 'no_cap_ambient_raise' in bits:
        broken = f'{after.ambient} cannot be ambient: the secure bit no_cap_ambient_raise is set'
    else:
        broken = first_broken(
            ('ambient', after.ambient - given, 'execve(2) does not give it to a program'),
            ('bounding', after.bounding - now.bounding, 'bounding can only be reduced'),
            (
                'inheritable',
                after.inheritable - (now.inheritable | (raisable & after.bounding)),
                'it must be in the bounding set and, without cap_setpcap, permitted',
            ),
        )
    if broken:
        raise OSError(errno.EPERM, broken)
    words = ['setpriv']
    words += [f'--reuid={uid}'] if uid is not None else []
    words += [f'--regid={gid}'] if gid is not None else []
    if is_new:
        words.append(f'--groups={",".join(map(str, gids))}' if gids else '--clear-groups')
    for option, old, new in (
        ('inh-caps', now.inheritable, after.inheritable),
        ('ambient-caps', now.ambient, after.ambient),
        ('bounding-set', now.bounding, after.bounding),
    ):
        if old != new or (new and new is after.ambient):
            words.append(f'--{option}=' + ','.join(['-all', *map(_setpriv_name, new)]))
    words += ['--no-new-privs'] * no_new_privs
    return [*words, '--', *(os.fspath(word) for word in argv)]


def _setpriv_name(name: str) -> str:
    return f'+cap_{name}' if name.isdecimal() else '+' + name.removeprefix('cap_')


def _given_by_execve(now: IAB) -> CapSet:
    """What a program without capabilities of its own has permitted when this process runs it."""
    if os.geteuid() != 0 or 'noroot' in SecureBits.from_process():
        return now.ambient
    given = now.bounding | now.inheritable
    return given & Caps.from_process().permitted if no_new_privs() else given
