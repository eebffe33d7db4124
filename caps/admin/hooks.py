"""Small files by which package managers run `caps hooks run`: written, looked at, taken away.

1. What they run is a Python by its absolute path, in which nobody but root can change anything,
   isolated and with an empty environment.  It is judged when they are written.
2. Whatever comes of it, also where that Python is gone, the package manager goes on.
3. A file that is not from here is neither replaced nor taken away.
"""

import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from caps.admin import rewriting
from caps.admin.manifest_files import places
from caps.admin.opening import refuse
from caps.admin.proof import code_flaws, taken_code
from caps.admin.transaction import AdminError
from caps.system.run import RunError, run_as

SHELL = '[ ! -x {python} ] || /usr/bin/env -i {python} -I -m caps hooks run >&2 || true'
# When dpkg is run by apt, and passes that on, apt's own hook does it once at the end.
NOT_UNDER_APT = '[ -n "$DPKG_FRONTEND_LOCKED" ] || '
PACMAN = """\
[Trigger]
Operation = Install
Operation = Upgrade
Operation = Remove
Type = Package
Target = *

[Action]
Description = Refreshing ppy and bringing back capabilities
When = PostTransaction
Exec = /bin/sh -c '{shell}'
"""
APK = """\
[ "$1" = post-commit ] || exit 0
{shell}
"""
# Where package managers without hooks of their own keep what is installed.
PATH_UNIT = """\
[Unit]
Description=Wait for packages to be installed or removed

[Path]
PathChanged=/usr/lib/sysimage/rpm
PathChanged=/var/lib/rpm
PathChanged=/var/db/pkg
PathChanged=/var/db/xbps
PathChanged=/var/lib/eopkg/package

[Install]
WantedBy=multi-user.target
"""
SERVICE = """\
[Unit]
Description=Refresh ppy and bring back capabilities

[Service]
Type=oneshot
ExecStart=-/usr/bin/env -i {python} -I -m caps hooks run
"""
UNITS = '/etc/systemd/system'
UNIT = 'caps-hooks.path'
WRITTEN = re.compile(r'(?:#!/bin/sh\n)?# Written by caps hooks install for (\S+)\.\n')
PLAIN = re.compile(r'/[A-Za-z0-9/._+-]+')  # which no package manager reads otherwise
SECONDS = 300
SIZE = 1 << 16  # bytes of a file that is looked at


@dataclass(frozen=True)
class Kind:
    """How a package manager is told what to run.

    path: of the file, whose directory may have to be made
    template: of its content, after the line that says who wrote it
    needed: what is there where this manager is, and reads the file
    """

    manager: str
    path: str
    template: str
    needed: tuple[str, ...] = ()
    mode: int = 0o644

    def content(self, python: str) -> str:
        """What the file holds."""
        shell = SHELL.format(python=python)
        escaped = shell.replace(' ', '\\ ')
        text = self.template.format(python=python, shell=shell, escaped=escaped)
        head = '#!/bin/sh\n' * (self.mode == 0o755)
        return f'{head}# Written by caps hooks install for {python}.\n{text.rstrip()}\n'

    @property
    def is_possible(self) -> bool:
        """Whether this manager is here, and reads the file."""
        return bool(self.needed) and all(map(os.path.exists, self.needed))


KINDS = (
    Kind(
        'apt',
        '/etc/apt/apt.conf.d/99caps',
        'DPkg::Post-Invoke {{ "{shell}"; }};',
        ('/usr/bin/apt-get', '/etc/apt/apt.conf.d'),
    ),
    Kind(
        'dpkg',
        '/etc/dpkg/dpkg.cfg.d/caps',
        f'post-invoke={NOT_UNDER_APT}{{shell}}',
        ('/usr/bin/dpkg', '/etc/dpkg/dpkg.cfg.d'),
    ),
    Kind(
        'dnf 5',
        '/etc/dnf/libdnf5-plugins/actions.d/caps.actions',
        'post_transaction::::/bin/sh -c {escaped}',
        ('/etc/dnf/libdnf5-plugins/actions.d',),
    ),
    Kind(
        'dnf 4',
        '/etc/dnf/plugins/post-transaction-actions.d/caps.action',
        '*:any:{shell}',
        ('/etc/dnf/plugins/post-transaction-actions.d',),
    ),
    Kind(
        'pacman',
        '/etc/pacman.d/hooks/zz-caps.hook',
        PACMAN,
        ('/usr/bin/pacman', '/etc/pacman.d'),
    ),
    Kind('apk', '/etc/apk/commit_hooks.d/zz-caps', APK, ('/sbin/apk', '/etc/apk'), 0o755),
)
# For where none of these is.
SYSTEMD = (
    Kind('systemd', f'{UNITS}/caps-hooks.service', SERVICE),
    Kind('systemd', f'{UNITS}/{UNIT}', PATH_UNIT),
)


@dataclass(frozen=True)
class Hook:
    """A file for a package manager.

    state: installed, absent, stale (it no longer works, or is not safe), or foreign (somebody else
        wrote a file of that name)
    problem: what is wrong with it
    """

    manager: str
    path: str
    state: str
    problem: str | None = None


def possible() -> list[Kind]:
    """The kinds of hooks that this machine has a use for."""
    kinds = [kind for kind in KINDS if kind.is_possible]
    return kinds or [*SYSTEMD] * os.path.isdir(UNITS)


def status() -> list[Hook]:
    """Each hook that is there, or could be."""
    could_be, faults, hooks = possible(), dict[str, str | None](), []
    for kind in (*KINDS, *SYSTEMD):
        hook, python = _look(kind)
        if hook.state == 'installed':
            if python not in faults:
                faults[python] = _fault(python)
            if faults[python]:
                hook = replace(hook, state='stale', problem=faults[python])
        if hook.state != 'absent' or kind in could_be:
            hooks.append(hook)
    return hooks


def install() -> list[Hook]:
    """Write the file of each package manager that is here; returns their status.

    Raises AdminError, and nothing is written, where somebody else than root could change what would
    be run, or another file is in the way.
    """
    if os.geteuid():
        raise AdminError('this needs root: run it with sudo')
    python = os.path.abspath(sys.executable)
    refuse(_flaws(python), AdminError)
    kinds = possible()
    if not kinds:
        raise AdminError('there is no package manager here that is known, and no systemd')
    for kind in kinds:
        if _look(kind)[0].state == 'foreign':
            raise AdminError(f'{kind.path} is not from caps: move it away')
    for kind in kinds:
        with suppress(FileExistsError):
            os.mkdir(os.path.dirname(kind.path), 0o755)
        with rewriting.rewriting(kind.path) as (place, name):
            content = kind.content(python).encode()
            rewriting.replace(place, name, content, (0, 0), kind.mode)
    if kinds[0] in SYSTEMD:
        _systemctl('enable')
    return status()


def remove() -> list[str]:
    """Take away what `install` wrote, also that of another caps; returns the paths."""
    if os.geteuid():
        raise AdminError('this needs root: run it with sudo')
    removed = []
    for kind in (*KINDS, *reversed(SYSTEMD)):
        if _look(kind)[0].state in ('installed', 'stale'):
            if kind.path.endswith(UNIT):
                with suppress(AdminError):  # a systemd that is gone as well
                    _systemctl('disable')
            with rewriting.rewriting(kind.path) as (place, name):
                os.unlink(name, dir_fd=place)
            removed.append(kind.path)
    return removed


def after_packages() -> Iterator[tuple[int, str]]:
    """Renew copies of interpreters and bring back marks: the status and output of each command.

    Each ends after some minutes.
    """
    commands = [['refresh']]
    with suppress(AdminError):
        commands += [['manifest', 'restore']] * bool(places())
    for words in commands:
        try:
            command = [sys.executable, '-I', '-m', 'caps', *words]
            finished = run_as(command, None, seconds=SECONDS)
        except (OSError, RunError) as error:
            yield 1, f'{error}\n'
        else:
            yield finished.status, os.fsdecode(finished.output + finished.errors)


def _flaws(python: str) -> Iterator[str]:
    """Why root is not to run a Python and its caps unasked."""
    if not PLAIN.fullmatch(python):
        yield f'{python} has characters that a package manager may read otherwise: move it'
    yield from code_flaws(python)
    try:
        taken, problem = taken_code(python, None)
    except (OSError, RunError, ValueError) as error:
        yield f'{python} does not work: {error}'
        return
    if problem:
        yield f'{python} cannot import caps: {problem}'
    settings = os.path.join(os.path.dirname(os.path.dirname(python)), 'pyvenv.cfg')
    for path in (*taken, *[settings] * os.path.exists(settings)):
        for flaw in (*code_flaws(path), *_tree_flaws(path)):
            yield f'{flaw}: root would run it after each package run: install caps elsewhere'


def _tree_flaws(directory: str) -> Iterator[str]:
    """Which files below a directory that root alone can change others can change."""
    for place, directories, files in os.walk(directory):
        for path in (os.path.join(place, name) for name in (*directories, *files)):
            info = os.lstat(path)
            if stat.S_ISLNK(info.st_mode):
                yield from code_flaws(path)
            elif info.st_uid or info.st_mode & 0o022:
                yield f'users other than root can change {path}'


def _look(kind: Kind) -> tuple[Hook, str]:
    """A hook as it is written, and the Python that it runs."""
    hook = Hook(kind.manager, kind.path, 'absent')
    try:
        fd = os.open(kind.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return hook, ''
    except OSError:
        return replace(hook, state='foreign', problem='is not from caps'), ''
    with open(fd, 'rb') as file:
        info = os.fstat(fd)
        text = os.fsdecode(file.read(SIZE)) if stat.S_ISREG(info.st_mode) else ''
    match = WRITTEN.match(text)
    if match is None:
        return replace(hook, state='foreign', problem='is not from caps'), ''
    problem = None
    if info.st_uid or info.st_gid or stat.S_IMODE(info.st_mode) != kind.mode:
        problem = f'is not of root:root and mode {kind.mode:o}'
    elif text != kind.content(match[1]):
        problem = 'is not as this version of caps writes it'
    return replace(hook, state='stale' if problem else 'installed', problem=problem), match[1]


def _fault(python: str) -> str | None:
    """Why a Python that is run by hooks does not, or should not, do what it is there for."""
    if not os.path.exists(python):
        return f'{python} is not there any more'
    if flaw := next(code_flaws(python), None):
        return flaw
    with suppress(OSError, RunError):
        if not run_as([python, '-I', '-m', 'caps', 'version'], None).status:
            return None
    return f'{python} cannot run caps any more'


def _systemctl(verb: str) -> None:
    """Enable or disable the unit, now where systemd runs."""
    now = ['--now'] * os.path.isdir('/run/systemd/system')
    command = ['/usr/bin/systemctl', '--quiet', verb, *now, UNIT]
    try:
        finished = run_as(command, None)
    except (OSError, RunError) as error:
        raise AdminError(f'systemctl {verb} {UNIT}: {error}') from None
    if finished.status:
        raise AdminError(f'systemctl {verb} {UNIT}: {os.fsdecode(finished.errors).strip()}')
