"""Listed ppys and marked environments, which run copies of interpreters: compared, and made again.

The owner of an environment decides what its python runs, so an environment gets its mark back only
while it is the listed owner's.  All else is judged as when it was made first.  That an interpreter
has changed since it was copied is no drift: `caps refresh` sees to that.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress

from caps import Caps
from caps.accounts import user_name
from caps.admin.environment import opened
from caps.admin.installation import damage, recorded
from caps.admin.listed import ListedCopy, ListedPpy, ListedVenv
from caps.admin.opening import refuse
from caps.admin.ppy import install
from caps.admin.registry import Ppy, Venv, read, unrecorded
from caps.admin.restoring import Drift, Refusal
from caps.admin.transaction import AdminError
from caps.admin.venv import changing, mark_flaws, mark_in
from caps.system.launcher import means_all
from caps.system.packages import unfinished
from caps.system.path import strangers
from caps.system.run import RunError


def copies_below(directories: Iterable[str]) -> Iterator[ListedCopy]:
    """What is recorded, and there, below directories; only root can tell."""
    tops = [os.path.realpath(directory).rstrip('/') + '/' for directory in directories]
    with suppress(AdminError, OSError):
        for entry in read():
            with suppress(AdminError, LookupError, OSError, RunError):
                if any(entry.path.startswith(top) for top in tops):
                    yield from _as_it_is(entry)


def _as_it_is(entry: object) -> Iterator[ListedCopy]:
    match entry:
        case Ppy(prefix, name):
            installation = recorded(prefix, name)
            if installation and installation.allowed is not None:
                allowed = installation.allowed
                text = '' if means_all(allowed) else str(allowed)
                yield ListedPpy(
                    prefix,
                    name,
                    installation.original,
                    text,
                    installation.group,
                    installation.setuid,
                    installation.allow_root,
                )
        case Venv(path, text, group):
            with opened(path) as place:
                yield ListedVenv(path, text, user_name(os.fstat(place.fd).st_uid), group)


def look_at_copy(listed: ListedCopy, is_acting: bool) -> Drift | None:
    """How something is not as listed; where `is_acting` it is made again."""
    drift = Drift('changed', listed.path, listed, '')
    try:
        if isinstance(listed, ListedPpy):
            drift.reason = '; '.join(_differences(listed)) if os.path.exists(listed.path) else ''
            if not os.path.lexists(listed.path):
                drift.kind, drift.reason = 'missing', 'is not installed'
        else:
            drift.kind, drift.reason = _difference(listed)
        if drift.reason and is_acting:
            _make(listed)
    except (AdminError, LookupError, OSError, RunError, ValueError) as error:
        drift.refusal = (isinstance(error, OSError) and error.strerror) or f'{error}'
        drift.reason = drift.reason or drift.refusal
        drift.kind = 'unknown' if os.geteuid() else drift.kind
    return drift if drift.reason else None


def is_python_of(listed: ListedCopy, path: str, caps: Caps) -> bool:
    """Whether a marked file is one of a listed environment, marked as is listed."""
    if not isinstance(listed, ListedVenv) or os.path.dirname(path) != f'{listed.path}/bin':
        return False
    with suppress(ValueError):
        return caps == listed.caps
    return False


def _differences(listed: ListedPpy) -> Iterator[str]:
    installation = recorded(listed.prefix, listed.name)
    if installation is None:
        yield 'is not a ppy'
        return
    allowed, wanted = installation.allowed, listed.caps.inheritable
    is_all = allowed is not None and means_all(allowed)
    for name, has, to_have in (
        ('interpreter', installation.original, listed.interpreter),
        ('group', installation.group, listed.group),
        ('set-user-ID', installation.setuid, listed.setuid),
        ('scripts of root', installation.allow_root, listed.allow_root),
    ):
        if has != to_have:
            yield f'{name} {has}, not {to_have}'
    if not (allowed == wanted or (is_all and not listed.text)):
        yield f'can hand out {allowed}, not {wanted}'
    if not os.geteuid():
        yield from damage(installation)
    yield from unrecorded(Ppy(listed.prefix, listed.name))


def _difference(listed: ListedVenv) -> tuple[str, str]:
    with opened(listed.path) as place:
        _judge(place.fd, listed)
        name, entry = place.python(), Venv(listed.path, listed.text, listed.group)
        kind, reasons = 'lost', [*mark_flaws(place, name, entry), *unrecorded(entry)]
        with suppress(OSError):  # which a link is
            fd = place.open(name)
            kind = 'changed' if Caps.from_file(fd).marked else 'lost'
            os.close(fd)
        return kind, '; '.join(reasons)


def _judge(fd: int, listed: ListedVenv) -> None:
    """Refuse an environment whose owner is not the one who was meant, or has to share it."""
    if (uid := os.fstat(fd).st_uid) != listed.uid:
        raise Refusal(f'belongs to {user_name(uid)}, not to {listed.owner}')
    refuse(strangers(os.readlink(f'/proc/self/fd/{fd}'), listed.uid), Refusal)


def _make(listed: ListedCopy) -> None:
    if packages := unfinished():
        raise Refusal(f'{packages[0]} is half configured, so wait, or: dpkg --configure -a')
    if isinstance(listed, ListedPpy):
        install(
            listed.interpreter,
            listed.prefix,
            listed.name,
            setuid=listed.setuid,
            group=listed.group,
            allow=listed.text or None,
            allow_root=listed.allow_root,
            reset=True,
        )
        return
    with opened(listed.path) as place:
        _judge(place.fd, listed)
        with changing(place) as (held, undo):
            mark_in(place, listed.caps, listed.group, held, undo)
