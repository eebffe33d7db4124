"""The way from the root to a path: who owns each directory and who can change it."""

import os
import shlex
import stat
from collections.abc import Iterator
from contextlib import suppress

from caps.system.types import Process

NOBODY = 65534  # the kernel's overflow id


def strangers(directory: str, owner: int = 0) -> Iterator[str]:
    """How accounts other than root and one owner can change what a path without links leads to."""
    for path, info in way(directory):
        if not stat.S_ISDIR(info.st_mode):
            yield f'{path} is no directory'
        if info.st_uid == NOBODY:
            yield (
                f'{path} belongs to nobody, or to an account that this user namespace does not '
                'have: use another directory'
            )
        elif info.st_uid not in (0, owner):
            them = f'uid {owner} or root' if owner else 'root'
            yield f'{path} belongs to uid {info.st_uid}, not to {them}: use another directory'
        is_sticky = info.st_mode & stat.S_ISVTX
        is_open = info.st_mode & 0o022 and not (is_sticky and path != directory)
        if is_open and stat.S_ISDIR(info.st_mode):
            # What is sticky, such as /tmp, is to stay open.
            fix = 'use another directory' if is_sticky else f'chmod go-w {shlex.quote(path)}'
            yield f'users other than root can write to {path}: {fix}'


def way(directory: str) -> Iterator[tuple[str, os.stat_result]]:
    """The directories from the root to one, as far as they exist, looked at in this order."""
    paths = [directory.rstrip('/') or '/']
    while (above := os.path.dirname(paths[-1])) not in ('', paths[-1]):
        paths.append(above)
    for path in reversed(paths):
        with suppress(FileNotFoundError, NotADirectoryError):
            yield path, os.lstat(path)


def closed_directory(process: Process, path: str) -> str | None:
    """The first directory on the way to a file, by its real path, that a process may not search."""
    if process.effective & ['cap_dac_override', 'cap_dac_read_search']:
        return None
    for directory, info in way(os.path.dirname(path)):
        is_owner = info.st_uid == process.uid.effective
        bit = 0o100 if is_owner else 0o010 if info.st_gid in process.all_groups else 0o001
        if not info.st_mode & bit:
            return directory
    return None
