"""One listed file: how it is not as listed, and brought back.

Bringing a mark back is a grant, so it happens only to the file that was meant: regular, root's or
the recorded owner's, in directories that only these two can change, under one name, with the
content that is recorded here or by its package manager.  All that is judged and changed is one
descriptor, to whose file nobody can write meanwhile.
"""

import hashlib
import os
import stat
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from caps import Caps
from caps.accounts import group_name, user_name
from caps.admin.listed import Listed, ListedCopy
from caps.admin.opening import opened_file, without_writers
from caps.admin.transaction import AdminError, transaction
from caps.system.meaning import amounts_to_root
from caps.system.mounts import mount_of
from caps.system.packages import Digest


class Refusal(AdminError):
    """The rule by which a mark is not brought back."""


@dataclass
class Drift:
    """How a file is not as it is listed.

    kind: lost (no mark), changed, missing, unsafe (others could change the file), unexpected, or
        unknown (this account may not look)
    path: where it is
    listed: as it is to be; None where it is not listed
    reason: in words
    actual: its capabilities; None where they are not known
    refusal: why it is not brought back; None where it is, or would be
    """

    kind: str
    path: str
    listed: Listed | ListedCopy | None
    reason: str
    actual: Caps | None = None
    refusal: str | None = None

    @property
    def amounts_to_root(self) -> bool:
        """Whether running the file amounts to being root, as it is or as it is listed."""
        listed = None
        with suppress(ValueError):  # text for another kernel
            listed = self.listed and self.listed.caps
        return any(amounts_to_root(self.path, caps) for caps in (listed, self.actual) if caps)


def look(listed: Listed, recorded: Digest | None, is_acting: bool) -> Drift | None:
    """How a file is not as listed; where `is_acting` it is brought back."""
    try:
        os.lstat(listed.path)
    except (FileNotFoundError, NotADirectoryError):
        return Drift('missing', listed.path, listed, 'is not there', refusal='is not there')
    except OSError as error:
        return Drift('unknown', listed.path, listed, reason := f'{error.strerror}', refusal=reason)
    if os.geteuid() and not os.access(listed.path, os.R_OK):
        reason = 'only root can look at it: run this with sudo'
        return Drift('unknown', listed.path, listed, reason, refusal=reason)
    drift = Drift('unsafe', listed.path, listed, '')
    try:
        ids = listed.ids
        with opened_file(listed.path, ids[0], Refusal) as (_, fd), ExitStack() as held:
            is_disturbed = _hold(fd, ids[0], held) if is_acting else None
            flaw = _content_flaw(listed, fd, recorded)
            drift.actual = Caps.from_file(fd)
            drift.kind, drift.reason = _difference(listed, os.fstat(fd), ids, drift.actual, flaw)
            _judge(listed, os.fstat(fd), ids, flaw)
            if mount_of(fd).idmapped and not _is_contained():
                raise Refusal("is on an idmapped mount, which shows it as somebody else's")
            if not drift.reason:
                return None
            if os.fstatvfs(fd).f_flag & os.ST_RDONLY:
                raise Refusal('is on a read-only file system')
            if is_disturbed:
                with transaction() as undo:
                    _change(fd, *ids, listed.mode, listed.caps, undo)
                    if is_disturbed():
                        raise Refusal('somebody opened it meanwhile to write to it')
    except (AdminError, LookupError, OSError, ValueError) as error:
        text = error.strerror if isinstance(error, OSError) and error.strerror else error
        drift.refusal = f'{text}'.removeprefix(f'{listed.path} ').removeprefix(f'{listed.path}: ')
        drift.reason = drift.reason or drift.refusal
    return drift


def _hold(fd: int, uid: int, held: ExitStack) -> Callable[[], bool]:
    """Keep others than root from writing to a file; says whether that has failed."""
    try:
        return held.enter_context(without_writers(fd))
    except BlockingIOError:
        raise Refusal('somebody has it open to write to it') from None
    except OSError as error:
        if uid or os.fstat(fd).st_uid:
            text = 'its owner could write to it meanwhile, since its file system has no leases'
            raise Refusal(f'{text}: {error.strerror}') from None
        return lambda: False


def _content_flaw(listed: Listed, fd: int, recorded: Digest | None) -> str | None:
    """Why the content of a file is not the one that was meant."""
    if listed.sha256:
        is_same = digest(fd, 'sha256') == listed.sha256
        return None if is_same else 'has other content than listed'
    if recorded:
        is_same = digest(fd, recorded.algorithm) == recorded.digits
        return None if is_same else "has other content than its package's"
    return 'is of no package that is wholly installed, and no sha256 is listed'


def _difference(
    listed: Listed, info: os.stat_result, ids: tuple[int, int], actual: Caps, flaw: str | None
) -> tuple[str, str]:
    """What is not as listed: a kind, unsafe where nothing is, and words."""
    try:
        is_same = bool(actual.marked) and actual == listed.caps
    except ValueError:
        is_same = False  # this kernel does not know what is listed
    reasons = [] if is_same else [f'has {shown(actual)}, not {listed.text}']
    for name, has, wanted in (
        ('owner', user_name(info.st_uid), listed.owner if info.st_uid != ids[0] else None),
        ('group', group_name(info.st_gid), listed.group if info.st_gid != ids[1] else None),
        ('mode', f'{stat.S_IMODE(info.st_mode):o}', f'{listed.mode:o}'),
    ):
        if wanted not in (None, has):
            reasons.append(f'{name} {has}, not {wanted}')
    if flaw and (listed.sha256 or 'other content' in flaw):
        reasons.append(flaw)
    kind = 'changed' if actual.marked else 'lost'
    return (kind if reasons else 'unsafe'), '; '.join(reasons)


def _judge(listed: Listed, info: os.stat_result, ids: tuple[int, int], flaw: str | None) -> None:
    """Refuse a file for which the mark would be more than it was."""
    listed.caps  # noqa: B018, which this kernel has to know
    if info.st_uid not in (0, ids[0]):
        raise Refusal(f'belongs to {user_name(info.st_uid)}, not to {listed.owner} or root')
    if info.st_nlink > 1:
        raise Refusal('has several hard links, one of which may be where others can change it')
    if (info.st_mode | listed.mode) & 0o022:
        raise Refusal('users other than its owner can write to it: chmod go-w')
    if listed.mode & 0o6000 and (listed.mode & ~info.st_mode & 0o6000 or info.st_uid != ids[0]):
        raise Refusal('set-user-ID and set-group-ID are not brought back: chmod')
    if flaw:
        raise Refusal(flaw)


def _is_contained() -> bool:
    """Whether this is a user namespace, in which an idmapped mount can be what all is on."""
    with open('/proc/self/uid_map') as file:
        return file.read().split() != ['0', '0', str(2**32 - 1)]


def _change(fd: int, uid: int, gid: int, mode: int, caps: Caps, undo: ExitStack) -> None:
    """Give an open file an owner, a group, permissions and last a mark, on the disk.

    undo: gets what brings back what was before
    """
    before, marked = os.fstat(fd), Caps.from_file(fd)
    if marked.marked:
        undo.callback(marked.apply, fd)
    undo.callback(os.fchmod, fd, stat.S_IMODE(before.st_mode))
    undo.callback(os.fchown, fd, before.st_uid, before.st_gid)
    os.fchown(fd, uid, gid)  # which takes mode bits and capabilities away
    os.fchmod(fd, mode)
    caps.apply(fd)
    if not marked.marked:
        undo.callback(Caps.remove, fd)
    os.fsync(fd)


def shown(caps: Caps) -> str:
    """Capabilities of a file in words."""
    if not caps.marked:
        return 'none'
    return f'{caps}' + (f' [rootid={caps.root_id}]' if caps.root_id else '')


def digest(fd: int, algorithm: str) -> str:
    digest, place = hashlib.new(algorithm, usedforsecurity=False), 0
    while part := os.pread(fd, 1 << 20, place):
        digest.update(part)
        place += len(part)
    return digest.hexdigest()
