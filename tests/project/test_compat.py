"""The library's tests on the released wheel, in every other supported CPython at hand."""

import os
import shutil
import sys

import pytest

from support import ROOT, run
from support.pythons import FOUND, LIBRARY, RUNNING, SUPPORTED
from support.venvs import make_venv, pip

# Where there is no other, at least the wheel is tried away from the sources.
VERSIONS = [version for version in FOUND if version != RUNNING] or [RUNNING]


def test_the_running_interpreter_is_among_those_found():
    assert RUNNING in FOUND or RUNNING not in SUPPORTED


@pytest.mark.parametrize('version', VERSIONS)
def test_the_library_passes_its_tests_on(version, tmp_path, released):
    venv = make_venv(FOUND.get(version, sys.executable), tmp_path / 'venv')
    bin_ = venv / 'bin'
    pip(venv, 'install', '--no-compile', f'{released}[test]')
    # A copy, away from the sources: what is imported must be what the wheel holds.
    shutil.copytree(ROOT / 'tests', tmp_path / 'tests', ignore=shutil.ignore_patterns('__py*'))
    shutil.copy(ROOT / 'pyproject.toml', tmp_path)
    tests = [f'tests/{name}.py' for name in LIBRARY]
    result = run(
        bin_ / 'pytest', '-p', 'no:cacheprovider', *tests, cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith('PYTEST_')},
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-5000:]
    where = run(bin_ / 'python', '-c', 'import caps; print(caps.__file__)', cwd=tmp_path).stdout
    assert where.startswith(str(venv))
