"""Building the extension and the launcher, with libcap's headers and without."""

import os
import shutil
import sys

import pytest
from conftest import ROOT, run


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


def test_without_the_headers_of_libcap_the_build_names_the_package(build, tmp_path):
    # A header that cannot be compiled stands for one that is not there.
    header = tmp_path / 'include' / 'sys' / 'capability.h'
    header.parent.mkdir(parents=True)
    header.write_text('#error no such file\n')
    result = build(CPPFLAGS=f'-I{tmp_path / "include"}')
    assert result.returncode != 0
    last = result.stderr.splitlines()[-1]
    assert 'needs the headers of libcap' in last
    for distribution, package in {
        'Debian': 'apt install libcap-dev',
        'Fedora': 'dnf install libcap-devel',
        'Alpine': 'apk add libcap-dev',
        'Arch': 'pacman -S libcap',
    }.items():
        assert package in last
        assert f'({distribution})' in last
    assert 'Traceback' not in result.stderr
    assert not list((tmp_path / 'built').rglob('*'))
