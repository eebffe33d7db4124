"""command: the setpriv(1) command line that starts a program with given capabilities."""

import errno
import os
from _collections_abc import Iterable

from caps.accounts import id_of, ids_of
from caps.capset import CapSet
from caps.iab import IAB
from caps.refusals import first_broken
from caps.secbits import SecureBits, no_new_privs
from caps.state import Caps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from caps.capset import Members


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

    This looks for the setpriv of util-linux on PATH, and does not run it.  The program will be in
    this process's session and have its terminal.  If you do not trust its account with them, pass
    ``start_new_session=True`` to subprocess.

    argv: the program and its arguments.
    ambient: what the program has permitted and effective, and so have its children.
    inheritable: its inheritable set, to which ambient is added; by default what it is now.
    bounding: its bounding set; by default what it is now.
    user, group, groups: as for `drop`.
    no_new_privs: also keep execve(2) from giving it any privilege.
    Returns the words of the command line.
    Raises OSError, EPERM for what this process may not give, ENOENT or ENOEXEC where the
    setpriv of util-linux is missing; LookupError for an unknown account; ValueError for one
    string; see execve(2) and capabilities(7).
    """
    if isinstance(argv, (str, bytes)) or not argv:
        raise ValueError(f'{argv!r} is not a program and its arguments')
    uid, gid = ids_of(user, group)
    gids = [id_of('group', name) for name in groups]
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
    if broken := _broken_rule(now, after, needed):
        raise OSError(errno.EPERM, broken)
    remove_all = _remove_all()
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
            words.append(f'--{option}=' + ','.join([remove_all, *map(_setpriv_name, new)]))
    words += ['--no-new-privs'] * no_new_privs
    return [*words, '--', *(os.fspath(word) for word in argv)]


def _broken_rule(now: IAB, after: IAB, needed: CapSet) -> str:
    """Why setpriv(1), started from here, could not bring about a state; '' where it can.

    needed: capabilities that it must have.
    """
    given, bits = _given_by_execve(now), SecureBits.from_process()
    raisable = CapSet.all() if 'cap_setpcap' in given else given
    if missing := needed - given:
        return f'{missing} is needed, and execve(2) does not give it to programs of this process'
    if 'keep_caps_locked' in bits:
        return 'setpriv(1) sets the secure bit keep_caps, which is locked'
    if after.ambient and 'no_cap_ambient_raise' in bits:
        return f'{after.ambient} cannot be ambient: the secure bit no_cap_ambient_raise is set'
    return first_broken(
        ('ambient', after.ambient - given, 'execve(2) does not give it to a program'),
        ('bounding', after.bounding - now.bounding, 'bounding can only be reduced'),
        (
            'inheritable',
            after.inheritable - (now.inheritable | (raisable & after.bounding)),
            'it must be in the bounding set and, without cap_setpcap, permitted',
        ),
    )


def _setpriv_name(name: str) -> str:
    return f'+cap_{name}' if name.isdecimal() else '+' + name.removeprefix('cap_')


def _remove_all() -> str:
    """The words that remove every capability from a set, for the setpriv on PATH.

    Before 2.37 it refuses ``all`` where the kernel has more capabilities than it knows.
    """
    for directory in os.get_exec_path():
        program = os.path.join(directory, 'setpriv')
        if not os.access(program, os.X_OK):
            continue
        try:
            with open(program, 'rb') as file:
                content = file.read(1 << 23)
        except OSError:  # a program that may be run need not be readable
            return '-all'
        name, _, version = content.rpartition(b'util-linux 2.')
        if b'BusyBox' in content and not name:
            raise OSError(
                errno.ENOEXEC,
                "setpriv(1) is BusyBox's and cannot do this; install the one of util-linux "
                '(Alpine: apk add setpriv)',
                program,
            )
        minor = version[:3].partition(b'.')[0].rstrip(b'\0')
        if minor.isdigit() and int(minor) < 37:
            return ','.join(f'-cap_{bit}' for bit in range(len(CapSet.all())))
        return '-all'
    raise OSError(errno.ENOENT, 'setpriv(1) of util-linux is needed, and not on PATH', 'setpriv')


def _given_by_execve(now: IAB) -> CapSet:
    """What a program without capabilities of its own has permitted when this process runs it."""
    if os.geteuid() != 0 or 'noroot' in SecureBits.from_process():
        return now.ambient
    given = now.bounding | now.inheritable
    return given & Caps.from_process().permitted if no_new_privs() else given
