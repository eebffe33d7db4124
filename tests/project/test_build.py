"""Building the extension and the launcher, with libcap's headers and without."""

import os
import shutil
import sys

import pytest

from support import ROOT, run


@pytest.fixture
def build(tmp_path):
    """A function that builds a copy of the sources and returns the result."""
    source = tmp_path / 'source'
    source.mkdir()
    for name in 'setup.py', 'pyproject.toml', 'README.md', 'LICENSE':
        shutil.copy(ROOT / name, source)
    for name in 'caps', 'ext', 'wrapper':
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns('*.so', '__py*'))

    def build(**environ):
        command = [sys.executable, 'setup.py', 'build_ext', '--build-lib', tmp_path / 'built']
        return run(*command, cwd=source, env=os.environ | environ)

    return build


def test_the_extension_and_the_launcher_are_built(build, tmp_path):
    result = build(CAPS_WERROR='1')
    assert result.returncode == 0, result.stderr
    built = [path.name for path in (tmp_path / 'built' / 'caps').iterdir()]
    assert 'ppy' in built
    assert len([name for name in built if name.startswith('_caps.') and name.endswith('.so')]) == 1


@pytest.mark.skipif(not shutil.which('musl-gcc'), reason='no musl-gcc')
def test_the_launchers_are_linked_with_musl_where_it_is_and_no_compiler_is_chosen(build, tmp_path):
    sizes = []
    for chosen in {}, {'CC': 'cc'}:
        result = build(CAPS_WERROR='1', **chosen)
        assert result.returncode == 0, result.stderr
        for name in 'ppy', 'ppy-check':
            path = tmp_path / 'built' / 'caps' / name
            sizes.append(path.stat().st_size)
            headers = run('readelf', '--program-headers', '--dynamic', path, check=True).stdout
            assert 'DYN (' in headers, 'not position-independent'
            assert 'RELRO' in headers
            assert 'INTERP' not in headers
            assert '(NEEDED)' not in headers
            assert run(path, '--version').stdout.startswith(f'{name} ')
    assert max(sizes[:2]) < min(sizes[2:]) / 3, 'none is of another C library'


@pytest.mark.parametrize('name', sorted(path.name for path in (ROOT / 'wrapper').glob('*.h')))
def test_each_header_of_the_launcher_includes_what_it_uses(tmp_path, name):
    source = tmp_path / 'alone.c'
    source.write_text(f'#define _GNU_SOURCE\n#include "{name}"\n')
    flags = ['-std=gnu11', '-Wall', '-Wextra', '-Werror', '-Wno-unused-function', '-fsyntax-only']
    result = run('gcc', *flags, '-I', ROOT / 'ext', '-I', ROOT / 'wrapper', source)
    assert result.returncode == 0, result.stderr


def refused(result, tmp_path):
    """Nothing was built, and the last line says why: returns it."""
    assert result.returncode != 0
    assert 'Traceback' not in result.stderr
    assert not list((tmp_path / 'built').rglob('*'))
    return result.stderr.splitlines()[-1]


def test_without_a_compiler_the_build_names_the_package(build, tmp_path):
    last = refused(build(PATH=str(tmp_path)), tmp_path)
    assert 'needs a C compiler' in last
    assert 'apt install gcc' in last
    assert 'libcap' not in last


@pytest.mark.parametrize(
    ('header', 'what', 'packages'),
    [
        ('Python.h', 'the headers of Python', {'Debian': 'apt install python3-dev'}),
        (
            'sys/capability.h',
            'the headers of libcap',
            {
                'Debian': 'apt install libcap-dev',
                'Fedora': 'dnf install libcap-devel',
                'Alpine': 'apk add libcap-dev',
                'Arch': 'pacman -S libcap',
            },
        ),
    ],
)
def test_without_headers_the_build_names_the_package(build, tmp_path, header, what, packages):
    # A header that cannot be compiled stands for one that is not there.
    path = tmp_path / 'include' / header
    path.parent.mkdir(parents=True)
    path.write_text('#error no such file\n')
    last = refused(build(CPPFLAGS=f'-I{tmp_path / "include"}'), tmp_path)
    assert f'needs {what}' in last
    for distribution, package in packages.items():
        assert package in last
        assert f'({distribution})' in last


def test_everything_that_is_missing_is_named_at_once(build, tmp_path):
    for header in 'Python.h', 'sys/capability.h':
        path = tmp_path / 'include' / header
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('#error no such file\n')
    last = refused(build(CPPFLAGS=f'-I{tmp_path / "include"}'), tmp_path)
    assert 'needs the headers of Python, the headers of libcap: ' in last
    assert "'apt install python3-dev libcap-dev' (Debian)" in last
    assert "'pacman -S python libcap' (Arch)" in last


def test_the_linker_flags_of_a_packager_reach_the_launcher(build, tmp_path):
    result = build(LDFLAGS='-Wl,--build-id=0xcafecafe')
    assert result.returncode == 0, result.stderr
    for name in 'ppy', 'ppy-check':
        notes = run('readelf', '--notes', tmp_path / 'built' / 'caps' / name).stdout
        assert 'Build ID: cafecafe' in notes
