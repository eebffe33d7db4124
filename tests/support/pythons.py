"""The CPythons of this machine that the package supports."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from support import run

SUPPORTED = ['3.10', '3.11', '3.12', '3.13', '3.14']
# The tests that need no ppy and hardly any privilege, and so run in each of them.
LIBRARY = [
    f'library/test_{name}' for name in ('capset', 'text', 'process', 'file', 'import', 'raised')
]
RUNNING = f'{sys.version_info.major}.{sys.version_info.minor}'


def candidates(version: str) -> Iterator[Path | str | None]:
    """Where an interpreter of a version may be: on PATH, or below pyenv."""
    yield shutil.which(f'python{version}')
    if shutil.which('pyenv'):
        versions = Path(run('pyenv', 'root').stdout.strip(), 'versions')
        for path in sorted(versions.glob(f'{version}.*')):
            yield path / 'bin' / f'python{version}'


def works(python: Path | str) -> bool:
    """Whether this is a CPython that starts and can make environments: a shim may be neither."""
    code = 'import sys, ensurepip, venv; print(sys.implementation.name)'
    try:
        return run(python, '-c', code).stdout == 'cpython\n'
    except (OSError, subprocess.TimeoutExpired):
        return False


FOUND = {
    version: python
    for version in SUPPORTED
    for python in [next((path for path in candidates(version) if path and works(path)), None)]
    if python
}
