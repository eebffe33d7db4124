"""Packages that tests make: their paths, versions, programs with contents, and settings."""

import gzip
import hashlib
import shutil
import tarfile
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

from support import run

Files = Mapping[Path, str | bytes]
NAME = 'caps-tests'
CONTROL = """\
Package: {name}
Version: {version}
Architecture: all
Maintainer: nobody <nobody@localhost>
Description: none
"""
SPEC = """\
Name: {name}
Version: {version}
Release: 1
Summary: none
License: none
BuildArch: noarch
%description
none
%install
cp -a {tree}/* %{{buildroot}}
%files
{files}
"""


def _tree(package: Path, files: Files) -> Path:
    tree = Path(tempfile.mkdtemp(prefix='package-', dir=package.parent))
    tree.chmod(0o755)
    for file, content in files.items():
        path = tree / file.relative_to('/')
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_bytes(content))
        path.chmod(0o755)
    return tree


def _bytes(content: str | bytes) -> bytes:
    return content if isinstance(content, bytes) else content.encode()


def make_deb(
    package: Path,
    version: int,
    files: Files,
    settings: Collection[Path] = (),
    fields: str = '',
) -> None:
    """Write PACKAGE.deb; fields: lines of its control file."""
    tree = _tree(package, files)
    (tree / 'DEBIAN').mkdir()
    (tree / 'DEBIAN/control').write_text(CONTROL.format(name=NAME, version=version) + fields)
    (tree / 'DEBIAN/conffiles').write_text(''.join(f'{file}\n' for file in settings))
    with open(tree / 'DEBIAN/md5sums', 'w') as digests:
        for file, content in files.items():
            if file not in settings:
                digits = hashlib.md5(_bytes(content)).hexdigest()
                print(digits, file.relative_to('/'), sep='  ', file=digests)
    run('dpkg-deb', '--root-owner-group', '-Z', 'none', '-b', tree, f'{package}.deb', check=True)
    shutil.rmtree(tree)


def make_rpm(package: Path, version: int, files: Files, settings: Collection[Path] = ()) -> None:
    """Write PACKAGE.rpm."""
    tree, top = _tree(package, files), Path(f'{package}-top')
    lines = '\n'.join('%config ' * (file in settings) + str(file) for file in files)
    spec = SPEC.format(name=NAME, version=version, tree=tree, files=lines)
    Path(f'{package}.spec').write_text(spec)
    define = ['--define', f'_topdir {top}', '--define', f'_dbpath {top}/db']
    run('rpmbuild', '-bb', '--quiet', *define, f'{package}.spec', check=True)
    (built,) = top.rglob('*.rpm')
    built.rename(f'{package}.rpm')
    Path(f'{package}.spec').unlink()
    shutil.rmtree(top)
    shutil.rmtree(tree)


# No signatures, and no look at the space there is, for which it wants an /etc/mtab.
PACMAN_CONF = '[options]\nSigLevel = Never\n'


def make_pacman(package: Path, version: int, files: Files, settings: Collection[Path] = ()) -> None:
    """Write PACKAGE.pkg.tar."""
    tree = _tree(package, files)
    info = [f'pkgname = {NAME}', f'pkgver = {version}-1', 'arch = any']
    info += [f'backup = {file.relative_to("/")}' for file in settings]
    (tree / '.PKGINFO').write_text('\n'.join(info) + '\n')
    lines = ['#mtree', '/set type=file uid=0 gid=0 mode=755']
    for file, content in files.items():
        digits = hashlib.sha256(_bytes(content)).hexdigest()
        lines.append(f'.{file} time=1.0 size={len(content)} sha256digest={digits}')
    with gzip.open(tree / '.MTREE', 'wb') as mtree:
        mtree.write('\n'.join(lines).encode() + b'\n')
    with tarfile.open(f'{package}.pkg.tar', 'w') as tar:
        for name in '.PKGINFO', '.MTREE', *(str(file.relative_to('/')) for file in files):
            tar.add(tree / name, name)
    shutil.rmtree(tree)


MAKE = {'dpkg': make_deb, 'rpm': make_rpm, 'pacman': make_pacman}
