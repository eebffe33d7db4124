"""The names of capabilities, and sets of them; see capabilities(7)."""

from _collections_abc import Iterable, Iterator, MutableSet, Set

from caps import _caps

TYPE_CHECKING = False
if TYPE_CHECKING:
    Members = Iterable[str | int]

NAMES = _caps.names()
_numbers = range(len(NAMES))
BITS: dict[str | int, int] = dict(zip(NAMES, _numbers, strict=True))
BITS.update(zip(_numbers, _numbers, strict=True))
BITS.update(zip(map(str, _numbers), _numbers, strict=True))
ALL = (1 << _caps.max_bits()) - 1


def bit_of(member: str | int) -> int:
    """The number of a capability however it is spelled."""
    try:
        bit = BITS.get(member)
    except TypeError:  # a list, say
        raise TypeError(f'{member!r} is not the name or number of a capability') from None
    if bit is None and isinstance(member, str) and member.isascii():
        name = member.lower()
        bit = BITS.get(name, BITS.get('cap_' + name))
    if bit is None:
        raise unknown(member)
    return bit


def unknown(member: object) -> ValueError:
    if str(member).lower().removeprefix('cap_') == 'all':
        return ValueError(f'{member!r} is not a capability; every one is CapSet.all()')
    names = [name for name in NAMES if name.startswith('cap_')]
    try:
        import difflib

        near = difflib.get_close_matches(str(member).lower(), names, 1, 0.5)
    except (ImportError, OSError):  # after os.chroot(), say
        near = []
    hint = f'; did you mean {near[0]!r}?' if near else ''
    return ValueError(f'{member!r} is not a capability{hint}')


def mask_of(members: 'Members') -> int:
    if type(members) is CapSet:  # isinstance() of an abstract base class takes long
        return members.mask
    if isinstance(members, str):
        members = members.split(',') if members else ()
    elif isinstance(members, (bytes, bytearray)):  # their items are numbers
        raise TypeError(f'{members!r} is not text: capabilities are named by a str')
    mask = 0
    for member in members:
        mask |= 1 << bit_of(member)
    return mask


class CapSet(MutableSet[str]):
    """A set of capabilities that knows their names.

    A member may be spelled ``cap_net_raw``, ``CAP_NET_RAW``, ``net_raw`` or by its number;
    iteration gives libcap's name, in the kernel's order.  A capability without a name, from a
    kernel newer than libcap, is its number in text.

    members: any iterable of capabilities, or one string of them with commas.
    Raises ValueError for an unknown capability, and names the nearest one; see capabilities(7).
    """

    __slots__ = ('mask',)

    mask: int
    """The set as bits, bit n being capability n."""

    def __init__(self, members: 'Members' = ()) -> None:
        self.mask = mask_of(members)

    @classmethod
    def from_mask(cls, mask: int) -> 'CapSet':
        """The set that a mask stands for; /proc/PID/status prints masks in hexadecimal.

        mask: bit n is capability n.
        Raises ValueError for a bit beyond the capabilities that libcap can have; see proc(5).
        """
        if mask >> len(NAMES):
            raise ValueError(f'{mask:#x} has more than {len(NAMES)} bits')
        self = cls.__new__(cls)
        self.mask = mask
        return self

    @classmethod
    def all(cls) -> 'CapSet':
        """Every capability of the running kernel, libcap's ``all``; see cap_max_bits(3)."""
        return cls.from_mask(ALL)

    def copy(self) -> 'CapSet':
        """An independent set with the same members."""
        return self.from_mask(self.mask)

    def add(self, member: str | int) -> None:
        """Add a capability.

        member: a name or a number.
        Raises ValueError for an unknown capability.
        """
        self.mask |= 1 << bit_of(member)

    def discard(self, member: str | int) -> None:
        """Remove a capability if it is in the set.

        member: a name or a number.
        Raises ValueError for an unknown capability.
        """
        self.mask &= ~(1 << bit_of(member))

    def clear(self) -> None:
        """Remove every member."""
        self.mask = 0

    def __contains__(self, member: object) -> bool:
        return bool(self.mask >> bit_of(member) & 1)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[str]:
        rest = self.mask
        while rest:
            lowest = rest & -rest
            rest ^= lowest
            yield NAMES[lowest.bit_length() - 1]

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
            return self.mask == mask_of(other)
        except ValueError:
            return False

    def __le__(self, other: 'Members') -> bool:
        return not self.mask & ~mask_of(other)

    def __ge__(self, other: 'Members') -> bool:
        return not mask_of(other) & ~self.mask

    def __lt__(self, other: 'Members') -> bool:
        mask = mask_of(other)
        return self.mask != mask and not self.mask & ~mask

    def __gt__(self, other: 'Members') -> bool:
        mask = mask_of(other)
        return self.mask != mask and not mask & ~self.mask

    def isdisjoint(self, other: 'Members') -> bool:
        """Whether no capability is in both.

        other: any iterable of capabilities, or one string of them with commas.
        Raises ValueError for an unknown capability.
        """
        return not self.mask & mask_of(other)

    def __and__(self, other: 'Members') -> 'CapSet':
        return self.from_mask(self.mask & mask_of(other))

    def __or__(self, other: 'Members') -> 'CapSet':  # type: ignore[override]
        return self.from_mask(self.mask | mask_of(other))

    def __xor__(self, other: 'Members') -> 'CapSet':  # type: ignore[override]
        return self.from_mask(self.mask ^ mask_of(other))

    def __sub__(self, other: 'Members') -> 'CapSet':
        return self.from_mask(self.mask & ~mask_of(other))

    def __rsub__(self, other: 'Members') -> 'CapSet':
        return self.from_mask(mask_of(other) & ~self.mask)

    __rand__ = __and__
    __ror__ = __or__
    __rxor__ = __xor__

    def __iand__(self, other: 'Members') -> 'CapSet':
        self.mask &= mask_of(other)
        return self

    def __ior__(self, other: 'Members') -> 'CapSet':  # type: ignore[override]
        self.mask |= mask_of(other)
        return self

    def __ixor__(self, other: 'Members') -> 'CapSet':  # type: ignore[override]
        self.mask ^= mask_of(other)
        return self

    def __isub__(self, other: 'Members') -> 'CapSet':
        self.mask &= ~mask_of(other)
        return self
