"""What acts on the whole process: all its threads, dropping for good, raising, starting others."""

import os
import sys
from _collections_abc import Iterable, Iterator, MutableSet
from _thread import get_native_id

from caps import IAB, Caps, CapSet, _caps, first_broken

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

    A bit without a name, from a newer kernel, is its number as text.

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
        Raises OSError, EPERM where it is not permitted or a bit to change is locked; see prctl(2).
        """
        step = _prctl(f'setting {self!r}', _caps.PR_SET_SECUREBITS, self.mask)
        _make(_with_setpcap([step]), all_threads)
        return self

    @staticmethod
    def _bit(member: object) -> int:
        text = str(member).lower().removeprefix('secbit_')
        bit = int(text) if text.isdecimal() else _SECURE_BITS.get(text, 32)
        if bit >= 32:
            raise ValueError(f'{member!r} is not a secure bit; there are {", ".join(_SECURE_BITS)}')
        return bit

    def add(self, member: str) -> None:
        """Set a bit."""
        self.mask |= 1 << self._bit(member)

    def discard(self, member: str) -> None:
        """Clear a bit."""
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
    return _status('/proc/thread-self')['NoNewPrivs'] == '1'


def set_no_new_privs(*, all_threads: bool = True) -> None:
    """Keep execve(2) from ever giving privilege again; it cannot be taken back.

    all_threads: change every thread of the process or none, else the calling one.
    Raises OSError with the threads that did not answer; see PR_SET_NO_NEW_PRIVS in prctl(2).
    """
    _make([_NO_NEW_PRIVS], all_threads)


def _status(directory: str) -> dict[str, str]:
    with open(f'{directory}/status') as file:
        return {name: value.strip() for name, _, value in (line.partition(':') for line in file)}


def apply(state: 'Caps | IAB', *, all_threads: bool = False) -> None:
    """Make a state that of the calling thread, or of every thread or none; see Caps and IAB."""
    if isinstance(state, Caps):
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
    steps += _drop_bounding(IAB.from_process().bounding - state.bounding)
    _make(_with_setpcap(steps, state.inheritable), all_threads)


def _iab_refusal(wanted: IAB) -> str:
    """Which rule an IAB state would break in the calling thread, '' for none."""
    caps, now = Caps.from_process(), IAB.from_process()
    has_setpcap = 'cap_setpcap' in caps.permitted
    if not has_setpcap and (dropped := now.bounding - wanted.bounding):
        return f'{dropped} cannot be taken from bounding: cap_setpcap is not permitted'
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
    number, index, threads, count = failure
    names = ', '.join(map(_thread_name, threads)) + (' and others' if count > len(threads) else '')
    if index < 0:
        reason = f'nothing was changed, {count} threads did not answer: {names}'
    else:
        reason = f'{steps[index][0]}: {os.strerror(number)}'
        if all_threads and threads != [get_native_id()]:
            reason += f' in the threads {names}, while all others were changed'
        elif index:
            reason += f', after {", ".join(what for what, _ in steps[:index])} in this thread'
    raise OSError(number, reason)


def _thread_name(thread: int) -> str:
    try:
        with open(f'/proc/self/task/{thread}/comm') as file:
            return f'{thread} ({file.read().strip()})'
    except OSError:
        return str(thread)


def _prctl(what: str, option: int, *arguments: int) -> 'Step':
    return what, (_caps.PRCTL, option, *arguments, *(0,) * (4 - len(arguments)))


_NO_NEW_PRIVS = _prctl('setting no_new_privs', _caps.PR_SET_NO_NEW_PRIVS, 1)


def _capset(caps: Caps) -> 'Step':
    masks = [caps[name].mask for name in ('effective', 'permitted', 'inheritable')]
    words = [mask >> shift & 0xFFFFFFFF for shift in (0, 32) for mask in masks]
    header, data = (
        b''.join(word.to_bytes(4, sys.byteorder) for word in part)
        for part in ([_caps.CAPSET_VERSION, 0], words)
    )
    return f'capset to {str(caps)!r}', (_caps.CAPSET, header, data)


def _with_setpcap(steps: 'list[Step]', inheritable: CapSet | None = None) -> 'list[Step]':
    """The steps with cap_setpcap effective meanwhile if that is permitted."""
    after = Caps.from_process()
    during = after.copy()
    during.effective |= during.permitted & ['cap_setpcap']
    before = [_capset(during)]
    if inheritable is not None:
        during.inheritable = after.inheritable = inheritable
        before.append(_capset(during))
    return [*before, *steps, _capset(after)]


def _drop_bounding(names: Iterable[str]) -> 'list[Step]':
    return [
        _prctl(f'dropping {name} from bounding', _caps.PR_CAPBSET_DROP, bit)
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
    kept = CapSet(keep)
    uid, gid = _ids(user, group)
    gids = [_id('group', one) for one in groups]
    before = Caps.from_process()
    is_new = uid is not None or gid is not None or bool(gids)
    _check_drop(kept, before.permitted, uid, gid, is_new)
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
        steps += [_prctl('no longer', _caps.PR_SET_KEEPCAPS, 0)] if kept and uid else []
    steps.append(_capset(Caps(effective=kept, permitted=kept)))
    ids = os.getresuid(), os.getresgid()
    _make(steps + [_NO_NEW_PRIVS] * no_new_privs, all_threads=True)
    _check_threads(kept, uid, gid)
    _try_to_return(kept, before, ids, uid, gid)
    return IAB.from_process().bounding


def _id(kind: str, name: str | int) -> int:
    """The number of a user or group."""
    if isinstance(name, int):
        return name
    if kind == 'user':
        import pwd

        return pwd.getpwnam(name).pw_uid
    import grp

    return grp.getgrnam(name).gr_gid


def _ids(user: str | int | None, group: str | int | None) -> tuple[int | None, int | None]:
    uid = None if user is None else _id('user', user)
    if group is not None or uid is None:
        return uid, None if group is None else _id('group', group)
    import pwd

    try:
        return uid, pwd.getpwuid(uid).pw_gid
    except KeyError:
        raise LookupError(f'user {uid} has no account: name the group too') from None


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
    for thread in os.listdir('/proc/self/task'):
        status = _status(f'/proc/self/task/{thread}')
        sets = {name: int(status[name], 16) for name in ('CapEff', 'CapPrm', 'CapInh', 'CapAmb')}
        wanted = {'CapEff': kept.mask, 'CapPrm': kept.mask, 'CapInh': 0, 'CapAmb': 0}
        ids = [(status['Uid'], uid), (status['Gid'], gid)]
        if sets != wanted or any(
            new is not None and set(have.split()) != {str(new)} for have, new in ids
        ):
            raise RuntimeError(f'thread {_thread_name(int(thread))} did not drop: {status}')


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
    where it is not the subject of a with statement; see capset(2).
    """

    def __init__(self, *names: str | int) -> None:
        self._names = CapSet(names)
        self._before: list[CapSet] = []

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
        self._before.append(before)
        return caps.effective

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: 'TracebackType | None',
    ) -> None:
        caps = Caps.from_process()
        caps.effective = self._before.pop() & caps.permitted
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
    Raises OSError, EPERM for what this process may not give; LookupError for an unknown account;
    see execve(2) and capabilities(7).
    """
    import errno

    uid, gid = _ids(user, group)
    gids = [_id('group', one) for one in groups]
    now = IAB.from_process()
    after = now.copy()
    after.ambient = ambient
    if inheritable is not None:
        after.inheritable = inheritable
    after.inheritable |= after.ambient
    if bounding is not None:
        after.bounding = bounding
    is_new = uid is not None or gid is not None or bool(gids)
    needed = CapSet(['cap_setuid'] * (uid is not None) + ['cap_setgid'] * is_new)
    needed |= ['cap_setpcap'] if after.bounding != now.bounding else []
    given = _given_by_execve(now)
    raisable = now.inheritable | (now.bounding if 'cap_setpcap' in given else given)
    broken = first_broken(
        ('setpriv', needed - given, 'execve(2) does not give it to a program of this process'),
        ('ambient', after.ambient - given, 'execve(2) does not give it to a program'),
        ('bounding', after.bounding - now.bounding, 'bounding can only be reduced'),
        ('inheritable', after.inheritable - (raisable & after.bounding), 'it must be bounding'),
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
    if os.geteuid() == 0 and 'noroot' not in SecureBits.from_process():
        return now.bounding | now.inheritable
    return now.ambient
