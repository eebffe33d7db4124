"""Linux capabilities of processes and files: libcap's text, with Python's sets.

>>> caps = Caps('cap_net_raw=p')
>>> str(caps.activate())
'cap_net_raw=ep'
>>> caps['inheritable'].add('cap_kill')
>>> caps.inheritable
CapSet('cap_kill')
"""

# Scripts import this while privileged: nothing here may import what a bare interpreter has not.
import os
import stat
from _collections_abc import Iterable, Iterator, MutableSet, Set

from caps import _caps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol, TypeVar

    from caps.process import SecureBits, command, drop, no_new_privs, raised, set_no_new_privs

    securebits: SecureBits

    class HasFileno(Protocol):
        def fileno(self) -> int: ...

    Result = TypeVar('Result')
    Key = TypeVar('Key')
    Value = TypeVar('Value')
    File = str | bytes | os.PathLike[str] | os.PathLike[bytes] | int | HasFileno
    Members = Iterable[str | int]

__all__ = [
    'IAB', 'CapSet', 'Caps', 'SecureBits', 'command', 'drop', 'no_new_privs', 'raised',
    'securebits', 'set_no_new_privs',
]  # fmt: skip

_NAMES = _caps.names()
_BITS: dict[str | int, int] = {name: bit for bit, name in enumerate(_NAMES)}
for _number in range(len(_NAMES)):
    _BITS[_number] = _BITS[str(_number)] = _number
_ALL = (1 << _caps.max_bits()) - 1


def _bit(member: str | int) -> int:
    """The number of a capability however it is spelled."""
    try:
        bit = _BITS.get(member)
    except TypeError:  # a list, say
        raise TypeError(f'{member!r} is not the name or number of a capability') from None
    if bit is None and isinstance(member, str) and member.isascii():
        name = member.lower()
        bit = _BITS.get(name, _BITS.get('cap_' + name))
    if bit is None:
        raise _unknown(member)
    return bit


def _unknown(member: object) -> ValueError:
    import difflib

    names = [name for name in _NAMES if name.startswith('cap_')]
    near = difflib.get_close_matches(str(member).lower(), names, 1, 0.5)
    hint = f'; did you mean {near[0]!r}?' if near else ''
    return ValueError(f'{member!r} is not a capability{hint}')


def _mask(members: 'Members') -> int:
    if type(members) is CapSet:  # to isinstance an abstract base class has a long answer
        return members.mask
    if isinstance(members, str):
        members = members.split(',') if members else ()
    mask = 0
    for member in members:
        mask |= 1 << _bit(member)
    return mask


class CapSet(MutableSet[str]):
    """A set of capabilities that knows their names.

    A member may be spelled ``cap_net_raw``, ``CAP_NET_RAW``, ``net_raw`` or by its number;
    iteration gives libcap's name, in the kernel's order.  A capability without a name, from a
    kernel newer than libcap, is its number in text.

    members: any iterable of capabilities, or one string of them with commas.
    Raises ValueError for what is no capability, naming the nearest one; see capabilities(7).
    """

    __slots__ = ('mask',)

    mask: int
    """The set as bits, bit n being capability n."""

    def __init__(self, members: 'Members' = ()) -> None:
        self.mask = _mask(members)

    @classmethod
    def from_mask(cls, mask: int) -> 'CapSet':
        """The set whose bits are those of a mask, as /proc/PID/status prints it in hex.

        mask: bit n is capability n.
        Raises ValueError for a bit beyond the capabilities that libcap can have; see proc(5).
        """
        if mask >> len(_NAMES):
            raise ValueError(f'{mask:#x} has more than {len(_NAMES)} bits')
        self = cls.__new__(cls)
        self.mask = mask
        return self

    @classmethod
    def all(cls) -> 'CapSet':
        """Every capability of the running kernel, libcap's ``all``; see cap_max_bits(3)."""
        return cls.from_mask(_ALL)

    def copy(self) -> 'CapSet':
        """An independent set with the same members."""
        return self.from_mask(self.mask)

    def add(self, member: str | int) -> None:
        """Add a capability.

        member: a name or a number.
        Raises ValueError for what is no capability.
        """
        self.mask |= 1 << _bit(member)

    def discard(self, member: str | int) -> None:
        """Remove a capability if it is in the set.

        member: a name or a number.
        Raises ValueError for what is no capability.
        """
        self.mask &= ~(1 << _bit(member))

    def clear(self) -> None:
        """Remove every member."""
        self.mask = 0

    def __contains__(self, member: object) -> bool:
        return bool(self.mask >> _bit(member) & 1)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[str]:
        rest = self.mask
        while rest:
            lowest = rest & -rest
            rest ^= lowest
            yield _NAMES[lowest.bit_length() - 1]

    def __len__(self) -> int:
        return self.mask.bit_count()

    def __str__(self) -> str:
        return ','.join(self)

    def __repr__(self) -> str:
        return f'CapSet({str(self)!r})'

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Set):
            return NotImplemented
        try:
            return self.mask == _mask(other)
        except ValueError:
            return False

    def __le__(self, other: 'Members') -> bool:
        return not self.mask & ~_mask(other)

    def __ge__(self, other: 'Members') -> bool:
        return not _mask(other) & ~self.mask

    def __lt__(self, other: 'Members') -> bool:
        mask = _mask(other)
        return self.mask != mask and not self.mask & ~mask

    def __gt__(self, other: 'Members') -> bool:
        mask = _mask(other)
        return self.mask != mask and not mask & ~self.mask

    def isdisjoint(self, other: 'Members') -> bool:
        """Whether no capability is in both.

        other: any iterable of capabilities, or one string of them with commas.
        Raises ValueError for what is no capability.
        """
        return not self.mask & _mask(other)

    def __and__(self, other: 'Members') -> 'CapSet':
        return self.from_mask(self.mask & _mask(other))

    def __or__(self, other: 'Members') -> 'CapSet':  # type: ignore[override]
        return self.from_mask(self.mask | _mask(other))

    def __xor__(self, other: 'Members') -> 'CapSet':  # type: ignore[override]
        return self.from_mask(self.mask ^ _mask(other))

    def __sub__(self, other: 'Members') -> 'CapSet':
        return self.from_mask(self.mask & ~_mask(other))

    def __rsub__(self, other: 'Members') -> 'CapSet':
        return self.from_mask(_mask(other) & ~self.mask)

    __rand__ = __and__
    __ror__ = __or__
    __rxor__ = __xor__

    def __iand__(self, other: 'Members') -> 'CapSet':
        self.mask &= _mask(other)
        return self

    def __ior__(self, other: 'Members') -> 'CapSet':  # type: ignore[override]
        self.mask |= _mask(other)
        return self

    def __ixor__(self, other: 'Members') -> 'CapSet':  # type: ignore[override]
        self.mask ^= _mask(other)
        return self

    def __isub__(self, other: 'Members') -> 'CapSet':
        self.mask &= ~_mask(other)
        return self


def _spelled(name: str) -> int:
    """The number of a capability as libcap's text spells it, more strictly than CapSet does."""
    name = name.lower()
    if name[:2] == '0x' and name.isalnum():
        bit = _BITS.get(int(name, 16))
    elif name.isdigit():
        bit = _BITS.get(int(name, 8 if name[0] == '0' else 10))
    else:
        bit = _BITS.get(name)
    if bit is None:
        raise _unknown(name)
    return bit


def _listed(names: str) -> int:
    mask = 0
    for name in names.split(','):
        if name.lower() == 'all':
            mask = _ALL  # libcap too forgets the nameless bits before it
        else:
            mask |= 1 << _spelled(name)
    return mask


# A program sees few states, and sees them often: the kernel's two calls take less time than their
# text takes to read and write.
_sets_of: dict[str, dict[str, int]] = {}
_text_of: dict[tuple[int, int, int], str] = {}


def _remember(memory: 'dict[Key, Value]', key: 'Key', value: 'Value') -> None:
    if len(memory) >= 64:
        memory.clear()
    memory[key] = value


def _parse(text: str) -> dict[str, int]:
    """The bits of each set, by its letter; ValueError for what cap_from_text(3) rejects."""
    sets = _sets_of.get(text)
    if sets is None:
        sets = _parse_anew(text)
        _remember(_sets_of, text, sets)
    return sets


def _parse_anew(text: str) -> dict[str, int]:
    sets = {'e': 0, 'p': 0, 'i': 0}
    for clause in map(bytes.decode, text.encode('ascii').split()):
        names = clause.replace('+', '=').replace('-', '=').partition('=')[0]
        actions = clause[len(names) :]
        if not actions:
            raise ValueError(f'no =, + or - after {names!r}')
        if not names and (actions[0] != '=' or '+' in actions or '-' in actions):
            raise ValueError('only a list of capabilities can be added or taken away')
        mask = _listed(names) if names else _ALL
        if actions[0] == '=':
            for flag in sets:
                sets[flag] &= ~mask
            actions = actions[1:]
            if actions and actions[0] not in '+-':
                actions = '+' + actions
        for action in actions.replace('+', ' +').replace('-', ' -').split(' ')[1:]:
            if len(action) == 1:
                raise ValueError(f'no set after {action!r}')
            for flag in action[1:]:
                if flag not in sets:
                    raise ValueError(f'{flag!r} is not one of the sets e, i and p')
                sets[flag] = sets[flag] | mask if action[0] == '+' else sets[flag] & ~mask
    return sets


def _parse_iab(text: str) -> dict[str, int]:
    """The bits of each vector, by its prefix; ValueError for what cap_iab_from_text(3) rejects."""
    vectors = {'%': 0, '^': 0, '!': 0}
    *entries, last = text.encode('ascii').decode().split(',')
    if last.strip('!^%'):  # libcap lets the last one be nothing, or prefixes of nothing
        entries.append(last)
    for entry in entries:
        name = entry.lstrip('!^%')
        bit = 1 << _spelled(name) & _ALL  # libcap forgets what the kernel has not
        for prefix in entry[: -len(name)] or '%':
            vectors[prefix] |= bit
    vectors['%'] |= vectors['^']
    return vectors


class _Member:
    """One set of a state; assigning to it replaces its members, never the set itself."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.slot = '_' + name

    def __get__(self, state: object, owner: type) -> CapSet:
        return getattr(state, self.slot)  # type: ignore[no-any-return]

    def __set__(self, state: object, members: 'Members') -> None:
        getattr(state, self.slot).mask = _mask(members)


class _State:
    """What a state of named sets can do whichever sets they are."""

    __slots__ = ()

    _sets: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> CapSet:
        if name not in self._sets:
            raise KeyError(name)
        members: CapSet = getattr(self, name)
        return members

    def __setitem__(self, name: str, members: 'Members') -> None:
        self[name].mask = _mask(members)

    def __bool__(self) -> bool:
        return any(self[name] for name in self._sets)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(self[name] == other[name] for name in self._sets)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f'{type(self).__name__}({str(self)!r})'


class Caps(_State):
    """The effective, permitted and inheritable sets of a process or a file; libcap's cap_t.

    Each set is a `CapSet`, as an attribute and as an item: ``caps.effective`` is
    ``caps['effective']``.  ``str(caps)`` is libcap's text, which setcap(8) takes and getcap(8)
    prints; ``bool(caps)`` is whether any set has a member.  Two are equal when their sets and root
    ids are, unlike cap_compare(3), which sees only the sets.

    text: capability text as cap_from_text(3) takes it, or another `Caps` to copy.
    effective, permitted, inheritable: members added to what the text gives.
    root_id: the attribute; without it that of the `Caps` which is copied, else 0.
    Raises ValueError for text that libcap rejects.
    """

    __slots__ = ('_effective', '_inheritable', '_permitted', 'marked', 'root_id')
    _sets = ('effective', 'permitted', 'inheritable')

    effective = _Member()
    permitted = _Member()
    inheritable = _Member()

    root_id: int
    """The user id that is root in the namespace a file's capabilities are for, 0 for all
    (capabilities(7), "Namespaced file capabilities"); written by `apply`."""

    marked: bool | None
    """Whether the file that this was read from has capabilities at all, be they empty; None
    for what was not read from a file."""

    def __init__(
        self,
        text: 'str | Caps' = '',
        *,
        effective: 'Members' = (),
        permitted: 'Members' = (),
        inheritable: 'Members' = (),
        root_id: int | None = None,
    ) -> None:
        self.root_id = 0
        self.marked = None
        if isinstance(text, Caps):
            sets = {name[0]: text[name].mask for name in self._sets}
            self.root_id, self.marked = text.root_id, text.marked
        else:
            try:
                sets = _parse(text)
            except ValueError as error:
                raise ValueError(f'{text!r} is not capability text: {error}') from None
            except (AttributeError, TypeError):
                kind = type(text).__name__
                raise TypeError(
                    f'capability text is a str, such as cap_kill=p, not {kind}'
                ) from None
        if root_id is not None:
            self.root_id = root_id
        self._effective = CapSet.from_mask(sets['e'] | _mask(effective))
        self._permitted = CapSet.from_mask(sets['p'] | _mask(permitted))
        self._inheritable = CapSet.from_mask(sets['i'] | _mask(inheritable))

    @classmethod
    def from_text(cls, text: str) -> 'Caps':
        """The state that a text describes.

        text: capability text, such as ``cap_net_raw=ep cap_kill+i``.
        Raises ValueError where cap_from_text(3) fails.
        """
        return cls(text)

    @classmethod
    def from_process(cls, pid: int = 0) -> 'Caps':
        """The state of a process, or of a single thread.

        pid: of a process or a thread; 0 is the calling thread.
        Raises OSError, ESRCH where there is no such process; OverflowError, as os.kill() does, for
        what is no pid; see cap_get_pid(3).
        """
        try:
            return cls(_caps.get_process(pid))
        except OSError as error:
            raise OSError(error.errno, f'process {pid}: {error.strerror}') from None

    @classmethod
    def from_file(cls, file: 'File') -> 'Caps':
        """The capabilities of a file; empty, with `marked` False, where it has none.

        file: a path (symbolic links are followed), a descriptor or a file object.
        Raises OSError with the file's name, EINVAL where it is not a regular file or its
        security.capability attribute is malformed; see cap_get_file(3).
        """
        text, root_id = _on_file(file, _caps.get_file)
        self = cls(text or '', root_id=root_id)
        self.marked = text is not None
        return self

    @staticmethod
    def remove(file: 'File') -> None:
        """Take a file's capabilities away, the attribute included, as ``setcap -r`` does.

        file: as for `apply`.
        Raises OSError with the file's name, ENODATA where it has none; see cap_set_file(3).
        """
        _on_file(file, lambda fd: _caps.set_file(fd, None, 0), write=True)

    def apply(self, file: 'File | None' = None, *, all_threads: bool = False) -> 'Caps':
        """Make this the state of the calling thread, or the capabilities of a file.

        file: a path (its last part not a symbolic link, as in setcap(8)), a descriptor or a
        file object; it must be readable.  An empty state marks a file with empty sets.
        all_threads: change every thread of the process, whoever started it, or none.
        Returns self.
        Raises OSError: for a thread with the rule of capset(2) that was broken, or with those
        threads that did not answer in about two seconds, for a file with its name; ValueError,
        before anything is written, where a file's effective set is neither empty nor all that its
        other sets have, since a file stores it as one flag (capabilities(7), "File capabilities").
        """
        if file is None:
            self._apply_to_process(all_threads)
            return self
        stored = self.permitted | self.inheritable
        if self.effective and self.effective != stored:
            both = repr(str(stored)) if stored else 'which are empty'
            raise ValueError(
                f'a file has its effective set empty or equal to permitted and inheritable '
                f'together, {both}; it cannot be {str(self.effective)!r}'
            )
        text, root_id = str(self), self.root_id
        _on_file(file, lambda fd: _caps.set_file(fd, text, root_id), write=True)
        return self

    def activate(self, *names: str | int) -> 'Caps':
        """Make what is permitted effective too; returns self.

        names: just these.  One that is not permitted is refused by `apply`, not here.
        Raises ValueError for what is no capability.
        """
        self._effective |= names or self._permitted
        return self

    def deactivate(self, *names: str | int) -> 'Caps':
        """Take everything out of effective; returns self.

        names: just these.
        Raises ValueError for what is no capability.
        """
        self._effective -= names or self._effective
        return self

    def propagate(self, *names: str | int) -> 'Caps':
        """Make what is permitted inheritable too; returns self.

        names: just these.
        Raises ValueError for what is no capability.
        """
        self._inheritable |= names or self._permitted
        return self

    propagnate = propagate  # the original's spelling

    def terminate(self, *names: str | int) -> 'Caps':
        """Take everything out of inheritable; returns self.

        names: just these.
        Raises ValueError for what is no capability.
        """
        self._inheritable -= names or self._inheritable
        return self

    def clear(self, *names: str | int) -> 'Caps':
        """Take everything out of all three sets; returns self.

        names: just these.
        Raises ValueError for what is no capability.
        """
        for members in self._effective, self._permitted, self._inheritable:
            members -= names or members
        return self

    def copy(self) -> 'Caps':
        """An independent state with the same sets, root id and mark."""
        return Caps(self)

    __copy__ = copy

    def __eq__(self, other: object) -> bool:
        same = super().__eq__(other)  # NotImplemented for another class
        return same if same is not True else self.root_id == getattr(other, 'root_id', None)

    __hash__ = None

    def __repr__(self) -> str:
        root_id = f', root_id={self.root_id}' if self.root_id else ''
        return f'{type(self).__name__}({str(self)!r}{root_id})'

    def __str__(self) -> str:
        e, p, i = key = self._effective.mask, self._permitted.mask, self._inheritable.mask
        text = _text_of.get(key)
        if text is None:
            # a clause for each combination of sets that some capability is in
            clauses = ' '.join(
                f'{CapSet.from_mask(mask)}={flags}'
                for flags, mask in (
                    ('e', e & ~p & ~i),
                    ('p', p & ~e & ~i),
                    ('i', i & ~e & ~p),
                    ('ep', e & p & ~i),
                    ('ei', e & i & ~p),
                    ('pi', p & i & ~e),
                    ('epi', e & p & i),
                )
                if mask
            )
            text = _caps.canonical(clauses)
            _remember(_text_of, key, text)
        return text

    def _apply_to_process(self, all_threads: bool) -> None:
        try:
            if all_threads:
                from caps import process

                process.apply(self, all_threads=True)
            else:
                _caps.set_process(str(self))
        except OSError as error:
            raise OSError(error.errno, self._refusal() or error.strerror) from None

    def _refusal(self) -> str:
        """Which rule of capset(2) this state breaks in the calling thread, '' for none."""
        now = Caps.from_process()
        raisable = now.inheritable | IAB.from_process().bounding
        if 'cap_setpcap' not in now.effective:
            raisable &= now.inheritable | now.permitted
        return first_broken(
            ('permitted', self.permitted - now.permitted, 'permitted can only be reduced'),
            ('effective', self.effective - self.permitted, 'only the permitted can be effective'),
            (
                'inheritable',
                self.inheritable - raisable,
                'it must be in the bounding set and, without cap_setpcap effective, permitted',
            ),
        )


def first_broken(*rules: tuple[str, CapSet, str]) -> str:
    """A sentence for the first set that would get what its rule forbids, '' if none would."""
    for name, extra, rule in rules:
        if extra:
            return f'{extra} cannot be added to {name}: {rule}; see capset(2)'
    return ''


class IAB(_State):
    """The inheritable, ambient and bounding sets of a process; libcap's cap_iab_t.

    Each set is a `CapSet`, as an attribute and as an item.  What libcap's text blocks with ``!``
    is not in ``bounding``.

    text: as cap_iab_from_text(3) takes it, or another `IAB` to copy.
    Raises ValueError for text that libcap rejects.

    >>> iab = IAB('!cap_sys_admin,^cap_net_raw')
    >>> iab.ambient, 'cap_sys_admin' in iab.bounding
    (CapSet('cap_net_raw'), False)
    """

    __slots__ = ('_ambient', '_bounding', '_inheritable')
    _sets = ('inheritable', 'ambient', 'bounding')

    inheritable = _Member()
    ambient = _Member()
    bounding = _Member()

    def __init__(self, text: 'str | IAB' = '') -> None:
        if isinstance(text, IAB):
            self._inheritable, self._ambient, self._bounding = (
                text[name].copy() for name in self._sets
            )
            return
        try:
            vectors = _parse_iab(text)
        except ValueError as error:
            raise ValueError(f'{text!r} is not IAB text: {error}') from None
        except AttributeError:
            kind = type(text).__name__
            raise TypeError(f'IAB text is a str, such as ^cap_kill, not {kind}') from None
        self._inheritable = CapSet.from_mask(vectors['%'])
        self._ambient = CapSet.from_mask(vectors['^'])
        self._bounding = CapSet.from_mask(_ALL & ~vectors['!'])

    @classmethod
    def from_text(cls, text: str) -> 'IAB':
        """The state that a text describes.

        text: IAB text, such as ``!cap_sys_admin,^cap_net_raw``.
        Raises ValueError where cap_iab_from_text(3) fails.
        """
        return cls(text)

    @classmethod
    def from_process(cls, pid: int = 0) -> 'IAB':
        """The state of a process, or of a single thread.

        pid: of a process or a thread; 0 is the calling thread.
        Raises OSError, ENOENT where there is no such process; OverflowError, as os.kill() does, for
        what is no pid; see cap_iab_get_pid(3).
        """
        try:
            return cls(_caps.get_iab(pid))
        except OSError as error:
            raise OSError(error.errno, f'process {pid}: {error.strerror}') from None

    def apply(self, *, all_threads: bool = False) -> 'IAB':
        """Make this the state of the calling thread; returns self.

        cap_setpcap is made effective meanwhile where it is permitted, as cap_iab_set_proc(3)
        does; dropping from bounding needs it.

        all_threads: change every thread of the process or none; all get the calling thread's
        effective and permitted sets.
        Raises OSError with the rule that was broken, before anything is changed, or with those
        threads that did not answer in about two seconds; see capabilities(7) and prctl(2).
        """
        from caps import process

        process.apply(self, all_threads=all_threads)
        return self

    def copy(self) -> 'IAB':
        """An independent state with the same sets."""
        return IAB(self)

    __copy__ = copy

    def __str__(self) -> str:
        blocked = CapSet.from_mask(_ALL & ~self.bounding.mask)
        return _caps.canonical_iab(
            ','.join(
                [f'%{name}' for name in self.inheritable]
                + [f'^{name}' for name in self.ambient]
                + [f'!{name}' for name in blocked]
            )
        )


def __getattr__(name: str) -> 'Any':
    """What acts on the whole process is loaded when it is first used."""
    if name not in __all__:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from caps import process

    return process.SecureBits.from_process() if name == 'securebits' else getattr(process, name)


def _on_file(file: 'File', call: 'Callable[[int], Result]', *, write: bool = False) -> 'Result':
    """`call` with a descriptor of `file`; its OSError names the file and the reason."""
    opened = -1
    name: Any = file
    try:
        if isinstance(file, int):
            fd = file
        elif isinstance(file, (str, bytes, os.PathLike)):
            # O_PATH opens what cannot be read and has no effect on a FIFO or a device.
            link = os.O_NOFOLLOW if write else 0
            fd = opened = os.open(file, os.O_PATH | os.O_CLOEXEC | link)
            if write and stat.S_ISREG(os.fstat(fd).st_mode):
                fd = os.open(f'/proc/self/fd/{opened}', os.O_RDONLY | os.O_CLOEXEC)
                os.close(opened)
                opened = fd
        else:
            fd, name = file.fileno(), getattr(file, 'name', None)
        return call(fd)
    except OSError as error:
        if error.errno is None:  # a file object without a descriptor
            raise
        raise OSError(error.errno, _reason(error, write, file), name) from None
    finally:
        if opened >= 0:
            os.close(opened)


def _reason(error: OSError, write: bool, file: 'File') -> str:
    import errno

    if error.errno == errno.EINVAL and isinstance(file, (str, bytes, os.PathLike)):
        if write and os.path.islink(file):
            return 'not a regular file but a symbolic link: name the file that it leads to'
        if os.path.exists(file) and not os.path.isfile(file):
            return 'not a regular file'
    if error.errno == errno.EPERM and write:
        return 'cap_setfcap must be effective, and the file not immutable'
    return {
        errno.EINVAL: 'not a regular file, or its security.capability attribute is malformed',
        errno.ENODATA: 'the file has no capabilities',
        errno.EOPNOTSUPP: 'the file system stores no capabilities',
        errno.EOVERFLOW: 'the capabilities are for a user namespace that this one does not see',
    }.get(error.errno or 0, str(error.strerror))
