"""What package managers have recorded of the files that their packages own: digests.

The digest is compared with what a descriptor reads, so verifying a file and changing it are about
the same file.  A package that is not wholly installed verifies nothing, and a file of the
configuration, which the admin changes, is not verified.
"""

import gzip
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from caps.system.run import RunError, run_as

UNFINISHED = {'half-installed', 'unpacked', 'half-configured'}
MANY = 500  # arguments of one call
SIZE = 1 << 26  # bytes that it may print
MERGED = re.compile('/usr(/(?:bin|sbin|lib[^/]*)/.*)', re.DOTALL)
DPKG, RPM, PACMAN, APK = '/usr/bin/dpkg-query', '/usr/bin/rpm', '/usr/bin/pacman', '/sbin/apk'
# The numbers of OpenPGP, RFC 4880, "Hash Algorithms".
OPENPGP = {'1': 'md5', '2': 'sha1', '8': 'sha256', '9': 'sha384', '10': 'sha512', '11': 'sha224'}
RPM_CONFIG = 1
RPM_FILES = '[%{=FILEDIGESTALGO} %{FILEFLAGS} 0%{FILEDIGESTS} %{FILENAMES}\n]'
PACMAN_LOCAL = '/var/lib/pacman/local'


class Digest(NamedTuple):
    """Of the content of a file.

    algorithm: as hashlib names it
    digits: hexadecimal
    """

    algorithm: str
    digits: str


def recorded_digests(paths: Iterable[str]) -> dict[str, Digest]:
    """Of those paths that a package owns and verifies, what its manager has recorded."""
    names = {path: [*_names(path)] for path in paths}
    all_names = [*{name for path in names for name in names[path]}]
    recorded: dict[str, Digest] = {}
    for program, ask in (DPKG, _dpkg), (RPM, _rpm), (PACMAN, _pacman), (APK, _apk):
        if all_names and os.path.exists(program):
            recorded |= ask(all_names)
    return {path: recorded[name] for path in names for name in names[path] if name in recorded}


def _names(path: str) -> Iterator[str]:
    """What a package may call a file; none for what a manager would take for a pattern."""
    if not set(path) & set('*?[\\\n,'):
        yield path
        match = MERGED.fullmatch(path)
        if match and os.path.islink('/' + match[1].split('/')[1]):
            yield match[1]


def _dpkg(names: list[str]) -> dict[str, Digest]:
    owners: dict[str, set[str]] = {}
    for line in _lines(names, DPKG, '--search', '--'):
        packages, colon, name = line.partition(': /')
        if colon and not packages.startswith(('diversion by', 'local diversion')):
            for package in packages.split(', '):
                owners.setdefault(package, set()).add('/' + name)
    recorded = {}
    # Neither half unpacked nor half configured.
    wanted = '--showformat=${binary:Package} ${db:Status-Status}\n'
    for line in _lines([*owners], DPKG, '--show', wanted):
        package, _, status = line.partition(' ')
        if status == 'installed':
            for pair in _lines(['md5sums'], DPKG, '--control-show', package):
                digits, _, name = pair.partition('  ')
                if f'/{name}' in owners.get(package, ()):
                    recorded[f'/{name}'] = Digest('md5', digits)
    return recorded


def _rpm(names: list[str]) -> dict[str, Digest]:
    packages = _lines(names, RPM, '--query', '--queryformat', '%{NEVRA}\n', '--file', '--')
    owned, recorded = {*names}, {}
    of_a_package = {line for line in packages if ' ' not in line}
    for line in _lines(of_a_package, RPM, '--query', '--queryformat', RPM_FILES, '--'):
        algorithm, flags, digits, *rest = line.split(' ', 3)
        if rest and rest[0] in owned and algorithm in OPENPGP and not int(flags) & RPM_CONFIG:
            recorded[rest[0]] = Digest(OPENPGP[algorithm], digits[1:])
    return recorded


def _pacman(names: list[str]) -> dict[str, Digest]:
    owned, recorded = {*names}, {}
    packages = {*_lines(names, PACMAN, '--query', '--quiet', '--owns', '--')}
    for line in _lines(packages, PACMAN, '--query', '--'):
        directory = f'{PACMAN_LOCAL}/{line.replace(" ", "-")}'
        with suppress(OSError, EOFError):
            with open(f'{directory}/files', encoding='utf-8', errors='surrogateescape') as file:
                backups = {entry.split('\t')[0] for entry in file if '\t' in entry}
            with gzip.open(f'{directory}/mtree') as content:
                mtree = os.fsdecode(content.read(SIZE)).splitlines()
            for entry in mtree:
                name, *words = entry.split(' ')
                name = re.sub(r'\\([0-7]{3})', lambda match: chr(int(match[1], 8)), name[1:])
                values = dict(word.split('=', 1) for word in words if '=' in word)
                if name in owned and name[1:] not in backups and 'sha256digest' in values:
                    recorded[name] = Digest('sha256', values['sha256digest'])
    return recorded


def _apk(names: list[str]) -> dict[str, Digest]:
    owned, recorded = {*names}, {}
    found = re.findall(
        r' is owned by (\S+)-[^-\s]+-r\d+$', '\n'.join(_lines(names, APK, 'info', '-W')), re.M
    )
    for package in {*found}:
        for line in _lines([package], APK, 'manifest'):
            match = re.fullmatch(r'(md5|sha1|sha256):([0-9a-f]+) +/?(.*)', line)
            # What is in /etc an upgrade keeps as the admin has it.
            if match and f'/{match[3]}' in owned and not match[3].startswith('etc/'):
                recorded[f'/{match[3]}'] = Digest(match[1], match[2])
    return recorded


def _lines(some: Iterable[str], *command: str) -> Iterator[str]:
    """The lines that a program prints about some things; its status may say that it knows none."""
    things = [*some]
    for start in range(0, len(things), MANY):
        with suppress(OSError, RunError):
            finished = run_as([*command, *things[start : start + MANY]], None, limit=SIZE)
            yield from os.fsdecode(finished.output).splitlines()


def unfinished() -> list[str]:
    """The packages that dpkg has begun to install, or has not configured; none without dpkg.

    Raises RunError where dpkg does not say.
    """
    if not os.path.exists(DPKG):
        return []
    show = ['--show', '--showformat=${db:Status-Status} ${binary:Package}\n']
    finished = run_as([DPKG, *show], None, limit=SIZE)
    if finished.status:
        reason = os.fsdecode(finished.errors).strip()
        raise RunError(f'dpkg does not say which packages are half configured: {reason}')
    lines = [line.split() for line in os.fsdecode(finished.output).splitlines()]
    return [package for state, package in lines if state in UNFINISHED]
