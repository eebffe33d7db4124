"""ELF programs: what their loader finds for them, and what it would not; see elf(5), ld.so(8)."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path

from caps.system.files import SIZE, Executable

LIBRARIES = '/lib', '/usr/lib', '/lib64', '/usr/lib64'
MUSL_LIBRARIES = '/lib', '/usr/local/lib', '/usr/lib'


def vanishing_libraries(executable: Executable, environ: Mapping[str, str]) -> list[str]:
    """Libraries that the dynamic loader finds for a program, but not in secure execution.

    Then it ignores LD_LIBRARY_PATH, and $ORIGIN in what the program names; see ld.so(8).
    """
    try:
        data = Path(executable.path).read_bytes() if executable.size <= SIZE else b''
        loader, needed, named = _dynamic(data)
    except (OSError, ValueError, struct.error):
        return []
    origin = os.path.dirname(executable.real_path)
    safe = [path for path in named if path.startswith('/')]
    unsafe = [
        re.sub(r'\$(ORIGIN|\{ORIGIN\})', lambda _: origin, path) for path in named if '$' in path
    ]
    unsafe += environ.get('LD_LIBRARY_PATH', '').replace(';', ':').split(':')
    if 'musl' in loader:
        safe += MUSL_LIBRARIES
    else:
        safe += LIBRARIES
    try:
        cache = Path('/etc/ld.so.cache').read_bytes()
    except OSError:
        cache = b''

    def is_in(directories: list[str], name: str) -> bool:
        return any(path and os.path.exists(os.path.join(path, name)) for path in directories)

    return [
        name
        for name in needed
        if b'/' + os.fsencode(name) + b'\0' not in cache
        and not is_in(safe, name)
        and is_in(unsafe, name)
    ]


def _dynamic(data: bytes) -> tuple[str, list[str], list[str]]:
    """The loader, the needed libraries and the search path of an ELF file; see elf(5)."""
    if data[:4] != b'\x7fELF':
        raise ValueError('not an ELF file')
    is_wide, order = data[4] == 2, '<' if data[5] == 1 else '>'
    word = 'Q' if is_wide else 'I'
    (start,) = struct.unpack_from(order + word, data, 32 if is_wide else 28)
    size, count = struct.unpack_from(f'{order}HH', data, 54 if is_wide else 42)
    header = struct.Struct(f'{order}II4Q' if is_wide else f'{order}5I')
    segments = []
    for number in range(count):
        kind, *rest = header.unpack_from(data, start + number * size)
        offset, address, _, length = rest[1:] if is_wide else rest
        segments.append((kind, offset, address, length))

    def text(offset: int) -> str:
        return os.fsdecode(data[offset : data.index(b'\0', offset)])

    loader, entries = '', []
    for kind, offset, _, length in segments:
        if kind == 3:  # PT_INTERP
            loader = text(offset)
        if kind == 2:  # PT_DYNAMIC
            entries = list(struct.iter_unpack(f'{order}2{word}', data[offset : offset + length]))
    strings = [value for tag, value in entries if tag == 5]  # DT_STRTAB
    if not strings:
        return loader, [], []
    table = next(
        strings[0] - address + offset
        for kind, offset, address, length in segments
        if kind == 1 and address <= strings[0] < address + length  # PT_LOAD
    )
    needed = [text(table + value) for tag, value in entries if tag == 1]  # DT_NEEDED
    runpath = [text(table + value) for tag, value in entries if tag == 29]
    rpath = [text(table + value) for tag, value in entries if tag == 15]
    return loader, needed, [path for value in runpath or rpath for path in value.split(':')]
