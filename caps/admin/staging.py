"""Where an installation is written and proved, from where it gets its place, and what it leaves.

What is privileged is nowhere where another account could reach it before all is proved: the stage
is a directory that only root and one unused group can enter, until nothing of the proof is left.
Launchers change places with those before them, which running ones then still find; the copy before
this one is kept as well.  The next installation takes both away.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from caps import Caps, CapSet
from caps.admin.copies import exchange, strip, sync, unused_id, write_copy
from caps.admin.installation import Installation
from caps.admin.proof import prove
from caps.system.launcher import ALLOW_ROOT, MAGIC, RECORD
from caps.system.run import Account

LAUNCH = 0.1  # seconds, in which an execution that the kernel has begun is over


def write_stage(plan: Installation, gid: int, undo: ExitStack) -> tuple[str, list[str]]:
    """Write all that is to be installed and prove it; its directory, and the launchers."""
    number = unused_id()
    account = Account(number, number)
    stage = tempfile.mkdtemp(prefix=f'{plan.name}-', dir=plan.libexec)
    undo.callback(shutil.rmtree, stage)
    plan.capped = os.path.join(stage, os.path.basename(plan.original))
    content, caps = Path(plan.original).read_bytes(), Caps(inheritable=plan.allowed or ())
    os.close(write_copy(plan.capped, content, (0, gid), 0o750 if gid else 0o700, caps))
    work = tempfile.mkdtemp(dir=stage)
    launchers = _write_launchers(plan, work)
    for directory in work, stage:
        os.chown(directory, 0, number)
        os.chmod(directory, 0o710)
    prove(launchers[0], account, plan.allowed or CapSet())
    for directory, mode in (work, 0o700), (stage, 0o755):
        os.chown(directory, 0, 0)
        os.chmod(directory, mode)  # whatever the umask
        sync(directory)
    sync(plan.libexec)
    return stage, launchers


def _write_launchers(plan: Installation, directory: str) -> list[str]:
    paths = map(os.fsencode, (plan.capped, plan.original))
    record = RECORD.pack(MAGIC, ALLOW_ROOT * plan.allow_root, *paths)
    written = []
    for path, template, mode, caps in plan.launchers():
        content = template.read_bytes()
        start = content.index(MAGIC)
        content = content[:start] + record + content[start + RECORD.size :]
        written.append(os.path.join(directory, os.path.basename(path)))
        os.close(write_copy(written[-1], content, (0, 0), mode, caps))
    return written


def put(launcher: str, place: str, undo: ExitStack) -> None:
    """Put a launcher in its place, and the one that was there in its own."""
    if os.path.lexists(place):
        exchange(launcher, place)
        undo.callback(exchange, launcher, place)
    else:
        os.rename(launcher, place)
        undo.callback(os.rename, place, launcher)


def clean(
    plan: Installation, stage: str, launchers: list[str], installed: Installation | None
) -> list[str]:
    """Take away what earlier installations left; one sentence for each thing that stays.

    A launch that has begun may still need the launchers and the copy that were there until now.
    They stay until the next installation, but are of no use to anybody who is not ppy.
    """
    problems: list[str] = []
    replaced = [launcher for launcher in launchers if os.path.lexists(launcher)]
    if replaced:
        time.sleep(LAUNCH)
    else:
        work = os.path.dirname(launchers[0])
        with _noting(problems, work):
            os.rmdir(work)
    for launcher in replaced:
        with _noting(problems, launcher):
            _retire(launcher)
    previous = os.path.dirname(installed.capped) if installed else ''
    for directory in plan.stages():
        with _noting(problems, directory):
            if directory == previous:
                for entry in list(os.scandir(directory)):
                    if entry.is_dir(follow_symlinks=False):
                        shutil.rmtree(entry)
                    else:
                        os.chmod(entry, 0o700)
            elif directory != stage:
                shutil.rmtree(directory)
    return problems


@contextmanager
def _noting(problems: list[str], path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        problems.append(f'{path} is not in use and stays: {error.strerror}')


def _retire(launcher: str) -> None:
    """Take privilege from a launcher that has been replaced."""
    if os.path.islink(launcher):
        return
    fd = os.open(launcher, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        strip(fd)
    finally:
        os.close(fd)
