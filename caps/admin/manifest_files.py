"""Manifests on the disk: which there are, read where they can be trusted, and added to."""

import os
import re
import stat
import weakref
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import BytesIO
from typing import BinaryIO

from caps.accounts import user_name
from caps.admin.listed import Listed, ListedCopy, Manifest
from caps.admin.manifest_text import Said, lines_of, merged
from caps.admin.opening import opened_file
from caps.admin.rewriting import replace, rewriting
from caps.admin.transaction import AdminError

PathText = str | os.PathLike[str]
PLACE = '/etc/caps/manifest'
# What editors and package managers leave beside a file, by which a line that is gone would return.
LEFT = re.compile(
    r'^\.|~$|\.(dpkg-[a-z]+|ucf-[a-z]+|rpm(new|save|orig)|pac(new|save|orig)|apk-new|orig|bak|old)$'
)
LINE = 1 << 21  # bytes, which is more than a line may have
TITLE = '# What carries capabilities here. See "caps manifest --help".\n'


class ManifestFiles:
    """One manifest of several files, which are read again for each look, so that no line is kept.

    files: by default /etc/caps/manifest and /etc/caps/manifest.d
    is_trusted: whether they are to be acted on, so that each must be root's alone
    searched, copies: the directories that were searched, and what runs a copy of an interpreter
    Raises ManifestError for a line that is not understood, and AdminError or OSError.
    """

    def __init__(self, files: Collection[PathText], *, is_trusted: bool) -> None:
        self.searched: list[str] = []
        self.copies: dict[str, ListedCopy] = {}
        self._files: list[tuple[str, BinaryIO]] = []
        self._listed = set[int]()
        self._again = set[str]()
        held = ExitStack()
        weakref.finalize(self, held.close)
        for path in [os.path.abspath(file) for file in files] or places():
            self._files.append((path, held.enter_context(_opened(path, is_trusted))))
        for said in self._said():
            if isinstance(said, str):
                self.searched += [said] * (said not in self.searched)
            elif not isinstance(said, Listed):
                self.copies[said.path] = said
            elif said.path in self:
                self._again.add(said.path)
            else:
                self._listed.add(hash(said.path))

    def __contains__(self, path: str) -> bool:
        return hash(path) in self._listed

    def each(self) -> Iterator[Listed]:
        """The files; of two lines about one the later one counts."""
        last: dict[str, Listed] = {}
        for said in self._said():
            if isinstance(said, Listed):
                if said.path in self._again:
                    last[said.path] = said
                else:
                    yield said
        yield from last.values()

    def _said(self) -> Iterator[Said]:
        for path, file in self._files:
            file.seek(0)
            for _, said, _ in lines_of(iter(lambda: file.readline(LINE), b''), path):  # noqa: B023
                if said is not None:
                    yield said


def _opened(path: str, is_trusted: bool) -> BinaryIO:
    """A manifest that can be read several times."""
    if is_trusted:
        with _opened_manifest(path) as (_, fd):
            return open(os.dup(fd), 'rb')
    file = open(path, 'rb')  # noqa: SIM115
    if file.seekable():
        return file
    with file:
        return BytesIO(file.read())


def places() -> list[str]:
    """The manifests of this machine."""
    names: list[str] = []
    with suppress(FileNotFoundError):
        names = sorted(os.listdir(f'{PLACE}.d'))
    parts = [f'{PLACE}.d/{name}' for name in names if not LEFT.search(name)]
    paths = [PLACE] * os.path.lexists(PLACE) + parts
    if not paths:
        raise AdminError(f'there is no {PLACE}: caps manifest save /usr --into {PLACE}')
    return paths


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
    """A manifest that only root and this account can change; FileNotFoundError for none."""
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
