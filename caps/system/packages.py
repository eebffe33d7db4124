"""What a package manager has recorded of the files that its packages own: dpkg's digests.

The digest is compared with what a descriptor reads, so verifying a file and changing it are about
the same file.  A package that is not wholly installed verifies nothing, and a file of the
configuration, which the admin changes, is not verified.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress

from caps.system.run import RunError, run_as

DPKG = '/usr/bin/dpkg-query'
MANY = 500  # arguments of one call
SIZE = 1 << 26  # bytes that it may print
MERGED = re.compile('/usr(/(?:bin|sbin|lib[^/]*)/.*)', re.DOTALL)


def recorded_digests(paths: Iterable[str]) -> dict[str, str]:
    """Of those paths that a package owns and verifies, the MD5 digest in hexadecimal digits."""
    names = {path: [*_names(path)] for path in paths}
    owners = _owners([*{name for path in names for name in names[path]}])
    installed = _installed({package for _, package in owners})
    recorded: dict[str, str] = {}
    for package in sorted(installed):
        digests = _md5sums(package)
        owned = [name for name, owner in owners if owner == package and name in digests]
        recorded |= {name: digests[name] for name in owned}
    return {path: recorded[name] for path in names for name in names[path] if name in recorded}


def _names(path: str) -> Iterator[str]:
    """What a package may call a file; none for what dpkg would take for a pattern."""
    if not set(path) & set('*?[\\\n,'):
        yield path
        match = MERGED.fullmatch(path)
        if match and os.path.islink('/' + match[1].split('/')[1]):
            yield match[1]


def _owners(names: list[str]) -> list[tuple[str, str]]:
    """Names and the packages that own them."""
    owners = []
    for start in range(0, len(names), MANY):
        for line in _query('--search', '--', *names[start : start + MANY]):
            packages, colon, name = line.partition(': /')
            if colon and not packages.startswith(('diversion by', 'local diversion')):
                owners += [('/' + name, package) for package in packages.split(', ')]
    return owners


def _installed(packages: set[str]) -> set[str]:
    """Those that are neither half unpacked nor half configured."""
    if not packages:  # which dpkg-query takes for all
        return set()
    listed = _query('--show', '--showformat=${binary:Package} ${db:Status-Status}\n', *packages)
    return {line.split()[0] for line in listed if line.endswith(' installed')}


def _md5sums(package: str) -> dict[str, str]:
    pairs = (line.split('  ', 1) for line in _query('--control-show', package, 'md5sums'))
    return {f'/{pair[1]}': pair[0] for pair in pairs if len(pair) == 2}


def _query(*arguments: str) -> list[str]:
    """The lines that dpkg-query prints, whose status also says that there is nothing to say."""
    with suppress(OSError, RunError):
        finished = run_as([DPKG, *arguments], None, limit=SIZE)
        return os.fsdecode(finished.output).splitlines()
    return []
