"""What is released: the sdist, and the wheel in every supported CPython at hand, where it works and
leaves nothing behind."""

import os
import shutil
import sys
import tarfile

import pytest

from caps.admin.ppy import install, remove
from caps.system.launcher import MAGIC
from support import ROOT, needs_root, run
from support.launchers import Ppy
from support.pythons import FOUND, LIBRARY, RUNNING, SUPPORTED
from support.venvs import make_venv, pip

# Neither a compiler nor anything else: no PATH, and the only tool that is named fails.
BARE = {'PATH': '/nowhere', 'CC': '/bin/false', 'HOME': '/nowhere'}


@pytest.fixture(scope='module')
def released():
    """The wheel as it would be released, beside its sdist."""
    result = run('make', 'dist', cwd=ROOT)
    assert result.returncode == 0, result.stderr
    (wheel,) = (ROOT / 'dist').glob('*.whl')
    return wheel


def install_wheel(wheel, venv):
    pip(venv, 'install', '--no-index', '--no-deps', '--no-cache-dir', wheel, env=BARE)


def files(directory):
    return {str(path.relative_to(directory)) for path in directory.rglob('*')}


def pages():
    return {f'share/man/man{page.suffix[1:]}/{page.name}' for page in (ROOT / 'man').glob('*.?')}


def test_the_sdist_has_all_that_is_in_git(released):
    if not (ROOT / '.git').exists():
        pytest.skip('no checkout')
    (sdist,) = released.parent.glob('*.tar.gz')
    with tarfile.open(sdist) as archive:
        names = {name.partition('/')[2] for name in archive.getnames()}
    assert set(run('git', 'ls-files', cwd=ROOT).stdout.split()) <= names


def test_one_wheel_serves_every_cpython(released):
    assert '-cp310-abi3-' in released.name
    assert '-linux_' not in released.name


@pytest.mark.parametrize('version', FOUND)
def test_the_wheel_installs_without_a_compiler_and_goes_without_a_trace_on(
    version, tmp_path, released
):
    venv = make_venv(FOUND[version], tmp_path / 'venv')
    before = files(venv)
    install_wheel(released, venv)
    result = run(venv / 'bin' / 'caps', 'show', '--json', cwd=tmp_path, env=BARE)
    assert result.stdout.startswith('{'), result.stderr
    installed = files(venv) - before
    beside = f'lib/python{version}/site-packages/caps/'
    named = {beside + name for name in ('ppy', 'ppy-check', 'py.typed', '_caps.pyi')}
    assert named | pages() | {'share/man/man8/ppy.8'} <= installed
    pip(venv, 'uninstall', '--yes', 'caps-ppy', env=BARE)
    # pip takes away one level of what it empties, and a bare environment has no share.
    assert files(venv) - before <= {'share', 'share/man'}


def installed_in(directory, released):
    """The released wheel in an environment of the system's Python."""
    venv = make_venv('/usr/bin/python3', directory / 'venv')
    install_wheel(released, venv)
    return venv


def test_the_launchers_of_the_wheel_are_static_and_can_be_installed(tmp_path, released):
    venv = installed_in(tmp_path, released)
    for name in 'ppy', 'ppy-check':
        (path,) = venv.glob(f'lib/*/site-packages/caps/{name}')
        assert path.read_bytes().count(MAGIC) == 1
        assert 'NEEDED' not in run('readelf', '--dynamic', path, check=True).stdout


@needs_root
def test_a_script_finds_the_librarys_libcap_though_it_is_privileged(
    released, scene, script, accounts
):
    """auditwheel puts libcap beside the package; the loader is choosier about where, then."""
    venv = installed_in(scene, released)
    installed = install(str(venv / 'bin' / 'python'), str(scene / 'prefix'))
    text = (
        'import caps, ctypes\n'
        'print(ctypes.CDLL(None).getauxval(23), caps.Caps.from_process().activate().apply())\n'
        'print([line for line in open("/proc/self/maps") if "libcap" in line][0])\n'
    )
    marked = script(text, 'cap_kill=i')
    result = Ppy('file-capabilities', installed).run(marked, account=accounts.attacker)
    assert result.stdout.startswith('1 cap_kill=eip\n'), result.stderr
    assert str(venv) in result.stdout.splitlines()[1]
    remove(str(scene / 'prefix'))


# ---- The library's tests on the wheel, in every other CPython ----

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
    own = {name: value for name, value in os.environ.items() if not name.startswith('PYTEST_')}
    command = [bin_ / 'pytest', '-p', 'no:cacheprovider', *tests]
    result = run(*command, cwd=tmp_path, env=own | {'CAPS_FEW': '1'})
    assert result.returncode == 0, result.stdout[-5000:]
    where = run(bin_ / 'python', '-c', 'import caps; print(caps.__file__)', cwd=tmp_path).stdout
    assert where.startswith(str(venv))
