"""ELF programs: what their loader finds for them, and what it would not; see elf(5), ld.so(8).

Anybody may have written what is read here: no more is read than a program made by a linker has.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice

from caps.system.look import part
from caps.system.records import dataclass

MAGIC = b'\x7fELF'
HEADERS = 64  # of a program; linkers make about a dozen
ENTRIES = 4096  # of the dynamic section
NAMES = 256  # of libraries, and directories to look for them in
NAME = 4096  # PATH_MAX
LIBRARIES = '/lib', '/usr/lib', '/lib64', '/usr/lib64'
MUSL_LIBRARIES = '/lib', '/usr/local/lib', '/usr/lib'
PT_LOAD, PT_DYNAMIC, PT_INTERP = 1, 2, 3
DT_NULL, DT_NEEDED, DT_STRTAB, DT_RPATH, DT_RUNPATH = 0, 1, 5, 15, 29


@dataclass(frozen=True)
class Elf:
    """What an ELF program tells its loader.

    loader: its path, empty for a static program
    needed: the names of libraries
    search: the directories that the program itself names for them
    """

    loader: str
    needed: tuple[str, ...]
    search: tuple[str, ...]


def read_elf(fd: int) -> Elf | None:
    """What an ELF program tells its loader; None for a malformed one.

    fd: a descriptor of a file that begins with `MAGIC`.
    """
    with suppress(struct.error, ValueError, StopIteration):
        return _read(fd)
    return None


def _read(fd: int) -> Elf:
    head = part(fd, 64)
    is_wide, order = head[4:5] == b'\2', '<' if head[5:6] == b'\1' else '>'
    word = 'Q' if is_wide else 'I'
    (start,) = struct.unpack_from(order + word, head, 32 if is_wide else 28)
    size, count = struct.unpack_from(f'{order}HH', head, 54 if is_wide else 42)
    header = struct.Struct(f'{order}II4Q' if is_wide else f'{order}5I')
    table = part(fd, size * min(count, HEADERS), start) if start < 1 << 62 else b''
    segments = []
    for place in range(0, len(table), max(size, header.size)):
        kind, *rest = header.unpack_from(table, place)
        offset, address, _, length = rest[1:] if is_wide else rest
        segments.append((kind, offset, address, length))

    def text(offset: int) -> str:
        return os.fsdecode(part(fd, NAME, offset).partition(b'\0')[0])

    loaders = [text(offset) for kind, offset, _, _ in segments[:HEADERS] if kind == PT_INTERP]
    dynamic = [segment for segment in segments if segment[0] == PT_DYNAMIC]
    tags: dict[int, list[int]] = {}
    if dynamic:
        _, offset, _, length = dynamic[0]
        pair = struct.Struct(f'{order}2{word}')
        section = part(fd, min(length, ENTRIES * pair.size), offset)
        for tag, value in pair.iter_unpack(section[: len(section) // pair.size * pair.size]):
            if tag == DT_NULL:
                break
            tags.setdefault(tag, []).append(value)
    if DT_STRTAB not in tags:
        return Elf(loaders[0] if loaders else '', (), ())
    [strings, *_] = tags[DT_STRTAB]
    base = next(
        strings - address + offset
        for kind, offset, address, length in segments
        if kind == PT_LOAD and address <= strings < address + length
    )

    def names(tag: int) -> Iterator[str]:
        return (text(base + value) for value in islice(tags.get(tag, ()), NAMES))

    search = [path for value in names(DT_RUNPATH) for path in value.split(':')]
    search = search or [path for value in names(DT_RPATH) for path in value.split(':')]
    loader = loaders[0] if loaders else ''
    return Elf(loader, tuple(names(DT_NEEDED)), tuple(search[:NAMES]))


def vanishing_libraries(elf: Elf, origin: str, environ: Mapping[str, str]) -> list[str]:
    """Libraries that the dynamic loader finds for a program, but not in secure execution.

    Then it ignores LD_LIBRARY_PATH, and $ORIGIN in what the program names; see ld.so(8).
    origin: the directory that the program is in.
    """
    safe = [path for path in elf.search if path.startswith('/')]
    unsafe = [
        re.sub(r'\$(ORIGIN|\{ORIGIN\})', lambda _: origin, path)
        for path in elf.search
        if '$' in path
    ]
    unsafe += environ.get('LD_LIBRARY_PATH', '').replace(';', ':').split(':')
    safe += MUSL_LIBRARIES if 'musl' in elf.loader else LIBRARIES
    try:
        with open('/etc/ld.so.cache', 'rb') as file:
            cache = file.read()
    except OSError:
        cache = b''

    def is_in(directories: list[str], name: str) -> bool:
        return any(path and os.path.exists(os.path.join(path, name)) for path in directories)

    return [
        name
        for name in elf.needed
        if b'/' + os.fsencode(name) + b'\0' not in cache
        and not is_in(safe, name)
        and is_in(unsafe, name)
    ]
