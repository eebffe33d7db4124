"""A manifest of marks: made from what is there, compared with it, and brought back.

Bringing a mark back is a grant, so it happens only to the file that was meant: regular, root's or
the recorded owner's, in directories that only these two can change, under one name, with the
content that is recorded here or by its package manager.  All that is judged and changed is one
descriptor, to whose file nobody can write meanwhile.
"""

import errno
import grp
import hashlib
import os
import re
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from caps import Caps
from caps.accounts import id_of, user_name
from caps.admin.installation import recorded
from caps.admin.manifest_text import Listed, Manifest, merged, read_into
from caps.admin.opening import opened_file, without_writers
from caps.admin.rewriting import replace, rewriting
from caps.admin.transaction import AdminError, transaction
from caps.system.find import find
from caps.system.launcher import LAUNCHER_CAPS
from caps.system.look import look_at
from caps.system.meaning import amounts_to_root
from caps.system.packages import recorded_digests

__all__ = ['Drift', 'Refusal', 'check', 'merged', 'read', 'restore', 'save', 'survey']

PathText = str | os.PathLike[str]
PLACE = '/etc/caps/manifest'
PPY = re.compile(r'(.*)/(?:bin/([^/]+)|libexec/([^/]+)-[a-z0-9_]{8}/[^/]+)', re.DOTALL)
LINE = 1 << 21  # bytes, which is more than a line may have
TITLE = '# What carries capabilities here. See "caps manifest --help".\n'


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
    listed: Listed | None
    reason: str
    actual: Caps | None = None
    refusal: str | None = None

    @property
    def amounts_to_root(self) -> bool:
        """Whether what is, or is to be, makes whoever runs the file root, or nearly so."""
        listed = None
        with suppress(ValueError):  # text for another kernel
            listed = self.listed and self.listed.caps
        return any(amounts_to_root(self.path, caps) for caps in (listed, self.actual) if caps)


# ---- save ----


def survey(directories: Iterable[PathText]) -> tuple[Manifest, list[OSError]]:
    """What carries capabilities below directories, and what could not be looked at."""
    manifest = Manifest(searched=[os.path.abspath(directory) for directory in directories])
    problems: list[OSError] = []
    contents: dict[str, tuple[str, str]] = {}
    for directory in manifest.searched:
        findings = find(directory)
        problems += findings.problems
        for path, _ in _without_ppy(findings.files):
            try:
                with look_at(path) as look, look.opened() as fd:
                    if fd is None:
                        raise PermissionError(errno.EACCES, 'cannot be read', path)
                    caps = Caps.from_file(fd)
                    if not caps.marked:  # its owner has another file there by now
                        continue
                    contents[path] = _digest(fd, 'md5'), _digest(fd, 'sha256')
                    info, mode = look.info, stat.S_IMODE(look.info.st_mode)
            except FileNotFoundError:  # gone meanwhile
                continue
            except OSError as error:
                problems.append(OSError(error.errno, error.strerror, path))
                continue
            names = user_name(info.st_uid), _group_name(info.st_gid)
            manifest.files[path] = Listed(path, str(caps), *names, mode, caps.root_id)
    recorded = recorded_digests(manifest.files)
    for path, listed in manifest.files.items():
        md5, sha256 = contents[path]
        listed.sha256 = None if recorded.get(path) == md5 else sha256
    return manifest, problems


def _without_ppy(files: Iterable[tuple[str, Caps]]) -> Iterator[tuple[str, Caps]]:
    """Files but for those of an installed ppy, which each installation writes anew and proves."""
    for path, caps in files:
        if not _is_of_ppy(path, caps):
            yield path, caps


def _is_of_ppy(path: str, caps: Caps) -> bool:
    match = PPY.fullmatch(path)
    if match is None:
        return False
    prefix, launcher, copy = match.groups()
    with suppress(AdminError, OSError):
        installation = recorded(prefix or '/', launcher or copy or '')
        if installation is None or os.lstat(installation.ppy).st_uid:
            return False
        if launcher:
            return path == installation.ppy and caps == LAUNCHER_CAPS
        is_harmless = not caps.permitted and not caps.effective
        return is_harmless and os.path.dirname(path) in installation.stages()
    return False


def save(manifest: Manifest, file: PathText) -> None:
    """Merge what was found into a file, whose other lines stay, and which is never half written."""
    path = os.path.abspath(file)
    if path == PLACE:
        with suppress(FileExistsError):
            os.mkdir(os.path.dirname(path), 0o755)
    with rewriting(path) as (place, name):
        owner, mode, lines = (-1, -1), 0o644, [TITLE.encode()]
        with suppress(FileNotFoundError), _opened_manifest(path) as (_, fd):
            info, lines = os.fstat(fd), [*_lines(fd)]
            owner, mode = (info.st_uid, info.st_gid), stat.S_IMODE(info.st_mode)
        content = ''.join(f'{line}\n' for line in merged(lines, path, manifest)).encode()
        replace(place, name, content, owner, mode)


@contextmanager
def _opened_manifest(path: str) -> Iterator[tuple[str, int]]:
    """A manifest that root, or who runs this, alone can change; FileNotFoundError for none."""
    os.lstat(path)
    with opened_file(path, os.geteuid()) as (path, fd):
        info = os.fstat(fd)
        if info.st_uid not in (0, os.geteuid()):
            raise AdminError(f'{path} belongs to {user_name(info.st_uid)}, who could grant by it')
        if info.st_mode & 0o022:
            raise AdminError(f'{path} can be written by others, who could grant by it: chmod go-w')
        yield path, fd


def _lines(fd: int) -> Iterator[bytes]:
    with open(os.dup(fd), 'rb') as file:
        yield from iter(lambda: file.readline(LINE), b'')


# ---- check and restore ----


def read(files: Collection[PathText], *, is_trusted: bool) -> Manifest:
    """One manifest of several files; by default of /etc/caps/manifest and /etc/caps/manifest.d.

    is_trusted: whether it is to be acted on, so that each must be root's alone
    Raises ManifestError for a line that is not understood, and AdminError or OSError.
    """
    manifest = Manifest()
    for path in [os.path.abspath(file) for file in files] or places():
        if is_trusted:
            with _opened_manifest(path) as (_, fd):
                read_into(manifest, _lines(fd), path)
        else:
            with open(path, 'rb') as file:
                read_into(manifest, _lines(file.fileno()), path)
    return manifest


def places() -> list[str]:
    """The manifests of this machine."""
    names: list[str] = []
    with suppress(FileNotFoundError):
        names = sorted(os.listdir(f'{PLACE}.d'))
    parts = [f'{PLACE}.d/{name}' for name in names if name[0] != '.' and name[-1] != '~']
    found = [PLACE] * os.path.lexists(PLACE) + parts
    if not found:
        raise AdminError(f'there is no {PLACE}: caps manifest save /usr --into {PLACE}')
    return found


def check(manifest: Manifest) -> tuple[list[Drift], list[OSError]]:
    """What is not as listed, first what amounts to root, and what could not be looked at."""
    drifts = [*_each(manifest, is_acting=False)]
    problems: list[OSError] = []
    for directory in manifest.searched:
        try:
            findings = find(directory)
        except OSError as error:
            problems.append(OSError(error.errno, error.strerror, directory))
            continue
        problems += findings.problems
        for path, caps in _without_ppy(findings.files):
            if path not in manifest.files:
                drifts.append(Drift('unexpected', path, None, f'has {shown(caps)}', caps))
    return in_order(drifts), problems


def restore(manifest: Manifest, *, is_dry: bool = False) -> list[Drift]:
    """Bring back what is not as listed, or with `is_dry` say what would be.

    Returns what was brought back, and with a `refusal` what was not, first what amounts to root.
    """
    if os.geteuid() and not is_dry:
        raise AdminError('this needs root: run it with sudo')
    return in_order(_each(manifest, is_acting=not is_dry))


def in_order(drifts: Iterable[Drift]) -> list[Drift]:
    """First what amounts to root."""
    return sorted(drifts, key=lambda drift: (not drift.amounts_to_root, drift.path))


def _each(manifest: Manifest, *, is_acting: bool) -> Iterator[Drift]:
    listed = manifest.files.values()
    there = (file.path for file in listed if not file.sha256 and os.path.lexists(file.path))
    recorded = recorded_digests(there)
    for file in listed:
        drift = _look(file, recorded.get(file.path), is_acting)
        if drift:
            yield drift


def _look(listed: Listed, md5: str | None, is_acting: bool) -> Drift | None:
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
        ids = id_of('user', _account(listed.owner)), id_of('group', _account(listed.group))
        with opened_file(listed.path, ids[0], Refusal) as (_, fd), ExitStack() as held:
            is_disturbed = _hold(fd, ids[0], held) if is_acting else None
            flaw = _content_flaw(listed, fd, md5)
            drift.actual = Caps.from_file(fd)
            drift.kind, drift.reason = _difference(listed, os.fstat(fd), ids, drift.actual, flaw)
            _judge(listed, os.fstat(fd), ids, flaw)
            if not drift.reason:
                return None
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


def _account(name: str) -> str | int:
    return int(name) if name.isdecimal() else name


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


def _content_flaw(listed: Listed, fd: int, md5: str | None) -> str | None:
    """Why what a file holds is not what was meant."""
    if listed.sha256:
        return None if _digest(fd, 'sha256') == listed.sha256 else 'has other content than listed'
    if md5:
        return None if _digest(fd, 'md5') == md5 else "has other content than its package's"
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
        ('group', _group_name(info.st_gid), listed.group if info.st_gid != ids[1] else None),
        ('mode', f'{stat.S_IMODE(info.st_mode):o}', f'{listed.mode:o}'),
    ):
        if wanted not in (None, has):
            reasons.append(f'{name} {has}, not {wanted}')
    if flaw and (listed.sha256 or 'other content' in flaw):
        reasons.append(flaw)
    kind = 'changed' if actual.marked else 'lost'
    return (kind if reasons else 'unsafe'), '; '.join(reasons)


def _judge(listed: Listed, info: os.stat_result, ids: tuple[int, int], flaw: str | None) -> None:
    """Refuse a file to which the mark would be more than it was."""
    listed.caps  # noqa: B018, which this kernel has to know
    if info.st_uid not in (0, ids[0]):
        raise Refusal(f'belongs to {user_name(info.st_uid)}, not to {listed.owner} or root')
    if info.st_nlink > 1:
        raise Refusal('has several hard links, one of which may be where others can change it')
    if (info.st_mode | listed.mode) & 0o022:
        raise Refusal('others than its owner can write to it: chmod go-w')
    if listed.mode & 0o6000 and (listed.mode & ~info.st_mode & 0o6000 or info.st_uid != ids[0]):
        raise Refusal('set-user-ID and set-group-ID are not brought back: chmod')
    if flaw:
        raise Refusal(flaw)


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


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _digest(fd: int, algorithm: str) -> str:
    digest, place = hashlib.new(algorithm, usedforsecurity=False), 0
    while part := os.pread(fd, 1 << 20, place):
        digest.update(part)
        place += len(part)
    return digest.hexdigest()
