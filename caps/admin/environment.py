"""A virtual environment's bin directory: which of its names are which python, and whose it is.

Its owner may exchange anything in it at any time.  So it is opened once, and everything in it is
looked at and changed from there, without following a link.
"""

import errno
import os
import re
import shlex
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

from caps import Caps
from caps.accounts import user_name
from caps.admin.copies import is_ours, strip, unused_id
from caps.admin.transaction import AdminError, lock, unlock
from caps.system.run import Account, RunError, run_as

UNMARKED = '.unmarked'  # what the name of a python ends in while a marked copy is in its place
PYTHON = re.compile(r'python[0-9.]*')
TEMPORARY = re.compile(r'\.python[0-9.]*\.[0-9a-f]{16}')
LOCK = '.caps.lock'
SIZE = 1 << 28  # bytes that a python may have


class VenvError(AdminError):
    """The reason why an environment was left as it was."""


@dataclass
class Environment:
    """A virtual environment's python: where it is, its names, its capabilities, who can run it."""

    directory: str
    python: str
    unmarked: str | None
    caps: Caps
    owner: str
    names: list[str] = field(default_factory=list)
    group: str | None = None
    closed: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    is_stale: bool = False

    @property
    def way_in(self) -> str:
        """The command that works where the marked python cannot start."""
        return shlex.join([self.unmarked or self.python, '-m', 'caps'])

    @property
    def who(self) -> str:
        """Who can run the python, in words."""
        them = f'every member of {self.group}' if self.group else 'every account'
        return them + (f' that can enter {", ".join(self.closed)}' if self.closed else '')


@dataclass
class Bin:
    """The bin directory of an environment: the environment's path, and a descriptor."""

    top: str
    fd: int

    def path(self, name: str) -> str:
        """What an entry is called in messages, and when it is executed."""
        return f'{self.top}/bin/{name}'

    def link(self, name: str) -> str | None:
        """What a symbolic link says; None for any other file and for none."""
        try:
            return os.readlink(name, dir_fd=self.fd)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):
                return None
            raise

    def is_file(self, name: str) -> bool:
        """Whether an entry is a regular file."""
        return _is_file(self.fd, name)

    def is_there(self, name: str) -> bool:
        """Whether there is an entry that can be a python."""
        return self.link(name) is not None or self.is_file(name)

    def end(self, name: str) -> str:
        """Where links from name to name within the directory end."""
        for _ in range(40):  # as many as the kernel follows
            target = self.link(name)
            if target is None or '/' in target:
                return name
            name = target
        return name

    def python(self) -> str:
        """The name of the file that is the environment's python, or of the link that leads out."""
        for start in 'python', 'python3':
            if self.is_there(name := self.end(start)):
                return name
        raise VenvError(f'{self.top}/bin has no python')

    def others(self, name: str) -> list[str]:
        """The pythons that are other files, or lead out by other links, than one of this name."""
        ends = {self.end(entry) for entry in os.listdir(self.fd) if PYTHON.fullmatch(entry)}
        return sorted(end for end in ends - {name} if self.is_there(end))

    def names(self, name: str) -> list[str]:
        """Every name that leads to one of this name."""
        return sorted(entry for entry in os.listdir(self.fd) if self.end(entry) == name)

    def leftovers(self) -> list[str]:
        """What an interrupted command has left: files that only this account can have made."""
        left = []
        for name in os.listdir(self.fd):
            if not TEMPORARY.fullmatch(name):
                continue
            with suppress(FileNotFoundError):
                info = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
                if info.st_uid == os.geteuid() and not stat.S_ISDIR(info.st_mode):
                    left.append(name)
        return left

    def lock(self, held: ExitStack) -> None:
        """Have no other command change it until a stack is closed."""
        try:
            fd = lock(LOCK, self.fd, wait=False)  # its owner could have us wait for ever
        except BlockingIOError:
            raise VenvError(f'{self.top}/bin is being changed by another command') from None
        if fd is not None:
            held.callback(os.close, fd)
            held.callback(unlock, fd, LOCK, self.fd)

    def sweep(self) -> list[str]:
        """Take what an interrupted command has left away, and its mark wherever it goes."""
        swept = self.leftovers()
        for name in swept:
            with suppress(FileNotFoundError):
                with suppress(OSError):
                    strip_if_ours(self.open(name))
                os.unlink(name, dir_fd=self.fd)
        return swept

    def open(self, name: str) -> int:
        """A descriptor to read an entry, which is no link; the caller looks at what it is."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(name, flags, dir_fd=self.fd)

    def account(self, gid: int | None, number: int | None) -> Account | None:
        """Who starts what is in it: its owner, or where that is root an account that nobody has.

        gid: of the group that may run it; by default that of the account
        number: of a group besides, whose member nobody else is

        None, the account of this process, if not root.
        """
        if number is None:
            return None
        info = os.fstat(self.fd)
        uid, own = (info.st_uid, info.st_gid) if info.st_uid else (number, number)
        return Account(uid, own if gid is None else gid, (number,))

    def content(self, name: str, account: Account | None) -> bytes:
        """The program that an entry stands for, as far as an account can read it."""
        program = self.path(name)
        try:
            info = os.stat(name, dir_fd=self.fd)
        except OSError as error:
            raise VenvError(f'{program} leads to no program: {error.strerror}') from None
        if not stat.S_ISREG(info.st_mode):
            raise VenvError(f'{program} leads to no program: it is not a regular file')
        if info.st_uid not in (0, os.geteuid(), os.fstat(self.fd).st_uid):
            raise VenvError(f'{program} leads to a program of {user_name(info.st_uid)}')
        try:
            finished = run_as(['cat', '--', program], account, seconds=60, limit=SIZE)
        except RunError as error:
            raise VenvError(f'{program} cannot be copied: {error}') from None
        if finished.status:
            if (closed := self.closed()) and not os.fstat(self.fd).st_uid:
                raise VenvError(f'no account that may run it can enter {", ".join(closed)}')
            reason = os.fsdecode(finished.errors).strip()
            raise VenvError(f'{program} cannot be copied: {reason}')
        if finished.output[:4] != b'\x7fELF':
            raise VenvError(f'{program} leads to no program: the kernel would ignore its mark')
        return finished.output

    def closed(self) -> list[str]:
        """The directories on the way to it that not everyone may enter."""
        way, closed = f'{self.top}/bin', []
        while way != '/':
            if not os.stat(way).st_mode & stat.S_IXOTH:
                closed.append(way)
            way = os.path.dirname(way)
        return closed[::-1]

    def environment(self, name: str, caps: Caps, group: str | None) -> Environment:
        """The environment with this python."""
        unmarked = self.path(name + UNMARKED) if self.is_there(name + UNMARKED) else None
        owner = user_name(os.fstat(self.fd).st_uid)
        names, closed = self.names(name), self.closed()
        return Environment(self.top, self.path(name), unmarked, caps, owner, names, group, closed)


@contextmanager
def opened(directory: str | os.PathLike[str]) -> Iterator[Bin]:
    """The bin directory of an environment."""
    os.stat(directory)  # an empty path names nothing, and to realpath() the working directory
    path = os.path.realpath(directory)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    top = os.open(path, flags)
    try:
        if not _is_file(top, 'pyvenv.cfg'):
            raise VenvError(f'{path} is not a virtual environment: it has no pyvenv.cfg')
        try:
            fd = os.open('bin', flags, dir_fd=top)
        except OSError as error:
            linked = error.errno in (errno.ELOOP, errno.ENOTDIR)
            reason = 'is no directory of the environment' if linked else error.strerror
            raise VenvError(f'{path}/bin {reason}') from None
    finally:
        os.close(top)
    try:
        yield Bin(path, fd)
    except PermissionError as error:
        fix = ': run this with sudo' if os.geteuid() else ''
        raise VenvError(f'{path}/bin: {error.strerror}{fix}') from None
    finally:
        os.close(fd)


def unused_group() -> int | None:
    """A group that nobody else is in; None for who is not root, and needs none."""
    return None if os.geteuid() else unused_id()


def strip_if_ours(fd: int) -> None:
    """Take mark and mode from a file and close it, unless it is another's or has another name."""
    try:
        if is_ours(os.fstat(fd)):
            strip(fd)
    finally:
        os.close(fd)


def _is_file(directory: int, name: str) -> bool:
    try:
        mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return False
    return stat.S_ISREG(mode)
