"""What an installed ppy is: its usual place, its capabilities, and the record in its program."""

import os
import stat
import struct

from caps import Caps, CapSet

PREFIX = '/usr/local'
NAME = 'ppy'
LAUNCHER_CAPS = Caps('cap_setgid,cap_setuid,cap_setpcap,cap_dac_override=ep')
MAGIC = b'caps-ppy-record1'
RECORD = struct.Struct('=16sI4096s4096s')  # whatever can be opened is shorter than PATH_MAX
ALLOW_ROOT = 1
SIZE = 1 << 25  # more than any ppy has


def read_record(path: str) -> tuple[int, str, str] | None:
    """Flags, capped copy and original interpreter of a ppy; None for any other file."""
    content = _content(path)
    start = content.find(MAGIC)
    if start < 0 or len(content) < start + RECORD.size:
        return None
    _, flags, capped, original = RECORD.unpack_from(content, start)
    return flags, os.fsdecode(capped.rstrip(b'\0')), os.fsdecode(original.rstrip(b'\0'))


def _content(path: str) -> bytes:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return b''
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return b''
    with open(fd, 'rb') as file:
        return file.read(SIZE) if stat.S_ISREG(os.fstat(fd).st_mode) else b''


def means_all(allowed: CapSet) -> bool:
    """Whether these are all capabilities of this kernel, or of an older one: 3.16 had 38."""
    return allowed.mask.bit_length() >= 38 and not allowed.mask & (allowed.mask + 1)
