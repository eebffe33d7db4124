"""Put ppy in place, look at an installation, take it away."""

import grp
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress

from caps import IAB, Caps, CapSet
from caps.admin.copies import sync, unused_id
from caps.admin.installation import (
    Installation,
    PathText,
    damage,
    installation_at,
    is_newer,
    named,
    recorded,
)
from caps.admin.places import directory_flaws, interpreter_flaws, place_flaws, without_links
from caps.admin.proof import InstallError, library_flaws
from caps.admin.registry import Ppy, forget, recording
from caps.admin.staging import clean, put, write_stage
from caps.admin.transaction import lock, transaction, unlock
from caps.system.launcher import LAUNCHER_CAPS, NAME, PREFIX, means_all, read_record
from caps.system.path import strangers
from caps.system.run import Account, stop_if_signalled

__all__ = ['InstallError', 'Installation', 'install', 'installation_at', 'remove']

INSTALLER_CAPS = CapSet('cap_chown,cap_fowner,cap_setgid,cap_setuid,cap_setfcap')


def install(
    interpreter: PathText | None = None,
    prefix: PathText = PREFIX,
    name: str = NAME,
    *,
    setuid: bool | None = None,
    group: str | None = None,
    allow: str | None = None,
    allow_root: bool | None = None,
    reset: bool = False,
    renew: bool = False,
) -> Installation:
    """Install ppy and a capped copy of an interpreter, or leave everything as it was.

    interpreter: runs the scripts
    prefix, name: ppy becomes PREFIX/bin/NAME and the copy goes to a PREFIX/libexec/NAME-*
    setuid: make ppy set-user-ID root instead of giving it file capabilities
    group: its members may execute the capped copy themselves
    allow: what scripts can be given at most
    allow_root: launch scripts that belong to root as well
    reset: forget what was chosen for the installation that is there
    renew: only where one is there that is as it was made, but for a change of the interpreter

    What is None stays as it is installed.  Where nothing is, or with `reset`, it is the Python that
    runs this, file capabilities, no group, all capabilities of this kernel, and no scripts of root.

    Returns what `installation_at` does.
    Raises InstallError where the result would not work or not be safe, and ValueError for what is
    no capability; see capabilities(7).
    """
    _require_root()
    plan = named(prefix, name)
    with ExitStack() as held, transaction() as undo:
        _refuse(directory_flaws(plan.prefix))  # where bin and libexec can be links
        for directory in os.path.dirname(plan.ppy), plan.libexec:
            _refuse(place_flaws(directory))
        _lock(plan, held, undo)
        installed = recorded(prefix, name)
        if installed and not reset and (uid := os.stat(plan.ppy).st_uid):
            raise InstallError(
                f'{plan.ppy} belongs to uid {uid}, so what it says of itself cannot be kept: '
                'say what you want with --reset'
            )
        if renew:
            _refuse(_unrenewable(plan, installed))
        gid = _choose(plan, None if reset else installed, interpreter, group, allow)
        before = None if reset else installed
        plan.setuid = bool(before and before.setuid) if setuid is None else setuid
        plan.allow_root = bool(before and before.allow_root) if allow_root is None else allow_root
        _refuse(_obstacles(plan))
        stage, launchers = write_stage(plan, gid, undo)
        stop_if_signalled()
        problems = recording(Ppy(plan.prefix, plan.name), undo)
        os.chmod(os.path.dirname(launchers[0]), 0o755)  # where replaced launchers will be
        for launcher, (place, *_) in zip(launchers, plan.launchers(), strict=True):
            put(launcher, place, undo)
        sync(os.path.dirname(plan.ppy))
        undo.pop_all()  # what is cleaned from here on cannot be undone
        problems += clean(plan, stage, launchers, installed)
    result = installation_at(prefix, name)
    result.problems += problems
    return result


def remove(prefix: PathText = PREFIX, name: str = NAME) -> None:
    """Take an installation away, or what an interrupted command has left of one.

    prefix, name: what it was installed with

    Raises InstallError where there is none, or the process may not remove it.
    """
    _require_root()
    plan = named(prefix, name)
    for directory in (plan.prefix, os.path.dirname(plan.ppy), plan.libexec):
        _refuse(strangers(directory))  # who could have it name what is not its own
    launchers = [f'{plan.ppy}-check', plan.ppy]  # ppy last: while it is there this can be repeated
    with ExitStack() as held, transaction():
        if (fd := lock(plan.lock)) is not None:
            held.callback(os.close, fd)
            held.callback(unlock, fd, plan.lock)
        is_other = os.path.lexists(plan.ppy) and not _is_ours(plan.ppy)
        if is_other or not (any(map(_is_ours, launchers)) or plan.stages()):
            if not is_other and forget(Ppy(plan.prefix, plan.name)):
                return
            raise InstallError(f'{plan.ppy} is not an installed ppy')
        for directory in plan.stages():
            shutil.rmtree(directory)
        for path in filter(_is_ours, launchers):
            os.unlink(path)
        forget(Ppy(plan.prefix, plan.name))


def _require_root() -> None:
    if os.geteuid() != 0:
        raise InstallError(f'this needs root with {INSTALLER_CAPS}: run it with sudo')
    if missing := INSTALLER_CAPS - Caps.from_process().effective:
        raise InstallError(f'this root lacks {missing}: use a session or container that has it')


def _refuse(reasons: Iterator[str]) -> None:
    if reason := next(reasons, None):
        raise InstallError(reason)


def _is_ours(path: str) -> bool:
    """Whether a launcher may be replaced or removed: a ppy, or what a power cut left of one."""
    with suppress(FileNotFoundError, NotADirectoryError):
        info = os.lstat(path)
        is_emptied = stat.S_ISREG(info.st_mode) and not info.st_size and not info.st_uid
        return is_emptied or read_record(path) is not None
    return False


def _lock(plan: Installation, held: ExitStack, undo: ExitStack) -> None:
    """Make the directories, and let no other command change this installation meanwhile."""
    while True:
        _make_directory(plan.libexec, undo)
        # Where it was missing, another account may have made it meanwhile.
        _refuse(place_flaws(plan.libexec))
        if (fd := lock(plan.lock)) is not None:  # the command that had it may have undone all
            break
    held.callback(os.close, fd)
    held.callback(unlock, fd, plan.lock)
    undo.callback(unlock, fd, plan.lock)  # before its directory goes
    _make_directory(os.path.dirname(plan.ppy), undo)
    _refuse(place_flaws(os.path.dirname(plan.ppy)))


def _make_directory(path: str, undo: ExitStack) -> None:
    if not os.path.isdir(path):
        above = os.path.dirname(path)
        _make_directory(above, undo)
        with suppress(FileExistsError):  # a second installation has been quicker
            os.mkdir(path, 0o755)
            undo.callback(_remove_empty, path)
            os.chmod(path, 0o755)
            sync(above)


def _remove_empty(path: str) -> None:
    with suppress(OSError):  # by now a second installation may be in it
        os.rmdir(path)


def _choose(
    plan: Installation,
    before: Installation | None,
    interpreter: PathText | None,
    group: str | None,
    allow: str | None,
) -> int:
    """Fill in a plan what is asked for or was chosen before; the number of the group."""
    kept = before.original if before else sys.executable
    plan.original = without_links(kept if interpreter is None else interpreter)
    plan.allowed = CapSet.all()
    if allow is not None:
        plan.allowed = CapSet.all() if allow.lower() == 'all' else CapSet(allow)
    elif before and before.allowed is None:
        raise InstallError(
            f'{before.capped} does not say any more what scripts can be given: say it with --allow'
        )
    elif before and before.allowed is not None and not means_all(before.allowed):
        plan.allowed = before.allowed
    plan.group = before.group if before and group is None else group
    try:
        return 0 if plan.group is None else grp.getgrnam(plan.group).gr_gid
    except KeyError:
        raise InstallError(f'there is no group {plan.group!r}: groupadd {plan.group}') from None


def _unrenewable(plan: Installation, installed: Installation | None) -> Iterator[str]:
    """Why what is there is not what was installed: somebody may have meant to switch it off."""
    if installed is None:
        yield f'{plan.ppy} is not there any more'
        return
    yield from damage(installed)
    if is_newer(installed):
        yield f'{plan.ppy} is of a newer version than this caps, which would make it older again'


def _obstacles(plan: Installation) -> Iterator[str]:
    """Why a planned installation must not be begun."""
    if missing := LAUNCHER_CAPS.permitted - IAB.from_process().bounding:
        yield (
            f'the bounding set of this process lacks {missing}, so that executing ppy would fail '
            'with EPERM: use a session or container that has it (--cap-add)'
        )
    yield from interpreter_flaws(plan.original)
    if unknown := (plan.allowed or CapSet()) - CapSet.all():
        yield f'this kernel has no capability {unknown}'
    for path, *_ in plan.launchers():
        if os.path.lexists(path) and not _is_ours(path):
            yield f'{path} exists and is not a ppy: choose another --name'
    number = unused_id()
    yield from library_flaws(plan.original, Account(number, number))
