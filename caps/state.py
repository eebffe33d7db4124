"""Caps: the three sets of a thread or of a file; see cap_get_proc(3) and cap_get_file(3)."""

import os

from caps import _caps
from caps.capset import CapSet, mask_of
from caps.text import parse, written

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from caps._caps import PathOrFd
    from caps.capset import Members

    class HasFileno(Protocol):
        def fileno(self) -> int: ...

    AnyFile = PathOrFd | HasFileno


class Member:
    """One set of a state; assigning to it replaces its members, never the set itself."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.slot = '_' + name

    def __get__(self, state: object, owner: type) -> CapSet:
        return getattr(state, self.slot)  # type: ignore[no-any-return]

    def __set__(self, state: object, members: 'Members') -> None:
        getattr(state, self.slot).mask = mask_of(members)


class State:
    """What a state of named sets can do whichever sets they are."""

    __slots__ = ()

    _sets: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> CapSet:
        if name not in self._sets:
            raise KeyError(name)
        members: CapSet = getattr(self, name)
        return members

    def __setitem__(self, name: str, members: 'Members') -> None:
        self[name].mask = mask_of(members)

    def __bool__(self) -> bool:
        return any(self[name] for name in self._sets)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(self[name] == other[name] for name in self._sets)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f'{type(self).__name__}({str(self)!r})'


class Caps(State):
    """The effective, permitted and inheritable sets of a process or a file; libcap's cap_t.

    Each set is a `CapSet`, as an attribute and as an item: ``caps.effective`` is
    ``caps['effective']``.  ``str(caps)`` is libcap's text, which setcap(8) takes and getcap(8)
    prints; ``bool(caps)`` is whether any set has a member.  Two are equal when their sets and root
    ids are, unlike cap_compare(3), which sees only the sets.

    text: capability text as cap_from_text(3) takes it, or another `Caps` to copy.
    effective, permitted, inheritable: members added to what the text gives.
    root_id: the attribute; by default the one of a `Caps` that is copied, else 0.
    Raises ValueError for text that libcap rejects.
    """

    __slots__ = ('_effective', '_inheritable', '_permitted', 'marked', 'root_id')
    _sets = ('effective', 'permitted', 'inheritable')

    effective = Member()
    permitted = Member()
    inheritable = Member()

    root_id: int
    """The user id that is root in the namespace a file's capabilities are for, 0 for all
    (capabilities(7), "Namespaced file capabilities"); written by `apply`."""

    marked: bool | None
    """Whether the file that this was read from has capabilities at all, even if the sets are empty;
    None if this was not read from a file."""

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
                sets = parse(text)
            except ValueError as error:
                raise ValueError(f'{text!r} is not capability text: {error}') from None
            except (AttributeError, TypeError):
                kind = type(text).__name__
                raise TypeError(
                    f'capability text is a str, such as cap_kill=p, not {kind}'
                ) from None
        if root_id is not None:
            self.root_id = root_id
        self._effective = CapSet.from_mask(sets['e'])
        self._permitted = CapSet.from_mask(sets['p'])
        self._inheritable = CapSet.from_mask(sets['i'])
        if (effective, permitted, inheritable) != ((), (), ()):
            self._effective |= effective
            self._permitted |= permitted
            self._inheritable |= inheritable

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
    def from_file(cls, file: 'AnyFile') -> 'Caps':
        """The capabilities of a file; empty, with `marked` False, where it has none.

        file: a path (symbolic links are followed), a descriptor or a file object.
        Raises OSError with the file's name, EINVAL where it is not a regular file or its
        security.capability attribute is malformed; see cap_get_file(3).
        """
        try:
            text, root_id = _caps.get_file(_path_or_fd(file))
        except OSError as error:
            raise _file_error(error, file) from None
        self = cls(text or '', root_id=root_id)
        self.marked = text is not None
        return self

    @staticmethod
    def remove(file: 'AnyFile') -> None:
        """Take a file's capabilities away, the attribute included, as ``setcap -r`` does.

        file: as for `apply`.
        Raises OSError with the file's name, ENODATA where it has none; see cap_set_file(3).
        """
        _change(file, None, 0)

    def apply(self, file: 'AnyFile | None' = None, *, all_threads: bool = False) -> 'Caps':
        """Make this the state of the calling thread, or the capabilities of a file.

        file: a path (its last part not a symbolic link, as in setcap(8)), a descriptor or a
        file object.  By path it need not be readable, but where /proc is missing.  An empty state
        marks a file with empty sets.
        all_threads: change every thread of the process, also those that C code started, or none.
        Returns self.
        Raises OSError: for a thread with the rule of capset(2) that was broken, or with those
        threads that did not answer in about two seconds, for a file with its name; ValueError,
        before anything is written, where a root id is none, or where a file's effective set is
        neither empty nor all that its other sets have, since a file stores it as one flag
        (capabilities(7), "File capabilities").
        """
        if file is None:
            self._apply_to_process(all_threads)
            return self
        effective, permitted, inheritable = self._masks
        if effective and effective != permitted | inheritable:
            stored = self.permitted | self.inheritable
            both = repr(str(stored)) if stored else 'which are empty'
            raise ValueError(
                f'the effective set of a file is empty or equal to permitted and inheritable '
                f'together, {both}; it cannot be {str(self.effective)!r}'
            )
        if not 0 <= self.root_id < 2**32 - 1:
            raise ValueError(f'{self.root_id} is not a user id')
        _change(file, written(effective, permitted, inheritable), self.root_id)
        return self

    def activate(self, *names: str | int) -> 'Caps':
        """Make what is permitted effective too; returns self.

        names: just these.  One that is not permitted is refused by `apply`, not here.
        Raises ValueError for an unknown capability.
        """
        self._effective |= names or self._permitted
        return self

    def deactivate(self, *names: str | int) -> 'Caps':
        """Take everything out of effective; returns self.

        names: just these.
        Raises ValueError for an unknown capability.
        """
        self._effective -= names or self._effective
        return self

    def propagate(self, *names: str | int) -> 'Caps':
        """Make what is permitted inheritable too; returns self.

        names: just these.
        Raises ValueError for an unknown capability.
        """
        self._inheritable |= names or self._permitted
        return self

    propagnate = propagate  # the original's spelling

    def terminate(self, *names: str | int) -> 'Caps':
        """Take everything out of inheritable; returns self.

        names: just these.
        Raises ValueError for an unknown capability.
        """
        self._inheritable -= names or self._inheritable
        return self

    def clear(self, *names: str | int) -> 'Caps':
        """Take everything out of all three sets; returns self.

        names: just these.
        Raises ValueError for an unknown capability.
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
        return written(*self._masks)

    @property
    def _three(self) -> tuple[CapSet, CapSet, CapSet]:
        return self._effective, self._permitted, self._inheritable

    @property
    def _masks(self) -> tuple[int, int, int]:
        return self._effective.mask, self._permitted.mask, self._inheritable.mask

    def _apply_to_process(self, all_threads: bool) -> None:
        try:
            if all_threads:
                from caps import load

                threads = load('threads', 'this')
                threads.require_permitted(self._permitted)
                threads.run_calls([threads.capset(*self._masks)], all_threads=True)
            else:
                _caps.set_process(str(self))
        except OSError as error:
            raise OSError(error.errno, self._refusal() or error.strerror) from None

    def _refusal(self) -> str:
        """Which rule of capset(2) this state breaks in the calling thread, '' for none."""
        from caps import load

        try:
            refusals = load('refusals', 'this')
        except ImportError:  # then the kernel's own error has to do
            return ''
        now = Caps.from_process()
        return str(refusals.of_capset(self._three, now._three))


def _path_or_fd(file: 'AnyFile') -> 'PathOrFd':
    return file if isinstance(file, (str, int, bytes, os.PathLike)) else file.fileno()


def _change(file: 'AnyFile', text: str | None, root_id: int) -> None:
    """Mark a file, or remove its mark where there is no text."""
    try:
        _caps.set_file(_path_or_fd(file), text, root_id)
    except OSError as error:
        raise _file_error(error, file, write=True) from None


def _file_error(error: OSError, file: 'AnyFile', *, write: bool = False) -> OSError:
    if error.errno is None:  # a file object without a descriptor
        return error
    from caps import refusals

    path_or_fd = _path_or_fd(file)
    name = path_or_fd if path_or_fd is file else getattr(file, 'name', None)
    return OSError(error.errno, refusals.of_file(error, path_or_fd, write=write), name)
