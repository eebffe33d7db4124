"""Debian packages that tests make."""

import hashlib
import shutil
import tempfile
from pathlib import Path

from support import run

CONTROL = """\
Package: {name}
Version: {version}
Architecture: all
Maintainer: nobody <nobody@localhost>
Description: none
"""


def make_package(
    deb: Path, version: int, files: dict[Path | str, bytes | str], name: str = 'caps-tests'
) -> None:
    """Write a package with programs: their paths and contents."""
    tree = Path(tempfile.mkdtemp(prefix='package-', dir=deb.parent))
    tree.chmod(0o755)
    (tree / 'DEBIAN').mkdir()
    (tree / 'DEBIAN/control').write_text(CONTROL.format(name=name, version=version))
    with open(tree / 'DEBIAN/md5sums', 'w') as digests:
        for file, content in files.items():
            content = content if isinstance(content, bytes) else content.encode()
            path = tree / str(file).lstrip('/')
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(0o755)
            print(hashlib.md5(content).hexdigest(), path.relative_to(tree), sep='  ', file=digests)
    run('dpkg-deb', '--root-owner-group', '-Z', 'none', '-b', tree, deb, check=True)
    shutil.rmtree(tree)
