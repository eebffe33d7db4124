"""Users and groups by name and by number; see passwd(5) and group(5)."""

import grp
import os
import pwd


def id_of(kind: str, name: str | int) -> int:
    """The number of a user or group.

    kind: user or group.
    name: its name or number.
    Raises LookupError where there is no such account, or the number is none.
    """
    if isinstance(name, int):
        if 0 <= name < 2**32 - 1:  # the last one means "no change" to setresuid(2)
            return name
        raise LookupError(f'{name} is not the number of a {kind}')
    try:
        return pwd.getpwnam(name).pw_uid if kind == 'user' else grp.getgrnam(name).gr_gid
    except KeyError:
        raise _no_account(kind, f'there is no {kind} {name!r}') from None


def _no_account(kind: str, reason: str) -> LookupError:
    """The error for an account that is not there, or cannot be looked up."""
    file = {'user': '/etc/passwd', 'group': '/etc/group'}[kind]
    if not os.path.exists(file):
        reason = f'{file} is not there: give numbers, or do this before os.chroot()'
    return LookupError(reason)


def ids_of(user: str | int | None, group: str | int | None) -> tuple[int | None, int | None]:
    """The numbers of a user and a group; by default the group of the user's account.

    user, group: names or numbers, None for none.
    Raises LookupError where there is no such account.
    """
    uid = None if user is None else id_of('user', user)
    if group is not None or uid is None:
        return uid, None if group is None else id_of('group', group)
    try:
        return uid, pwd.getpwuid(uid).pw_gid
    except KeyError:
        raise _no_account('user', f'user {uid} has no account: name the group too') from None


def user_name(uid: int) -> str:
    """The name of a user, or the number in text where the user has no account."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid: int) -> str:
    """The name of a group, or the number in text where there is no such group."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
