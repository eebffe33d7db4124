"""Put ppy in place, look at an installation, take it away."""

import errno
import grp
import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from caps import IAB, Caps, CapSet
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
from caps.system.path import NOBODY, strangers, way

__all__ = ['InstallError', 'Installation', 'install', 'remove', 'status']

TEMPLATES = Path(__file__).parent.parent
INSTALLER_CAPS = CapSet('cap_chown,cap_fowner,cap_setgid,cap_setuid,cap_setfcap')
File = str | os.PathLike[str]


class InstallError(Exception):
    """The reason why nothing was installed or removed."""


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
    problems: one sentence for each thing that is wrong, with the command that mends it
    """

    prefix: str
    name: str
    original: str = ''
    capped: str = ''
    setuid: bool = False
    group: str | None = None
    allowed: CapSet | None = None
    allow_root: bool = False
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
    def command(self) -> str:
        """The command that makes this installation again."""
        words = ['caps', 'ppy', 'install', '--interpreter', self.original]
        words += ['--prefix', self.prefix, '--name', self.name]
        words += ['--setuid'] * self.setuid + ['--allow-root'] * self.allow_root
        words += ['--group', self.group] if self.group else []
        if self.allowed is None or not means_all(self.allowed):
            words += ['--allow', 'CAPS' if self.allowed is None else str(self.allowed)]
        return shlex.join(words)


def install(
    interpreter: File | None = None,
    prefix: File = PREFIX,
    name: str = NAME,
    *,
    setuid: bool = False,
    group: str | None = None,
    allow: str | None = None,
    allow_root: bool = False,
) -> Installation:
    """Install ppy and a capped copy of an interpreter, or leave everything as it was.

    interpreter: runs the scripts; by default the Python that runs this
    prefix, name: ppy becomes PREFIX/bin/NAME and the copy goes to a PREFIX/libexec/NAME-*
    setuid: make ppy set-user-ID root instead of giving it file capabilities
    group: its members may execute the capped copy themselves
    allow: what scripts can be given at most; by default all capabilities of this kernel
    allow_root: launch scripts that belong to root as well

    Returns what `status` does.
    Raises InstallError where the result would not work or not be safe, and ValueError for what is
    no capability; see capabilities(7).
    """
    _require_root()
    plan = _installation(prefix, name)
    plan.original = _without_links(sys.executable if interpreter is None else interpreter)
    plan.allowed = CapSet.all() if allow is None or allow.lower() == 'all' else CapSet(allow)
    plan.setuid, plan.allow_root = setuid, allow_root
    gid = _group_id(group)
    _refuse(_obstacles(plan))
    with ExitStack() as undo:
        bin_, libexec = os.path.dirname(plan.ppy), plan.libexec
        for directory in (bin_, libexec):
            _make_directory(directory, undo)
            # Where it was missing, another account may have made it meanwhile.
            _refuse(_place_flaws(directory))
        stage = tempfile.mkdtemp(prefix=f'{name}-', dir=libexec)
        undo.callback(shutil.rmtree, stage)
        plan.capped = os.path.join(stage, os.path.basename(plan.original))
        content, caps = Path(plan.original).read_bytes(), Caps(inheritable=plan.allowed)
        _write(plan.capped, content, (0, gid), 0o750 if gid else 0o700, caps)
        work = tempfile.mkdtemp(dir=stage)
        os.chmod(work, 0o755)
        launchers = _write_launchers(plan, work)
        script = _write_script(f'{launchers[-1]}.script', plan.allowed)
        os.chmod(stage, 0o755)  # until now only root could enter, whatever the umask
        _prove(launchers[-1], script)
        previous = _previous(plan)
        for launcher in launchers:
            os.replace(launcher, os.path.join(bin_, os.path.basename(launcher)))
        undo.pop_all()
    for directory in (work, *previous):
        shutil.rmtree(directory)
    return status(prefix, name)


def status(prefix: File = PREFIX, name: str = NAME) -> Installation:
    """Look at an installation.

    prefix, name: what it was installed with

    Returns its parts, and in `problems` what is wrong with it and the command that mends it.
    """
    found = _installation(prefix, name)
    flags, found.capped, found.original = read_record(found.ppy) or (0, '', '')
    if not found.original:
        words = ['--prefix', found.prefix] if found.prefix != PREFIX else []
        words += ['--name', name] if name != NAME else []
        mend = shlex.join(['caps', 'ppy', 'install', *words])
        found.problems = [f'{found.ppy} is not installed: {mend}']
        return found
    found.allow_root = bool(flags & ALLOW_ROOT)
    found.setuid = bool(os.stat(found.ppy).st_mode & stat.S_ISUID)
    with suppress(OSError, KeyError):
        caps = Caps.from_file(found.capped)
        found.allowed = caps.inheritable if caps.marked else None
        gid = os.stat(found.capped).st_gid
        found.group = grp.getgrgid(gid).gr_name if gid else None
    found.problems = list(dict.fromkeys(_damage(found)))
    return found


def remove(prefix: File = PREFIX, name: str = NAME) -> None:
    """Take an installation away.

    prefix, name: what it was installed with

    Raises InstallError where there is none, or the process may not remove it.
    """
    found = _installation(prefix, name)
    if not read_record(found.ppy):
        raise InstallError(f'{found.ppy} is not an installed ppy')
    _require_root()
    for directory in (found.prefix, os.path.dirname(found.ppy), found.libexec):
        _refuse(strangers(directory))  # who could have it name what is not its own
    directories = _previous(found)
    for path, *_ in _launchers(found):
        if read_record(path):
            os.unlink(path)
    for directory in directories:
        shutil.rmtree(directory)


def _require_root() -> None:
    if os.geteuid() != 0:
        raise InstallError(f'this needs root with {INSTALLER_CAPS}: run it with sudo')
    if missing := INSTALLER_CAPS - Caps.from_process().effective:
        raise InstallError(f'this root lacks {missing}: use a session or container that has it')


def _refuse(reasons: Iterator[str]) -> None:
    if reason := next(reasons, None):
        raise InstallError(reason)


def _installation(prefix: File, name: str) -> Installation:
    if name in ('', '.', '..') or '/' in name:
        raise InstallError(f'{name!r} cannot be the name of a launcher: choose another --name')
    if not os.fspath(prefix):  # of which os.path.realpath() makes the working directory
        raise InstallError("'' cannot be the directory of an installation: choose another --prefix")
    return Installation(os.path.realpath(prefix), name)


def _launchers(it: Installation) -> Iterator[tuple[str, Path, int, Caps | None]]:
    """Path, template, mode and capabilities; the last is the one that makes an installation."""
    if (TEMPLATES / 'ppy-check').exists():
        yield f'{it.ppy}-check', TEMPLATES / 'ppy-check', 0o755, None
    mode, caps = (0o4755, None) if it.setuid else (0o755, LAUNCHER_CAPS)
    yield it.ppy, TEMPLATES / 'ppy', mode, caps


def _without_links(path: File) -> str:
    # The last component may remain a link: Python finds a virtual environment by it.
    directory, base = os.path.split(path)
    return os.path.join(os.path.realpath(directory), base)


def _group_id(group: str | None) -> int:
    try:
        return 0 if group is None else grp.getgrnam(group).gr_gid
    except KeyError:
        raise InstallError(f'there is no group {group!r}: groupadd {group}') from None


def _obstacles(plan: Installation) -> Iterator[str]:
    """Why a planned installation must not be begun."""
    if missing := LAUNCHER_CAPS.permitted - IAB.from_process().bounding:
        yield (
            f'the bounding set of this process lacks {missing}, so that executing ppy would fail '
            'with EPERM: use a session or container that has it (--cap-add)'
        )
    yield from _interpreter_flaws(plan.original)
    yield from _directory_flaws(plan.prefix)  # where bin and libexec can be links
    yield from _place_flaws(os.path.dirname(plan.ppy))
    yield from _place_flaws(plan.libexec)
    if unknown := (plan.allowed or CapSet()) - CapSet.all():
        yield f'this kernel has no capability {unknown}'
    for path, *_ in _launchers(plan):
        if os.path.lexists(path) and not read_record(path):
            yield f'{path} exists and is not a ppy: choose another --name'


def _interpreter_flaws(path: str) -> Iterator[str]:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise OSError(errno.EINVAL, 'not a regular file')
        with open(path, 'rb') as file:
            head, info = file.read(4), os.fstat(file.fileno())
    except OSError as error:
        yield f'{path} cannot be the interpreter: {error.strerror}: choose another --interpreter'
        return
    if head.startswith(b'#!'):
        yield f'{path} is a script, on which the kernel ignores capabilities: name the program'
    elif head != b'\x7fELF':
        yield f'{path} is not a program'
    yield from _directory_flaws(os.path.dirname(path))
    while os.path.islink(path):
        path = _without_links(os.path.join(os.path.dirname(path), os.readlink(path)))
        yield from _directory_flaws(os.path.dirname(path))
    if info.st_mode & 0o005 != 0o005:
        yield f'{path} is closed to other accounts, which run the scripts: chmod o+rx {path}'
    if info.st_uid or info.st_mode & 0o022:
        yield f'others than root can change {path}: chown root {path}; chmod go-w {path}'


def _directory_flaws(directory: str) -> Iterator[str]:
    """What is wrong with a directory, or with the way to where it would be, for all to use."""
    for path, info in way(directory):
        if not info.st_mode & 0o001:
            yield (
                f'{path} is closed to other accounts, which run the scripts: '
                'choose another --interpreter or --prefix'
            )
    yield from strangers(directory)


def _place_flaws(directory: str) -> Iterator[str]:
    """What is wrong with a directory, or with where it would be, for a privileged file."""
    yield from _directory_flaws(directory)
    while not os.path.isdir(directory):
        directory = os.path.dirname(directory)
    if os.statvfs(directory).f_flag & os.ST_NOSUID:
        yield (
            f'{directory} is on a nosuid mount, where file capabilities and set-user-ID mean '
            'nothing: choose another --prefix, or mount -o remount,suid'
        )


def _make_directory(path: str, undo: ExitStack) -> None:
    if not os.path.isdir(path):
        _make_directory(os.path.dirname(path), undo)
        os.mkdir(path, 0o755)
        undo.callback(os.rmdir, path)
        os.chmod(path, 0o755)


def _write(path: str, content: bytes, owner: tuple[int, int], mode: int, caps: Caps | None) -> None:
    with open(path, 'xb') as file:
        file.write(content)
        file.flush()  # writing and chown take mode bits and capabilities away
        os.fchown(file.fileno(), *owner)
        os.fchmod(file.fileno(), mode)
        if caps is not None:
            caps.apply(file.fileno())


def _write_launchers(plan: Installation, directory: str) -> list[str]:
    paths = map(os.fsencode, (plan.capped, plan.original))
    record = RECORD.pack(MAGIC, ALLOW_ROOT * plan.allow_root, *paths)
    written = []
    for path, template, mode, caps in _launchers(plan):
        content = template.read_bytes()
        start = content.index(MAGIC)
        content = content[:start] + record + content[start + RECORD.size :]
        written.append(os.path.join(directory, os.path.basename(path)))
        _write(written[-1], content, (0, 0), mode, caps)
    return written


def _write_script(path: str, allowed: CapSet) -> str:
    """Write an empty script of an account that is not root, where none but root can enter.

    Its owner could otherwise write to it before it is marked.
    """
    # A single capability suffices to make the execution a secure one.
    mark = Caps(inheritable=list(allowed & IAB.from_process().bounding)[:1])
    _write(path, b'', (NOBODY, NOBODY), 0o755, mark)
    return path


def _prove(launcher: str, script: str) -> None:
    """Launch the empty script, as an account that is not root."""
    try:
        done = subprocess.run(
            [launcher, script],
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            cwd='/',
            env={},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=30,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise InstallError(f'the new ppy cannot launch a script: {error}') from error
    if done.returncode:
        reason = os.fsdecode(done.stderr).strip() or f'exit status {done.returncode}'
        if 'loading shared librar' in reason:  # glibc and musl
            reason += (
                '\nWith privileges the dynamic loader ignores $ORIGIN and LD_LIBRARY_PATH: choose '
                'an --interpreter whose libraries are where the system has them'
            )
        raise InstallError(f'the new ppy cannot launch a script: {reason}')


def _previous(found: Installation) -> list[str]:
    """The directory of the installed ppy's capped copy, if it is certain that install made it."""
    _, capped, _ = read_record(found.ppy) or (0, '', '')
    directory = os.path.dirname(capped)
    parent, base = os.path.split(directory)
    if parent == found.libexec and base.rpartition('-')[0] == found.name:
        with suppress(FileNotFoundError):
            info = os.lstat(directory)
            return [directory] if stat.S_ISDIR(info.st_mode) and info.st_uid == 0 else []
    return []


def _damage(found: Installation) -> Iterator[str]:
    """What is wrong with an installation."""
    yield from _place_flaws(os.path.dirname(found.ppy))
    if any(strangers(os.path.dirname(found.ppy))):
        return  # they say what the rest is
    yield from _place_flaws(os.path.dirname(found.capped))
    yield from _interpreter_flaws(found.original)
    for path, _, mode, caps in _launchers(found):
        yield from _file_flaws(found, path, 0, mode, caps)
    gid = grp.getgrnam(found.group).gr_gid if found.group else 0
    mode = 0o750 if gid else 0o700
    yield from _file_flaws(found, found.capped, gid, mode, Caps(inheritable=found.allowed or ()))
    news = CapSet.all() - (found.allowed or CapSet.all())
    if found.allowed and means_all(found.allowed) and news:
        yield f'{found.capped} is from before this kernel, which adds {news}: {found.command}'
    try:
        if Path(found.capped).read_bytes() != Path(found.original).read_bytes():
            yield f'{found.original} has changed since it was copied: {found.command}'
    except FileNotFoundError:
        pass  # said above
    except PermissionError:
        yield f'only root can compare {found.capped} with its original: run this with sudo'


def _file_flaws(
    found: Installation, path: str, gid: int, mode: int, caps: Caps | None
) -> Iterator[str]:
    try:
        info, actual = os.lstat(path), Caps.from_file(path)
    except OSError as error:
        yield f'{path}: {error.strerror}: {found.command}'
        return
    has = _traits(info.st_mode, info.st_uid, info.st_gid, actual if actual.marked else None)
    want = _traits(stat.S_IFREG | mode, 0, gid, caps)
    if has != want:
        yield f'{path} is {has}, not {want}: {found.command}'


def _traits(mode: int, uid: int, gid: int, caps: Caps | None) -> str:
    text = 'without capabilities' if caps is None else str(caps)
    root_id = f' [rootid={caps.root_id}]' if caps is not None and caps.root_id else ''
    return f'{stat.filemode(mode)} {uid}:{gid} {text}{root_id}'
