"""The library's tests once more, in every other supported CPython that is installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, run

SUPPORTED = ['3.10', '3.11', '3.12', '3.13']
LIBRARY = ['test_capset', 'test_text', 'test_process', 'test_file', 'test_import']
RUNNING = f'{sys.version_info.major}.{sys.version_info.minor}'


def candidates(version):
    """Where an interpreter of a version may be: on PATH, or below pyenv."""
    yield shutil.which(f'python{version}')
    if shutil.which('pyenv'):
        versions = Path(run('pyenv', 'root').stdout.strip(), 'versions')
        for path in sorted(versions.glob(f'{version}.*')):
            yield path / 'bin' / f'python{version}'


def works(python):
    """Whether this is a CPython that starts and can make environments: a shim may be neither."""
    code = 'import sys, ensurepip, venv; print(sys.implementation.name)'
    try:
        return run(python, '-c', code).stdout == 'cpython\n'
    except (OSError, subprocess.TimeoutExpired):
        return False


FOUND = {
    version: python
    for version in SUPPORTED
    for python in [next(filter(works, filter(None, candidates(version))), None)]
    if python
}
# Where there is no other, at least the wheel is tried away from the sources.
VERSIONS = [version for version in FOUND if version != RUNNING] or [RUNNING]


def test_the_running_interpreter_is_among_those_found():
    assert RUNNING in FOUND or RUNNING not in SUPPORTED


@pytest.mark.parametrize('version', VERSIONS)
def test_the_library_passes_its_tests_on(version, tmp_path, wheel):
    venv = tmp_path / 'venv'
    bin_ = venv / 'bin'
    for command in (
        [FOUND.get(version, sys.executable), '-m', 'venv', venv],
        [bin_ / 'pip', 'install', '--quiet', f'{wheel}[test]'],
    ):
        result = run(*command, timeout=300)
        assert result.returncode == 0, result.stderr
    # A copy, away from the sources: what is imported must be what the wheel holds.
    shutil.copytree(ROOT / 'tests', tmp_path / 'tests', ignore=shutil.ignore_patterns('__py*'))
    shutil.copy(ROOT / 'pyproject.toml', tmp_path)
    tests = [f'tests/{name}.py' for name in LIBRARY]
    result = run(
        bin_ / 'pytest', '-p', 'no:cacheprovider', *tests, cwd=tmp_path, timeout=300,
        env={name: value for name, value in os.environ.items() if not name.startswith('PYTEST_')},
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-5000:]
    where = run(bin_ / 'python', '-c', 'import caps; print(caps.__file__)', cwd=tmp_path).stdout
    assert where.startswith(str(venv))
