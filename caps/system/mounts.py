"""The mount that a file is on."""

import os
import re

from caps.proc import read
from caps.system.records import dataclass


@dataclass(frozen=True)
class Mount:
    """The mount that a file is on.

    point: the directory where it is mounted; None in another mount namespace
    kind: of the file system
    nosuid, noexec: see mount(8)
    idmapped: whether it shows the owners of its files as others; see mount_setattr(2)
    """

    point: str | None
    kind: str
    nosuid: bool
    noexec: bool
    idmapped: bool = False


def mount_of(descriptor: int) -> Mount:
    """The mount of an open file."""
    number = _mount_id(descriptor)
    for line in read('/proc/self/mountinfo').split('\n'):
        words = line.split(' ')
        if words[0] == number:
            options = words[5].split(',')
            point = re.sub(r'\\(\d{3})', lambda match: chr(int(match[1], 8)), words[4])
            kind = words[words.index('-') + 1]
            said = [name in options for name in ('nosuid', 'noexec', 'idmapped')]
            return Mount(point, kind, *said)
    flags = os.fstatvfs(descriptor).f_flag
    noexec = bool(flags & os.ST_NOEXEC)
    root = os.open('/', os.O_PATH | os.O_CLOEXEC)
    try:
        if _mount_id(root) == number:  # chroot(2) into a directory that is no mount point
            return Mount('/', 'unknown', bool(flags & os.ST_NOSUID), noexec)
    finally:
        os.close(root)
    return Mount(None, 'unknown', True, noexec)


def _mount_id(descriptor: int) -> str:
    return read(f'/proc/self/fdinfo/{descriptor}').split('mnt_id:')[1].split()[0]
