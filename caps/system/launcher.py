"""What an installed ppy is: its usual place, its capabilities, and the record in its program."""

import errno
import os
import struct
from contextlib import suppress

from caps import Caps, CapSet
from caps.system.look import look_at, part
from caps.system.records import dataclass

PREFIX = '/usr/local'
NAME = 'ppy'
LAUNCHER_CAPS = Caps('cap_setgid,cap_setuid,cap_setpcap,cap_dac_override=ep')
MAGIC = b'caps-ppy-record1'
RECORD = struct.Struct('=16sI4096s4096s')  # whatever can be opened is shorter than PATH_MAX
ALLOW_ROOT = 1
SIZE = 1 << 24  # no ppy is larger


@dataclass(frozen=True)
class Record:
    """What the installer writes into a ppy: flags, and the paths of its two interpreters."""

    flags: int
    capped: str
    original: str


def read_record(path: str) -> Record | None:
    """The record of an installed ppy; None for any other file, and for none.

    Raises OSError where the file may not be read.
    """
    absent = suppress(FileNotFoundError, NotADirectoryError)
    with absent, look_at(path) as look, look.opened() as fd:
        if fd is None and look.is_regular:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        if fd is not None and look.info.st_size <= SIZE:
            return record_in(part(fd, SIZE))
    return None


def record_in(program: bytes) -> Record | None:
    """The record in the bytes of a ppy; None where there is none."""
    start = program.find(MAGIC)
    if start < 0 or len(program) < start + RECORD.size:
        return None
    _, flags, capped, original = RECORD.unpack_from(program, start)
    return Record(flags, os.fsdecode(capped.rstrip(b'\0')), os.fsdecode(original.rstrip(b'\0')))


def means_all(allowed: CapSet) -> bool:
    """Whether these are all capabilities of this kernel, or of an older one: 3.16 had 38."""
    return allowed.mask.bit_length() >= 38 and not allowed.mask & (allowed.mask + 1)
