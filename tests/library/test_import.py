"""Importing caps: what it loads, and in which interpreters."""

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import caps
from support import run

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
    return bare(f"""
import os, site, sys
import {INTERPRETERS} as interpreters
sys.path.insert(0, {PARENT!r})
from caps import Caps
work = '''
import os, sys
sys.path.insert(0, {PARENT!r})
try:
    from caps import Caps
    said = str(Caps.from_process(os.getpid()).clear() or Caps('cap_kill=p').activate())
except ImportError as error:
    said = 'ImportError'
os.write(1, said.encode() + b' ')
'''
both = [interpreters.create({kind}) for _ in range(2)]
for one in both:
    interpreters.run_string(one, work)
for one in both:
    interpreters.destroy(one)
exec(work)
""")


@pytest.mark.skipif(not find_spec(INTERPRETERS), reason='no interpreter within an interpreter')
def test_an_interpreter_that_shares_the_gil_can_import_it():
    kind = "'legacy'" if INTERPRETERS == '_interpreters' else 'isolated=False'
    assert subinterpreters(kind) == ['cap_kill=ep'] * 3


@pytest.mark.skipif(sys.version_info < (3, 12), reason='every interpreter shares the GIL')
def test_an_interpreter_with_its_own_gil_can_import_it():
    kind = "'isolated'" if INTERPRETERS == '_interpreters' else 'isolated=True'
    assert subinterpreters(kind) == ['cap_kill=ep'] * 3
