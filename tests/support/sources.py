"""Programs of our sources as they are, and with one thing made wrong."""

import shutil
import subprocess
import sysconfig
from pathlib import Path

from support import ROOT


def compile_c(compiler: str, output: Path, *arguments: Path | str, sources: Path = ROOT) -> Path:
    """Compile with the product's headers, or with those of a changed copy of the sources."""
    include: list[Path | str] = ['-I', sources / 'ext', '-I', sources / 'wrapper']
    debug = ['-g', '-O1', '-std=gnu11', '-w']
    command = [compiler, *debug, *include, *arguments, '-lcap', '-o', output]
    subprocess.run(command, check=True)
    return output


def plant(directory: Path, file: str, old: str, new: str) -> Path:
    """A copy of the sources in which one thing has been made wrong."""
    for name in ('ext', 'wrapper'):
        shutil.copytree(ROOT / name, directory / name)
    source = (directory / file).read_text()
    assert source.count(old) == 1, f'{file} no longer has {old!r}, or more than once'
    (directory / file).write_text(source.replace(old, new))
    return directory


def extension_with(directory: Path, file: str, old: str, new: str) -> Path:
    """Where to import caps from, with an extension of such sources."""
    sources = plant(directory / 'planted', file, old, new)
    without = shutil.ignore_patterns('*.so', '__py*')
    package = shutil.copytree(ROOT / 'caps', directory / 'with/caps', ignore=without)
    extension = package / f'_caps{sysconfig.get_config_var("EXT_SUFFIX")}'
    options = ['-shared', '-fPIC', '-I', sysconfig.get_path('include')]
    compile_c('cc', extension, *options, *(sources / 'ext').glob('*.c'), sources=sources)
    return package.parent
