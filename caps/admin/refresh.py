"""Copies of interpreters renewed where the original has changed, and how all that was made is.

1. What root has recorded is renewed, and only where it still is what was made.  What somebody has
   switched off, or has made anew, stays: giving it its mark again would be a grant.
2. Nothing is renewed while a package is half configured.
3. It is staged, proved and put in place as it was made first.  Where that fails the old one stays.
   Both are lines of the system's log.
"""

import os
import shlex
import stat
import syslog
from dataclasses import dataclass, field

from caps import Caps
from caps.admin.environment import Bin, opened, unused_group
from caps.admin.installation import damage, installation_at, is_stale, recorded
from caps.admin.opening import refuse
from caps.admin.ppy import InstallError, install
from caps.admin.registry import Entry, Ppy, Script, Venv, alone, read
from caps.admin.transaction import AdminError
from caps.admin.venv import changing, environment_at, group_id, mark_flaws, mark_in
from caps.admin.venv import is_stale as is_stale_copy
from caps.system.launcher import means_all
from caps.system.packages import unfinished
from caps.system.path import strangers
from caps.system.run import RunError


class NotAsMade(AdminError):
    """How a recorded thing is not what was made."""


@dataclass
class Condition:
    """The condition of something that caps has made.

    kind, path: ppy, venv or script, and where
    state: current, stale (the interpreter has changed), renewed, or broken (not as it was made)
    caps: its capabilities as text; of a ppy, what it can hand out; None where that is unknown
    problems: one sentence for each
    """

    kind: str
    path: str
    state: str = 'current'
    caps: str | None = None
    problems: list[str] = field(default_factory=list)


def refresh(*, is_dry: bool = False) -> list[Condition]:
    """Renew each recorded ppy and marked environment whose interpreter has changed.

    is_dry: only say which
    Raises AdminError where nothing can be renewed now.
    """
    if os.geteuid():
        raise AdminError('this needs root: run it with sudo')
    try:
        with alone('refresh'):
            entries = [entry for entry in read() if not isinstance(entry, Script)]
            if entries:
                _require_packages()
            # The owner of an environment can keep us waiting for some minutes.
            entries.sort(key=lambda entry: isinstance(entry, Venv))
            return [_renewed(entry, is_dry) for entry in entries]
    except (AdminError, OSError) as error:
        if not is_dry:
            _log(syslog.LOG_ERR, f'nothing is renewed: {_words(error)}')
        raise


def status() -> list[Condition]:
    """Everything that is recorded, as it is; each python and each launcher is started once."""
    conditions = []
    for entry in read():
        condition = Condition(entry.words[0], entry.path)
        try:
            match entry:
                case Ppy():
                    _look_at_ppy(entry, condition)
                case Venv():
                    _look_at_venv(entry, condition)
                case Script():
                    _look_at_script(entry, condition)
        except (AdminError, LookupError, OSError, RunError, ValueError) as error:
            condition.problems.append(_told(entry, error))
        if condition.problems and condition.state == 'current':
            condition.state = 'broken'
        conditions.append(condition)
    return conditions


def _require_packages() -> None:
    try:
        packages = unfinished()
    except (OSError, RunError) as error:
        raise AdminError(_words(error)) from None
    if packages:
        names = ', '.join(packages[:5]) + (', …' if packages[5:] else '')
        raise AdminError(f'{names}: half configured, so wait, or: dpkg --configure -a')


def _renewed(entry: Entry, is_dry: bool) -> Condition:
    """Renew a thing where that is due; where it fails, the reason is in its problems."""
    condition = Condition(entry.words[0], entry.path)
    try:
        if isinstance(entry, Ppy):
            _renew_ppy(entry, condition, is_dry)
        elif isinstance(entry, Venv):
            _renew_venv(entry, condition, is_dry)
    except (AdminError, LookupError, OSError, RunError, ValueError) as error:
        condition.state, condition.problems = 'broken', [_told(entry, error)]
    if not is_dry:
        if condition.state == 'renewed':
            _log(syslog.LOG_NOTICE, f'{condition.path} is renewed')
        for problem in condition.problems:
            _log(syslog.LOG_ERR, problem)
    return condition


def _renew_ppy(entry: Ppy, condition: Condition, is_dry: bool) -> None:
    refuse(strangers(os.path.dirname(entry.path)), InstallError)
    installation = recorded(entry.prefix, entry.name)
    if installation is None:
        raise FileNotFoundError
    refuse(strangers(os.path.dirname(installation.capped)), InstallError)
    if is_stale(installation):
        condition.state = 'stale'
        if not is_dry:
            condition.problems = install(prefix=entry.prefix, name=entry.name, renew=True).problems
            condition.state = 'renewed'


def _renew_venv(entry: Venv, condition: Condition, is_dry: bool) -> None:
    with opened(entry.path) as place:
        if _is_due(place, entry):
            condition.state = 'stale'
            if not is_dry:
                with changing(place) as (held, undo):
                    if _is_due(place, entry):  # nobody has been quicker, or has unmarked it
                        caps = Caps(entry.text)
                        condition.problems = mark_in(place, caps, entry.group, held, undo).problems
                condition.state = 'renewed'


def _is_due(place: Bin, entry: Venv) -> bool:
    """Whether a marked copy is the one that was made, and its original another by now."""
    name = place.python()
    refuse(mark_flaws(place, name, entry), NotAsMade)
    return is_stale_copy(place, name, group_id(entry.group), unused_group())


def _look_at_ppy(entry: Ppy, condition: Condition) -> None:
    installation = installation_at(entry.prefix, entry.name)
    if not installation.original:
        raise FileNotFoundError
    if installation.allowed is not None:
        condition.caps = 'all' if means_all(installation.allowed) else str(installation.allowed)
    condition.problems = installation.problems
    if installation.is_stale and not any(damage(installation)):
        condition.state = 'stale'


def _look_at_venv(entry: Venv, condition: Condition) -> None:
    condition.caps = entry.text
    with opened(entry.path) as place:
        refuse(mark_flaws(place, place.python(), entry), NotAsMade)
    environment = environment_at(entry.path)
    condition.problems = environment.problems
    if environment.is_stale:
        condition.state = 'stale'


def _look_at_script(entry: Script, condition: Condition) -> None:
    if not stat.S_ISREG(os.lstat(entry.path).st_mode):
        raise NotAsMade(f'{entry.path} is no regular file any more')
    caps = Caps.from_file(entry.path)
    if not caps.marked:
        raise NotAsMade(f'{entry.path} is not marked any more')
    condition.caps = str(caps)


def _told(entry: Entry, error: Exception) -> str:
    """What is wrong with a recorded thing, and where it is not what was made, how to forget it."""
    again = shlex.join(entry.forgetting)
    if isinstance(error, FileNotFoundError) and not os.path.lexists(entry.path):
        return f'{entry.path} is recorded and not there: to forget it: {again}'
    text = _words(error)
    text = text if entry.path in text else f'{entry.path}: {text}'
    return f'{text}: to forget it: {again}' if isinstance(error, NotAsMade) else text


def _words(error: Exception) -> str:
    """What an error says, without its number."""
    if isinstance(error, OSError) and error.strerror:
        is_named = isinstance(error.filename, (str, bytes))
        return (f'{os.fsdecode(error.filename)}: ' if is_named else '') + error.strerror
    return str(error.args[0] if isinstance(error, KeyError) else error)


def _log(priority: int, text: str) -> None:
    """Leave a line in the system's log, in which nothing can look like a second one."""
    syslog.openlog('caps', syslog.LOG_PID, syslog.LOG_AUTHPRIV)
    syslog.syslog(priority, ''.join(map(_printable, text)))


def _printable(char: str) -> str:
    return char if char.isprintable() else char.encode('unicode_escape').decode()
