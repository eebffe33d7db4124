"""The attribute of a marked file: what the kernel writes, and what only a damaged file has."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support import run

ATTRIBUTE = 'security.capability'
EFFECTIVE, V1, V2, V3 = 1, 0x01000000, 0x02000000, 0x03000000
COUNTED = bytes(range(1, 41))
ATTRIBUTES = {
    f'version-{version}-of-{length}-bytes': (struct.pack('<I', magic) + COUNTED)[:length]
    for version, magic in enumerate((V1, V2 | EFFECTIVE, V3), 1)
    for length in range(41)
} | {
    f'magic-{magic:08x}-of-{length}-bytes': struct.pack('<I', magic) + COUNTED[4:length]
    for magic in (0, EFFECTIVE, 2, V2 | 2, V3 | 0x80, 0x04000000, 0xFF000000, 0xFFFFFFFF)
    for length in (12, 20, 24)
}
WELL_FORMED = {
    'version-2-of-20-bytes': 0,
    'version-3-of-24-bytes': int.from_bytes(COUNTED[16:20], 'little'),
}
SPARE = {'to-be-replaced': b'', 'to-be-removed': COUNTED}


@contextmanager
def mounted_image(scratch: Path) -> Iterator[Path]:
    """A mounted file system with a file for each attribute."""
    root, values, mounted = (scratch / name for name in ('root', 'values', 'mounted'))
    for directory in root, values, mounted:
        directory.mkdir()
    commands = []
    for name, value in (ATTRIBUTES | SPARE).items():
        (root / name).touch()
        (values / name).write_bytes(value)
        commands.append(f'ea_set -f {values / name} /{name} {ATTRIBUTE}\n')
    (scratch / 'commands').write_text(''.join(commands))
    file = scratch / 'file'
    for command in (
        ['truncate', '-s', '4M', file],
        ['mkfs.ext4', '-q', '-I', '256', '-N', '512', '-d', root, file],
        ['debugfs', '-w', '-f', scratch / 'commands', file],
        ['mount', '-o', 'loop', file, mounted],
    ):
        result = run(*command)
        assert result.returncode == 0, result.stderr
    try:
        yield mounted
    finally:
        result = run('umount', mounted)
        assert result.returncode == 0, result.stderr
