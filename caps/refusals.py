"""Which rule of the kernel a change would break, as a sentence; see capabilities(7).

Each function returns '' where no rule is broken.
"""

from caps import _caps
from caps.capset import ALL, CapSet
from caps.text import parse_iab

TYPE_CHECKING = False
if TYPE_CHECKING:
    Three = tuple[CapSet, CapSet, CapSet]


def first_broken(*rules: tuple[str, CapSet, str]) -> str:
    """A sentence for the first set that would get what its rule forbids."""
    for name, extra, rule in rules:
        if extra:
            return f'{extra} cannot be added to {name}: {rule}; see capset(2)'
    return ''


def bounding() -> CapSet:
    """The bounding set of the calling thread."""
    return CapSet.from_mask(ALL & ~parse_iab(_caps.get_iab(0))['!'])


def of_capset(wanted: 'Three', now: 'Three') -> str:
    """Which rule of capset(2) a state breaks in the calling thread.

    wanted, now: the effective, permitted and inheritable sets.
    """
    effective, permitted, inheritable = now
    raisable = inheritable | bounding()
    if 'cap_setpcap' not in effective:
        raisable &= inheritable | permitted
    return first_broken(
        ('permitted', wanted[1] - permitted, 'permitted can only be reduced'),
        ('effective', wanted[0] - wanted[1], 'only the permitted can be effective'),
        (
            'inheritable',
            wanted[2] - raisable,
            'it must be in the bounding set and, without cap_setpcap effective, permitted',
        ),
    )


def of_iab(wanted: 'Three', now: 'Three', permitted: CapSet, *, no_raise: bool) -> str:
    """Which rule an IAB state breaks in the calling thread.

    wanted, now: the inheritable, ambient and bounding sets.
    permitted: what the thread has permitted.
    no_raise: whether the secure bit no_cap_ambient_raise is set.
    """
    inheritable, ambient, bounding = wanted
    has_setpcap = 'cap_setpcap' in permitted
    if not has_setpcap and (dropped := now[2] - bounding):
        return f'{dropped} cannot be taken from bounding: cap_setpcap is not permitted'
    if ambient and no_raise:
        return f'{ambient} cannot be ambient: the secure bit no_cap_ambient_raise is set'
    raisable = now[0] | (now[2] if has_setpcap else permitted & now[2])
    return first_broken(
        ('bounding', bounding - now[2], 'bounding can only be reduced'),
        (
            'inheritable',
            inheritable - raisable,
            'it must be in the bounding set and, without cap_setpcap permitted, permitted',
        ),
        (
            'ambient',
            ambient - (inheritable & permitted),
            'it must be permitted and inheritable',
        ),
    )
