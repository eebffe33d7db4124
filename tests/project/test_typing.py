"""The types of the installed package, as users' type checkers see them."""

import shutil
import sys
from pathlib import Path

import pytest

from support import SUPPORT, run
from support.venvs import make_venv, pip

BIN = Path(sys.executable).parent
CHECKERS = {
    'mypy': [BIN / 'mypy', '--strict', '--python-executable'],
    'pyright': [BIN / 'pyright', '--pythonpath'],
}


@pytest.fixture(scope='module')
def installed(tmp_path_factory, wheel):
    """The Python of an environment that has the package."""
    venv = make_venv(sys.executable, tmp_path_factory.mktemp('typing') / 'venv')
    pip(venv, 'install', '--no-index', '--no-deps', wheel)
    return venv / 'bin' / 'python'


@pytest.mark.parametrize('checker', CHECKERS.values(), ids=CHECKERS)
def test_typical_code_is_well_typed_and_mistakes_are_found(checker, installed, tmp_path):
    code = shutil.copy(SUPPORT / 'typical_use.py', tmp_path)
    result = run(*checker, installed, code, cwd=tmp_path)
    assert result.returncode == 0, result.stdout
