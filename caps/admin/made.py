"""What a manifest lists of what caps has made: compared, and made again.

Whoever owns an environment decides what its python runs, so an environment gets its mark back only
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
from caps.admin.listed import ListedPpy, ListedVenv, Made
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


def made_below(directories: Iterable[str]) -> Iterator[Made]:
    """What is recorded, and there, below directories; only root can tell."""
    tops = [os.path.realpath(directory).rstrip('/') + '/' for directory in directories]
    with suppress(AdminError, OSError):
        for entry in read():
            with suppress(AdminError, LookupError, OSError, RunError):
                if any(entry.path.startswith(top) for top in tops):
                    yield from _as_it_is(entry)


def _as_it_is(entry: object) -> Iterator[Made]:
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


def look_at_made(made: Made, is_acting: bool) -> Drift | None:
    """How something is not as listed; where `is_acting` it is made again."""
    drift = Drift('changed', made.path, made, '')
    try:
        if isinstance(made, ListedPpy):
            drift.reason = '; '.join(_differences(made)) if os.path.exists(made.path) else ''
            if not os.path.lexists(made.path):
                drift.kind, drift.reason = 'missing', 'is not installed'
        else:
            drift.kind, drift.reason = _difference(made)
        if drift.reason and is_acting:
            _make(made)
    except (AdminError, LookupError, OSError, RunError, ValueError) as error:
        drift.refusal = (isinstance(error, OSError) and error.strerror) or f'{error}'
        drift.reason = drift.reason or drift.refusal
        drift.kind = 'unknown' if os.geteuid() else drift.kind
    return drift if drift.reason else None


def is_python_of(made: Made, path: str, caps: Caps) -> bool:
    """Whether a marked file is one of a listed environment, marked as is listed."""
    if not isinstance(made, ListedVenv) or os.path.dirname(path) != f'{made.path}/bin':
        return False
    with suppress(ValueError):
        return caps == made.caps
    return False


def _differences(made: ListedPpy) -> Iterator[str]:
    installation = recorded(made.prefix, made.name)
    if installation is None:
        yield 'is not a ppy'
        return
    allowed, wanted = installation.allowed, made.caps.inheritable
    is_all = allowed is not None and means_all(allowed)
    for name, has, to_have in (
        ('interpreter', installation.original, made.interpreter),
        ('group', installation.group, made.group),
        ('set-user-ID', installation.setuid, made.setuid),
        ('scripts of root', installation.allow_root, made.allow_root),
    ):
        if has != to_have:
            yield f'{name} {has}, not {to_have}'
    if not (allowed == wanted or (is_all and not made.text)):
        yield f'can hand out {allowed}, not {wanted}'
    if not os.geteuid():
        yield from damage(installation)
    yield from unrecorded(Ppy(made.prefix, made.name))


def _difference(made: ListedVenv) -> tuple[str, str]:
    with opened(made.path) as place:
        _judge(place.fd, made)
        name, entry = place.python(), Venv(made.path, made.text, made.group)
        kind, reasons = 'lost', [*mark_flaws(place, name, entry), *unrecorded(entry)]
        with suppress(OSError):  # which a link is
            fd = place.open(name)
            kind = 'changed' if Caps.from_file(fd).marked else 'lost'
            os.close(fd)
        return kind, '; '.join(reasons)


def _judge(fd: int, made: ListedVenv) -> None:
    """Refuse an environment whose owner is not the one who was meant, or has to share it."""
    if (uid := os.fstat(fd).st_uid) != made.uid:
        raise Refusal(f'belongs to {user_name(uid)}, not to {made.owner}')
    refuse(strangers(os.readlink(f'/proc/self/fd/{fd}'), made.uid), Refusal)


def _make(made: Made) -> None:
    if packages := unfinished():
        raise Refusal(f'{packages[0]} is half configured, so wait, or: dpkg --configure -a')
    if isinstance(made, ListedPpy):
        install(
            made.interpreter,
            made.prefix,
            made.name,
            setuid=made.setuid,
            group=made.group,
            allow=made.text or None,
            allow_root=made.allow_root,
            reset=True,
        )
        return
    with opened(made.path) as place:
        _judge(place.fd, made)
        with changing(place) as (held, undo):
            mark_in(place, made.caps, made.group, held, undo)
