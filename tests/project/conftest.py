"""What the project releases, made once."""

import pytest

from support import ROOT, run


@pytest.fixture(scope='session')
def released():
    """The wheel as it would be released, beside its sdist."""
    result = run('make', 'dist', cwd=ROOT)
    assert result.returncode == 0, result.stderr
    (wheel,) = (ROOT / 'dist').glob('*.whl')
    return wheel
