"""Importing caps: what it loads, and in which interpreters."""

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import caps
from support import CHILDREN, run

PARENT = str(Path(caps.__file__).parent.parent)


def bare(code):
    """What code prints in an interpreter without site, so without what .pth files load."""
    result = run(sys.executable, '-I', '-S', '-c', code)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def test_import_loads_nothing_that_a_bare_interpreter_has_not():
    # Under -S, importing site loads what it loads anyway and runs nothing.
    before = bare('import site, sys; print(*sys.modules)')
    after = bare(
        f'import site, sys; sys.path.insert(0, {PARENT!r}); import caps; print(*sys.modules)'
    )
    assert 'os' in before
    rooms = {'capset', 'text', 'state', '_caps'}
    assert set(after) - set(before) == {'caps'} | {f'caps.{room}' for room in rooms}


def test_reading_and_applying_loads_nothing_either():
    work = "Caps.from_process().activate().apply(); Caps.from_file('/proc/version')"
    after = bare(
        f'import site, sys; sys.path.insert(0, {PARENT!r}); from caps import Caps; '
        f'before = set(sys.modules); {work}; print(*set(sys.modules) - before)'
    )
    assert after == []


def test_every_public_name_is_there():
    assert {'Caps', 'CapSet'} <= set(caps.__all__)
    for name in caps.__all__:
        assert getattr(caps, name).__doc__


INTERPRETERS = '_interpreters' if find_spec('_interpreters') else '_xxsubinterpreters'


def subinterpreters(kind):
    """What two interpreters and then the first one say, when asked for the same state."""
    child = CHILDREN / 'subinterpreters.py'
    result = run(sys.executable, '-I', '-S', child, PARENT, kind)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


@pytest.mark.skipif(not find_spec(INTERPRETERS), reason='no interpreter within an interpreter')
def test_an_interpreter_that_shares_the_gil_can_import_it():
    assert subinterpreters('legacy') == ['cap_kill=ep'] * 3


@pytest.mark.skipif(sys.version_info < (3, 12), reason='every interpreter shares the GIL')
def test_an_interpreter_with_its_own_gil_can_import_it():
    assert subinterpreters('isolated') == ['cap_kill=ep'] * 3
