"""An installed ppy as it is found: what it was installed with, and what is wrong with it."""

import errno
import grp
import os
import re
import shlex
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from caps import Caps, CapSet
from caps.admin.copies import unused_id
from caps.admin.places import interpreter_flaws, place_flaws
from caps.admin.proof import InstallError, library_flaws
from caps.admin.registry import Ppy, unrecorded
from caps.admin.transaction import AdminError
from caps.system.launcher import (
    ALLOW_ROOT,
    LAUNCHER_CAPS,
    MAGIC,
    NAME,
    PREFIX,
    RECORD,
    means_all,
    read_record,
)
from caps.system.look import look_at, part
from caps.system.path import strangers
from caps.system.run import Account, RunError, run_as

TEMPLATES = Path(__file__).parent.parent
SIZE = 1 << 28  # bytes that an interpreter may have
PathText = str | os.PathLike[str]


@dataclass
class Installation:
    """What is installed under a name.

    prefix, name: what it was installed with
    original: the path of the interpreter, empty where nothing is installed
    capped: the path of its capped copy
    setuid: whether ppy is set-user-ID root, else it has file capabilities
    group: whose members may execute the capped copy, None for nobody
    allowed: what scripts can be given at most, None where that is unknown
    allow_root: whether scripts of root are launched
    version: of the package that ppy is from, None where that is unknown
    is_stale: whether the interpreter has changed since it was copied
    problems: one sentence for each thing that is wrong, with the command that fixes it
    """

    prefix: str
    name: str
    original: str = ''
    capped: str = ''
    setuid: bool = False
    group: str | None = None
    allowed: CapSet | None = None
    allow_root: bool = False
    version: str | None = None
    is_stale: bool = False
    problems: list[str] = field(default_factory=list)

    # Where bin and libexec lead is decided once, and looked at after that.
    @cached_property
    def ppy(self) -> str:
        """The path of the launcher."""
        return os.path.join(os.path.realpath(os.path.join(self.prefix, 'bin')), self.name)

    @cached_property
    def libexec(self) -> str:
        """The directory that holds the directory of the capped copy."""
        return os.path.realpath(os.path.join(self.prefix, 'libexec'))

    @property
    def lock(self) -> str:
        """The file that is there while a command changes the installation."""
        return f'{self.libexec}/.{self.name}.lock'

    @property
    def command(self) -> str:
        """The command that makes this installation again."""
        words = ['caps', 'ppy', 'install', '--interpreter', self.original]
        words += ['--prefix', self.prefix, '--name', self.name]
        words += ['--setuid'] * self.setuid + ['--allow-root'] * self.allow_root
        words += ['--group', self.group] if self.group else []
        if self.allowed is None or not means_all(self.allowed):
            words += ['--allow', 'CAPS' if self.allowed is None else str(self.allowed)]
        return shlex.join(words)

    def launchers(self) -> Iterator[tuple[str, Path, int, Caps | None]]:
        """Path, template, mode and capabilities; the first is what makes an installation."""
        mode, caps = (0o4755, None) if self.setuid else (0o755, LAUNCHER_CAPS)
        yield self.ppy, TEMPLATES / 'ppy', mode, caps
        if (TEMPLATES / 'ppy-check').exists():
            # Who runs it cannot read it, and so cannot trace it and speak in its place.
            yield f'{self.ppy}-check', TEMPLATES / 'ppy-check', 0o711, None

    def stages(self) -> list[str]:
        """The directories in libexec that installing under this name has made."""
        pattern = re.compile(re.escape(self.name) + '-[a-z0-9_]{8}')
        with suppress(FileNotFoundError):
            names = filter(pattern.fullmatch, os.listdir(self.libexec))
            return [path for path in (f'{self.libexec}/{name}' for name in names) if is_stage(path)]
        return []


def is_stage(path: str) -> bool:
    """Whether a directory is root's and holds what an installation has: a copy, and launchers."""
    info = os.lstat(path)
    if not stat.S_ISDIR(info.st_mode) or info.st_uid or os.path.ismount(path):
        return False
    programs = [entry.name for entry in os.scandir(path) if not entry.is_dir(follow_symlinks=False)]
    return len(programs) <= 1


def named(prefix: PathText, name: str) -> Installation:
    """What would be installed under a name, which nobody has looked at."""
    if name in ('', '.', '..') or '/' in name:
        raise InstallError(f'{name!r} cannot be the name of a launcher: choose another --name')
    if not os.fspath(prefix):  # of which os.path.realpath() makes the working directory
        raise InstallError("'' cannot be the directory of an installation: choose another --prefix")
    return Installation(os.path.realpath(prefix), name)


def recorded(prefix: PathText, name: str) -> Installation | None:
    """What is installed under a name, by its record and marks; None for nothing."""
    installation = named(prefix, name)
    record = read_record(installation.ppy)
    if record is None or not record.original:
        return None
    installation.capped, installation.original = record.capped, record.original
    installation.allow_root = bool(record.flags & ALLOW_ROOT)
    installation.setuid = bool(os.stat(installation.ppy).st_mode & stat.S_ISUID)
    with suppress(OSError, KeyError):
        caps = Caps.from_file(installation.capped)
        installation.allowed = caps.inheritable if caps.marked else None
        gid = os.stat(installation.capped).st_gid
        installation.group = grp.getgrgid(gid).gr_name if gid else None
    return installation


def installation_at(prefix: PathText = PREFIX, name: str = NAME) -> Installation:
    """Look at an installation.

    prefix, name: what it was installed with

    Returns its parts, and in `problems` what is wrong with it and the command that fixes it.
    """
    installation = recorded(prefix, name)
    if installation is None:
        installation = named(prefix, name)
        words = ['--prefix', installation.prefix] if installation.prefix != PREFIX else []
        words += ['--name', name] if name != NAME else []
        fix = shlex.join(['caps', 'ppy', 'install', *words])
        installation.problems = [f'{installation.ppy} is not installed: {fix}']
        return installation
    installation.problems = list(dict.fromkeys((*damage(installation), *_news(installation))))
    return installation


def damage(installation: Installation) -> Iterator[str]:
    """How an installation is not as it was made, or not where it may be."""
    yield from place_flaws(os.path.dirname(installation.ppy))
    if any(strangers(os.path.dirname(installation.ppy))):
        return  # they say what the rest is
    yield from place_flaws(os.path.dirname(installation.capped))
    flaws = list(interpreter_flaws(installation.original))
    yield from flaws
    if not flaws:
        yield from library_flaws(installation.original, prover())
    for path, _, mode, caps in installation.launchers():
        yield from _file_flaws(installation, path, 0, mode, caps)
    gid = grp.getgrnam(installation.group).gr_gid if installation.group else 0
    mode, caps = 0o750 if gid else 0o700, Caps(inheritable=installation.allowed or ())
    yield from _file_flaws(installation, installation.capped, gid, mode, caps)


def _news(installation: Installation) -> Iterator[str]:
    """What has changed since an installation was made."""
    if any(strangers(os.path.dirname(installation.ppy))):
        return
    for path, template, mode, caps in installation.launchers():
        if not any(_file_flaws(installation, path, 0, mode, caps)):
            yield from _age(installation, path, template)
    news = CapSet.all() - (installation.allowed or CapSet.all())
    if installation.allowed and means_all(installation.allowed) and news:
        yield (
            f'{installation.capped} is from before this kernel, which adds {news}: '
            f'{installation.command}'
        )
    for reason in unrecorded(Ppy(installation.prefix, installation.name)):
        yield f'{installation.ppy} {reason}: {installation.command}'
    try:
        installation.is_stale = is_stale(installation)
        if installation.is_stale:
            yield f'{installation.original} has changed since it was copied: {installation.command}'
    except PermissionError:
        yield f'only root can compare {installation.capped} with its original: run this with sudo'
    except OSError:
        pass  # said above


def is_stale(installation: Installation) -> bool:
    """Whether the interpreter has changed since it was copied; raises OSError."""
    return _content(installation.capped) != _content(installation.original)


def _content(path: str) -> bytes:
    """What a program holds, without waiting for one that has become a pipe."""
    with look_at(path) as look, look.opened() as fd:
        if fd is None:
            if look.is_regular:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
            raise OSError(errno.EINVAL, 'not a regular file', path)
        return part(fd, SIZE)


def prover() -> Account | None:
    """The account that a proof runs as: one that nobody has; None, this account, if not root."""
    if os.geteuid():
        return None
    number = unused_id()
    return Account(number, number)


def _age(installation: Installation, path: str, template: Path) -> Iterator[str]:
    """Whether a launcher is the package's; sets which version it is of."""
    if path == installation.ppy:
        installation.version = _version(path)
    try:
        if _without_record(Path(path)) == _without_record(template):
            return
    except PermissionError:  # only root can read it
        return
    here = _package_version()
    there = f'of version {installation.version}, not' if installation.version else 'not'
    yield f'{path} is {there} the ppy of this package, version {here}: {installation.command}'


def is_newer(installation: Installation) -> bool:
    """Whether a launcher is of a later version than this package, as far as both say theirs."""
    texts = _version(installation.ppy) or '', _package_version()
    there, here = ([int(number) for number in re.findall('[0-9]+', text)] for text in texts)
    return bool(there and here) and there > here


def _without_record(path: Path) -> bytes:
    content = path.read_bytes()
    start = content.find(MAGIC)
    return content[:start] + content[start + RECORD.size :]


def _package_version() -> str:
    with suppress(PackageNotFoundError):
        return version('caps-ppy')
    return 'unknown'


def _version(launcher: str) -> str | None:
    """What a launcher calls itself: "ppy VERSION", or "ppy (caps-ppy) VERSION"."""
    with suppress(OSError, RunError, AdminError):
        words = os.fsdecode(run_as([launcher, '--version'], prover()).output).split()
        if words and re.match('[0-9]', words[-1]):
            return words[-1]
    return None


def _file_flaws(
    installation: Installation, path: str, gid: int, mode: int, caps: Caps | None
) -> Iterator[str]:
    try:
        info, actual = os.lstat(path), Caps.from_file(path)
    except OSError as error:
        yield f'{path}: {error.strerror}: {installation.command}'
        return
    has = _traits(info.st_mode, info.st_uid, info.st_gid, actual if actual.marked else None)
    want = _traits(stat.S_IFREG | mode, 0, gid, caps)
    if has != want:
        yield f'{path} is {has}, not {want}: {installation.command}'


def _traits(mode: int, uid: int, gid: int, caps: Caps | None) -> str:
    text = 'without capabilities' if caps is None else str(caps)
    root_id = f' [rootid={caps.root_id}]' if caps is not None and caps.root_id else ''
    return f'{stat.filemode(mode)} {uid}:{gid} {text}{root_id}'
