"""Which rule of the kernel a change would break, as a sentence; see capabilities(7).

Each function returns '' where no rule is broken.
"""

import errno
import os
import stat

from caps import _caps
from caps.capset import ALL, CapSet
from caps.text import parse, parse_iab

TYPE_CHECKING = False
if TYPE_CHECKING:
    from caps._caps import PathOrFd

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


def of_file(error: OSError, file: 'PathOrFd', *, write: bool) -> str:
    """Why the capabilities of a file cannot be read or written; see xattr(7).

    error: the error of the system call.
    file: its path or descriptor.
    """
    number = error.errno
    if number == errno.EINVAL:
        return _invalid(file, write)
    if number == errno.EPERM and write:
        return _not_permitted(file)
    if number == errno.ENOENT and isinstance(file, int):
        return f'/proc is needed for descriptor {file}, which is a path only (O_PATH)'
    return {
        errno.ENODATA: 'the file has no capabilities',
        errno.EOPNOTSUPP: 'the file system stores no capabilities',
        errno.EOVERFLOW: 'the capabilities are for a user namespace that this one does not see',
    }.get(number or 0, error.strerror or os.strerror(number or 0))


def _invalid(file: 'PathOrFd', write: bool) -> str:
    if write and not isinstance(file, int) and os.path.islink(file):
        return 'not a regular file but a symbolic link: name the file that it leads to'
    if not stat.S_ISREG(os.stat(file).st_mode):
        return 'not a regular file'
    if not write:
        return 'its security.capability attribute is malformed'
    if _is_initial('uid') or any(start == 0 for start, _ in _mapped('uid')):
        return 'the mount is idmapped without root, or the file system takes no such attribute'
    return 'a mark is for user 0, and this user namespace has none (user_namespaces(7))'


def _not_permitted(file: 'PathOrFd') -> str:
    if not parse(_caps.get_process(0))['e'] & CapSet('cap_setfcap').mask:
        return 'cap_setfcap must be effective'
    info = os.stat(file)
    for kind, number in ('uid', info.st_uid), ('gid', info.st_gid):
        # An id without a mapping is shown as the overflow id.
        if not _is_initial(kind) and not any(s <= number < s + n for s, n in _mapped(kind)):
            who = 'owner' if kind == 'uid' else 'group'
            return f'the {who} of the file is not in this user namespace (user_namespaces(7))'
    return 'the file is immutable (chattr(1)), or a security module forbids it'


def _mapped(kind: str) -> list[tuple[int, int]]:
    """The ids that exist in the user namespace, as their start and count."""
    try:
        with open(f'/proc/self/{kind}_map') as file:
            rows = [line.split() for line in file]
    except OSError:
        return [(0, 2**32 - 1)]
    return [(int(start), int(count)) for start, _, count in rows]


def _is_initial(kind: str) -> bool:
    return _mapped(kind) == [(0, 2**32 - 1)]
