"""Capabilities for the python of one virtual environment, and for no other.

An environment's python is a symbolic link to the system's, so a mark on it is a mark on
everyone's python.  Here the link gives way to a copy that is marked; the link stays beside it under
another name, as a python without capabilities and for the way back.
"""

import glob
import grp
import os
import pwd
import secrets
import shlex
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from caps import Caps, CapSet
from caps.accounts import user_name
from caps.admin.copies import is_ours, sync, take_back, write_copy
from caps.admin.environment import (
    UNMARKED,
    Bin,
    Environment,
    VenvError,
    opened,
    unused_group,
)
from caps.admin.proof import prove_copy
from caps.admin.registry import Venv, forget, recording, unrecorded
from caps.admin.transaction import transaction

__all__ = ['Environment', 'VenvError', 'environment_at', 'mark', 'parsed', 'unmark']

PathText = str | os.PathLike[str]


def parsed(text: str) -> Caps:
    """Capability text, or a bare list of capabilities, which are then permitted and effective."""
    if set(text) & set('=+-'):
        return Caps(text)
    members = CapSet.all() if text.lower() == 'all' else CapSet(text)
    return Caps(effective=members, permitted=members)


def mark(directory: PathText, caps: Caps, group: str | None = None) -> Environment:
    """Give a virtual environment's python capabilities, in a copy of its own.

    directory: the environment.  Marking it again renews the copy, as an upgrade asks for.
    caps: what the copy is marked with.
    group: only its members may run the copy; by default everyone.
    Raises VenvError, and nothing is changed, where the copy would be outside the environment or
    cannot run with these capabilities; see capabilities(7), "File capabilities".
    """
    with opened(directory) as place, changing(place) as (held, undo):
        return mark_in(place, caps, group, held, undo)


@contextmanager
def changing(place: Bin) -> Iterator[tuple[ExitStack, ExitStack]]:
    """All or nothing, while no other command changes an environment: what is held, what undone."""
    with ExitStack() as held, transaction() as undo:
        place.lock(held)
        yield held, undo


def mark_in(
    place: Bin, caps: Caps, group: str | None, held: ExitStack, undo: ExitStack
) -> Environment:
    """What `mark` does, in the directory of an environment that is being changed."""
    gid = group_id(group)
    if os.fstatvfs(place.fd).f_flag & os.ST_NOSUID:
        raise VenvError(f'{place.top} is on a nosuid mount, where file capabilities mean nothing')
    _require_member(place, gid)
    place.sweep()
    name = place.python()
    number = unused_group()
    account = place.account(gid, number)
    source = _source(place, name)
    content = place.content(source, account)
    others = place.others(name)
    for other in others:
        if place.content(other, account) != content:
            raise VenvError(
                f'{place.path(other)} is another program than {place.path(name)}: '
                'make all names lead to one'
            )
    temporary = f'.{name}.{secrets.token_hex(8)}'
    try:
        # Nobody else is in the group, so only the proof can execute the copy.
        owner, mode = (-1, -1 if number is None else number), 0o750
        fd = write_copy(temporary, content, owner, mode, caps, place.fd)
    except PermissionError:
        raise
    except OSError as error:
        raise VenvError(f'{place.path(temporary)}: {error.strerror}') from None
    held.callback(os.close, fd)
    undo.callback(take_back, fd, temporary, place.fd)
    prove_copy(place, temporary, gid, number, caps)
    problems = recording(Venv(place.top, str(caps), group), undo)
    for other in others:
        _keep(place, other, undo)
        _link(place, name, other, undo)
    if source == name:
        _keep(place, name, undo)
    if number is not None:
        os.fchown(fd, -1, os.getegid() if gid is None else gid)
    os.fchmod(fd, mode_for(group))
    caps.apply(fd)
    os.fsync(fd)
    _replace(place, temporary, name, undo)
    environment = place.environment(name, caps, group)
    environment.problems += problems
    return environment


def unmark(directory: PathText) -> Environment:
    """Put back what was there before; a marked python without that loses its capabilities.

    directory: the environment.
    Raises VenvError where its python is not marked, and no mark is recorded.
    """
    path = os.path.realpath(directory)
    if (
        os.fspath(directory)
        and not glob.glob(f'{glob.escape(path)}/bin/python*')
        and forget(Venv(path))
    ):
        return Environment(path, '', None, Caps(), '')
    with opened(directory) as place, ExitStack() as held, transaction() as undo:
        place.lock(held)
        swept = place.sweep()
        name = place.python()
        if place.link(name) is not None:
            if not (forget(Venv(place.top)) or swept):
                raise VenvError(f'{place.path(name)} is a symbolic link: it is not marked')
            return place.environment(name, Caps(), None)
        for entry in os.listdir(place.fd):
            original = entry.removesuffix(UNMARKED)
            if original not in (entry, name) and place.end(original) == name:
                os.rename(entry, original, src_dir_fd=place.fd, dst_dir_fd=place.fd)
        if place.is_there(name + UNMARKED):
            _replace(place, name + UNMARKED, name, undo)
        else:
            fd = place.open(name)
            try:
                Caps.remove(fd)
            except OSError as error:
                raise VenvError(f'{place.path(name)}: {error.strerror}') from None
            finally:
                os.close(fd)
        forget(Venv(place.top))
        return place.environment(name, Caps(), None)


def environment_at(directory: PathText) -> Environment:
    """Look at an environment, and start its python once as `mark` does.

    directory: the environment.
    Returns its parts, and in `problems` what is wrong with them and the command that fixes it.
    """
    with opened(directory) as place:
        name = place.python()
        marked, group = Caps(), None
        if place.link(name) is None:
            fd = place.open(name)
            try:
                marked, info = Caps.from_file(fd), os.fstat(fd)
            finally:
                os.close(fd)
            if not info.st_mode & stat.S_IXOTH:
                group = grp.getgrgid(info.st_gid).gr_name
        environment = place.environment(name, marked, group)
        environment.problems = list(_damage(place, name, environment))
        return environment


def _damage(place: Bin, name: str, environment: Environment) -> Iterator[str]:
    again = ['caps', 'venv', 'mark', place.top, str(environment.caps)]
    again += ['--group', environment.group] if environment.group else []
    fix = shlex.join(again)
    for entry in place.leftovers():
        yield f'{place.path(entry)} is what an interrupted command has left: {fix}'
    if not environment.caps.marked:
        yield f'{place.path(name)} is not marked: caps venv mark {shlex.quote(place.top)} CAPS'
        return
    for other in place.others(name):
        yield f'{place.path(other)} is another file, which is not marked: {fix}'
    for reason in unrecorded(Venv(place.top)):
        yield f'{place.top} {reason}: {fix}'
    gid, number = group_id(environment.group), unused_group()
    try:
        _require_member(place, gid)
        environment.is_stale = is_stale(place, name, gid, number)
        if environment.is_stale:
            yield f'{environment.unmarked} has changed since it was copied: {fix}'
        prove_copy(place, name, gid, number, environment.caps)
    except VenvError as error:
        way = f'; until then: {environment.way_in}' if environment.unmarked else ''
        yield f'{error}{way}'


def mark_flaws(place: Bin, name: str, entry: Venv) -> Iterator[str]:
    """How the python of an environment is not the copy that was marked, as it is recorded.

    The owner of the environment can have anything there but this: a file of root's under one name.
    """
    if place.link(name) is not None:
        yield f'{place.path(name)} is not marked any more'
        return
    fd = place.open(name)
    try:
        info, caps = os.fstat(fd), Caps.from_file(fd)
    finally:
        os.close(fd)
    gid = group_id(entry.group)
    if not is_ours(info):
        yield f'{place.path(name)} is not the file that was marked'
    elif not caps.marked:
        yield f'{place.path(name)} is not marked any more'
    elif caps != Caps(entry.text) or caps.root_id:
        root_id = f' [rootid={caps.root_id}]' if caps.root_id else ''
        yield f'{place.path(name)} has {caps}{root_id}, not {entry.text}'
    elif stat.S_IMODE(info.st_mode) != mode_for(entry.group):
        mode = f'{stat.S_IMODE(info.st_mode):o}'
        yield f'{place.path(name)} has mode {mode}, not {mode_for(entry.group):o}'
    elif gid not in (None, info.st_gid):
        yield f'{place.path(name)} is not for members of {entry.group}'


def is_stale(place: Bin, name: str, gid: int | None, number: int | None) -> bool:
    """Whether a marked copy is not what it was made from any more."""
    if not place.is_there(name + UNMARKED):
        return False
    account = place.account(gid, number)
    return place.content(name + UNMARKED, account) != place.content(name, account)


def _source(place: Bin, name: str) -> str:
    """The name of what a copy is made from: the python, or what it was before it was marked."""
    original = name + UNMARKED
    if place.link(name) is not None or not place.is_there(original):
        return name
    fd = place.open(name)
    try:
        is_marked = bool(Caps.from_file(fd).marked)
    finally:
        os.close(fd)
    # One that has been copied over again is the newer one.
    return original if is_marked or place.link(original) is not None else name


def _keep(place: Bin, name: str, undo: ExitStack) -> None:
    """Keep a python under another name, as the way back."""
    kept, target = name + UNMARKED, place.link(name)
    if place.is_file(kept) and target is not None:
        raise VenvError(f'{kept} is in the way: it is no link')
    with suppress(FileNotFoundError):
        os.unlink(kept, dir_fd=place.fd)
    if target is not None:
        os.symlink(target, kept, dir_fd=place.fd)
    else:
        os.link(name, kept, src_dir_fd=place.fd, dst_dir_fd=place.fd, follow_symlinks=False)
    undo.callback(_unlink, place, kept)


def _unlink(place: Bin, name: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=place.fd)


def _link(place: Bin, target: str, name: str, undo: ExitStack) -> None:
    """Have a name lead to the python, at no time to nothing."""
    temporary = f'.{name}.{secrets.token_hex(8)}'
    os.symlink(target, temporary, dir_fd=place.fd)
    undo.callback(_unlink, place, temporary)
    os.rename(temporary, name, src_dir_fd=place.fd, dst_dir_fd=place.fd)
    undo.callback(os.rename, name + UNMARKED, name, src_dir_fd=place.fd, dst_dir_fd=place.fd)


def _replace(place: Bin, name: str, python: str, undo: ExitStack) -> None:
    """Put a file in the place of the python, and take the mark from the file that was there."""
    before = place.open(python) if place.is_file(python) else None
    try:
        os.rename(name, python, src_dir_fd=place.fd, dst_dir_fd=place.fd)
        undo.pop_all()
        sync(place.fd)
        if before is not None and not os.fstat(before).st_nlink:
            with suppress(OSError):  # it may have none
                Caps.remove(before)
    finally:
        if before is not None:
            os.close(before)


def mode_for(group: str | None) -> int:
    """Who may run a marked copy."""
    return 0o755 if group is None else 0o750


def group_id(group: str | None) -> int | None:
    try:
        return None if group is None else grp.getgrnam(group).gr_gid
    except KeyError:
        raise VenvError(f'there is no group {group!r}') from None


def _require_member(place: Bin, gid: int | None) -> None:
    """Refuse an environment whose owner's code would be the first to run in the group's name."""
    uid = os.fstat(place.fd).st_uid
    if gid is None or uid in (0, os.geteuid()):
        return
    with suppress(KeyError):
        owner = pwd.getpwuid(uid)
        if gid in os.getgrouplist(owner.pw_name, owner.pw_gid):
            return
    group = grp.getgrgid(gid).gr_name
    raise VenvError(f'{place.top} runs code of {user_name(uid)}, who is no member of {group}')
