"""Manifests on the disk: which there are, read where they can be trusted, and added to."""

import os
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress

from caps.accounts import user_name
from caps.admin.manifest_text import Manifest, merged, read_into
from caps.admin.opening import opened_file
from caps.admin.rewriting import replace, rewriting
from caps.admin.transaction import AdminError

PathText = str | os.PathLike[str]
PLACE = '/etc/caps/manifest'
LINE = 1 << 21  # bytes, which is more than a line may have
TITLE = '# What carries capabilities here. See "caps manifest --help".\n'


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
