"""Capabilities for the python of one virtual environment, and for no other.

An environment's python is a symbolic link to the system's, so whoever marks it marks the python
of everyone.  Here the link gives way to a copy that is marked; the link stays beside it under
another name, as a python without capabilities and for the way back.
"""

import errno
import grp
import os
import pwd
import secrets
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from caps import IAB, Caps, CapSet
from caps.accounts import user_name
from caps.admin.transaction import AdminError
from caps.system.path import NOBODY

UNMARKED = '.unmarked'  # what the name of a link has while the copy is in its place
PROOF = "import os, sys; print(sys.prefix, open('/proc/self/status').read(), sep='\\n')"


class VenvError(AdminError):
    """The reason why an environment was left as it was."""


@dataclass
class Environment:
    """A virtual environment's python: where it is, under which names, what it may do for whom."""

    directory: str
    python: str
    unmarked: str | None
    caps: Caps
    owner: str
    names: list[str] = field(default_factory=list)
    group: str | None = None
    closed: list[str] = field(default_factory=list)

    @property
    def who(self) -> str:
        """Who can run the python, in words."""
        them = f'every member of {self.group}' if self.group else 'every account'
        return them + (f' that can enter {", ".join(self.closed)}' if self.closed else '')


def parsed(text: str) -> Caps:
    """Capability text, or a bare list of capabilities, which are then permitted and effective."""
    if set(text) & set('=+-'):
        return Caps(text)
    members = CapSet.all() if text.lower() == 'all' else CapSet(text)
    return Caps(effective=members, permitted=members)


def mark(directory: str | os.PathLike[str], caps: Caps, group: str | None = None) -> Environment:
    """Give a virtual environment's python capabilities, in a copy of its own.

    directory: the environment.  Marking it again renews the copy, as an upgrade asks for.
    caps: what the copy is marked with.
    group: only its members may run the copy; by default everyone.
    Raises VenvError, and nothing is changed, where the copy would be outside the environment or
    cannot run with these capabilities; see capabilities(7), "File capabilities".
    """
    gid = _group_id(group)
    with _opened(directory) as (path, bin_):
        if os.fstatvfs(bin_).f_flag & os.ST_NOSUID:
            raise VenvError(f'{path} is on a nosuid mount, where file capabilities mean nothing')
        _require_member(path, bin_, gid)
        name = _python(path, bin_)
        link = _link(bin_, name)
        has_origin = link is None and _link(bin_, name + UNMARKED) is not None
        source = name + UNMARKED if has_origin else name
        content = _content(path, bin_, source, gid)
        temporary = f'.{name}.{secrets.token_hex(8)}'
        try:
            _write(bin_, temporary, content, gid, caps)
            _prove(path, bin_, temporary, gid, caps)
            if link is not None:
                _replace_link(bin_, link, name + UNMARKED)
            os.rename(temporary, name, src_dir_fd=bin_, dst_dir_fd=bin_)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=bin_)
            raise
        return _environment(path, bin_, name, caps, group)


def unmark(directory: str | os.PathLike[str]) -> Environment:
    """Put the symbolic link back; a python that was a copy before loses its capabilities.

    directory: the environment.
    Raises VenvError where its python is not marked.
    """
    with _opened(directory) as (path, bin_):
        name = _python(path, bin_)
        if _link(bin_, name) is not None:
            raise VenvError(f'{path}/bin/{name} is a symbolic link: it is not marked')
        if _link(bin_, name + UNMARKED) is not None:
            os.rename(name + UNMARKED, name, src_dir_fd=bin_, dst_dir_fd=bin_)
        else:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=bin_)
            try:
                Caps.remove(fd)
            except OSError as error:
                raise VenvError(f'{path}/bin/{name}: {error.strerror}') from None
            finally:
                os.close(fd)
        return _environment(path, bin_, name, Caps(), None)


@contextmanager
def _opened(directory: str | os.PathLike[str]) -> Iterator[tuple[str, int]]:
    """The real path of an environment, and its bin directory as the only way to touch it."""
    os.stat(directory)  # an empty path names nothing, and to realpath() the working directory
    path = os.path.realpath(directory)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    top = os.open(path, flags)
    try:
        if not _is_file(top, 'pyvenv.cfg'):
            raise VenvError(f'{path} is not a virtual environment: it has no pyvenv.cfg')
        try:
            bin_ = os.open('bin', flags, dir_fd=top)
        except OSError as error:
            linked = error.errno in (errno.ELOOP, errno.ENOTDIR)
            reason = 'is no directory of the environment' if linked else error.strerror
            raise VenvError(f'{path}/bin {reason}') from None
        try:
            yield path, bin_
        except PermissionError as error:
            mend = ': run this with sudo' if os.geteuid() else ''
            raise VenvError(f'{path}/bin: {error.strerror}{mend}') from None
        finally:
            os.close(bin_)
    finally:
        os.close(top)


def _is_file(directory: int, name: str) -> bool:
    try:
        mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return False
    return stat.S_ISREG(mode)


def _link(directory: int, name: str) -> str | None:
    """What a symbolic link says; None for any other file and for none."""
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):
            return None
        raise


def _last(bin_: int, name: str) -> str:
    """Where links from name to name within the directory end."""
    for _ in range(40):  # as many as the kernel follows
        target = _link(bin_, name)
        if target is None or '/' in target:
            return name
        name = target
    return name


def _python(path: str, bin_: int) -> str:
    """The name of the file that is the environment's python, or of the link that leads out."""
    for start in 'python', 'python3':
        name = _last(bin_, start)
        if _link(bin_, name) is not None or _is_file(bin_, name):
            return name
    raise VenvError(f'{path}/bin has no python')


def _group_id(group: str | None) -> int | None:
    try:
        return None if group is None else grp.getgrnam(group).gr_gid
    except KeyError:
        raise VenvError(f'there is no group {group!r}') from None


def _require_member(path: str, bin_: int, gid: int | None) -> None:
    """Refuse an environment whose owner's code would be the first to run in the group's name."""
    uid = os.fstat(bin_).st_uid
    if gid is None or uid in (0, os.geteuid()):
        return
    with suppress(KeyError):
        owner = pwd.getpwuid(uid)
        if gid in os.getgrouplist(owner.pw_name, owner.pw_gid):
            return
    group = grp.getgrgid(gid).gr_name
    raise VenvError(f'{path} runs code of {user_name(uid)}, who is no member of {group}')


def _accounts(bin_: int, gid: int | None) -> Iterator[dict[str, Any]]:
    """Who may start what is in an environment, or read what its links lead to: never root.

    The environment's owner may put anything in the place of anything.
    """
    if os.geteuid():
        yield {}
        return
    owner = os.fstat(bin_)
    for uid, own in (NOBODY, NOBODY), (owner.st_uid, owner.st_gid):
        if uid:
            yield {'user': uid, 'group': own if gid is None else gid, 'extra_groups': []}


def _run(argv: list[str], account: dict[str, Any]) -> subprocess.CompletedProcess[bytes]:
    nothing = subprocess.DEVNULL
    return subprocess.run(
        argv, cwd='/', env={}, stdin=nothing, capture_output=True, timeout=60, **account
    )


def _content(path: str, bin_: int, name: str, gid: int | None) -> bytes:
    """The program that a name in an environment stands for."""
    program = f'{path}/bin/{name}'
    try:
        uid = os.stat(name, dir_fd=bin_).st_uid
    except OSError as error:
        raise VenvError(f'{program} leads to no program: {error.strerror}') from None
    if uid not in (0, os.geteuid(), os.fstat(bin_).st_uid):
        raise VenvError(f'{program} leads to a program of {user_name(uid)}')
    reason = ''
    for account in _accounts(bin_, gid):
        done = _run(['cat', '--', program], account)
        if done.returncode == 0:
            if done.stdout[:4] != b'\x7fELF':
                raise VenvError(f'{program} leads to no program: the kernel would ignore its mark')
            return done.stdout
        reason = f'{program} cannot be copied: {os.fsdecode(done.stderr).strip()}'
    if (closed := _closed(path)) and not os.fstat(bin_).st_uid:
        reason = f'no account that may run it can enter {", ".join(closed)}'
    raise VenvError(reason)


def _write(bin_: int, name: str, content: bytes, gid: int | None, caps: Caps) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with open(os.open(name, flags, 0o600, dir_fd=bin_), 'wb') as file:
        file.write(content)
        file.flush()  # writing and chown take capabilities away
        os.fchown(file.fileno(), -1, -1 if gid is None else gid)
        os.fchmod(file.fileno(), 0o755 if gid is None else 0o750)
        try:
            caps.apply(file.fileno())
        except PermissionError:
            raise
        except OSError as error:
            raise VenvError(f'{error.strerror}') from None


def _replace_link(bin_: int, target: str, name: str) -> None:
    with suppress(FileNotFoundError):
        if _link(bin_, name) is None and _is_file(bin_, name):
            raise VenvError(f'{name} is in the way: it is no link')
        os.unlink(name, dir_fd=bin_)
    os.symlink(target, name, dir_fd=bin_)


def _prove(path: str, bin_: int, name: str, gid: int | None, caps: Caps) -> None:
    """Run the copy under its temporary name."""
    what, reason = f'a copy of {path}/bin/python', ''
    for account in _accounts(bin_, gid):
        try:
            done = _run([f'{path}/bin/{name}', '-I', '-c', PROOF], account)
        except OSError as error:
            reason = f'{what} cannot run: {error.strerror}'
            if error.errno == errno.EACCES:  # a directory on the way is closed to the account
                continue
            if error.errno == errno.EPERM and (missing := _missing(caps)):
                reason += f'; the bounding set lacks {missing}'
            raise VenvError(reason) from None
        except subprocess.SubprocessError as error:
            raise VenvError(f'{what} cannot run: {error}') from None
        _check(path, os.fsdecode(done.stdout), os.fsdecode(done.stderr), caps)
        return
    raise VenvError(reason)


def _missing(caps: Caps) -> CapSet:
    return caps.permitted - IAB.from_process().bounding


def _check(path: str, output: str, errors: str, caps: Caps) -> None:
    what = f'a copy of {path}/bin/python'
    if not output:
        raise VenvError(f'{what} cannot run: {errors.strip()}')
    if not output.startswith(f'{path}\n'):
        raise VenvError(f'{what} takes {output.splitlines()[0]} for its environment')
    permitted = CapSet.from_mask(int(output.split('\nCapPrm:')[1].split()[0], 16))
    if missing := caps.permitted - permitted:
        raise VenvError(f'{what} does not get {missing} when it runs')


def _closed(path: str) -> list[str]:
    """The directories on the way to an environment's python that not everyone may enter."""
    way = f'{path}/bin'
    found = []
    while way != '/':
        if not os.stat(way).st_mode & stat.S_IXOTH:
            found.append(way)
        way = os.path.dirname(way)
    return found[::-1]


def _environment(path: str, bin_: int, name: str, caps: Caps, group: str | None) -> Environment:
    unmarked = name + UNMARKED if _link(bin_, name + UNMARKED) is not None else None
    names = sorted(each for each in os.listdir(bin_) if _last(bin_, each) == name)
    return Environment(
        directory=path,
        python=f'{path}/bin/{name}',
        unmarked=unmarked and f'{path}/bin/{unmarked}',
        caps=caps,
        names=names,
        owner=user_name(os.fstat(bin_).st_uid),
        group=group,
        closed=_closed(path),
    )
