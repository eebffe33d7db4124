"""One extension for every CPython from 3.10, and the ppy launcher."""

import os
import subprocess
import sys
import sysconfig
import tempfile
from glob import glob

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

LIMITED_API = '0x030a0000'
# A free-threaded CPython before 3.15 has no limited API.
ABI3 = not sysconfig.get_config_var('Py_GIL_DISABLED')

# What the build needs, the header that shows it, and the packages that have it.
NEEDS = {
    'a C compiler': (
        'stdlib.h',
        {'apt': 'gcc libc6-dev', 'dnf': 'gcc', 'apk': 'gcc musl-dev', 'pacman': 'gcc'},
    ),
    'the headers of Python': (
        'Python.h',
        {'apt': 'python3-dev', 'dnf': 'python3-devel', 'apk': 'python3-dev', 'pacman': 'python'},
    ),
    'the headers of libcap': (
        'sys/capability.h',
        {
            'apt': 'libcap-dev',
            'dnf': 'libcap-devel libcap-static',
            'apk': 'libcap-dev libcap-static linux-headers',
            'pacman': 'libcap',
        },
    ),
}
INSTALL = {
    'apt': ('Debian', 'apt install'),
    'dnf': ('Fedora', 'dnf install'),
    'apk': ('Alpine', 'apk add'),
    'pacman': ('Arch', 'pacman -S'),
}

HARDENED = ['-std=gnu11', '-Wall', '-Wextra', '-fstack-protector-strong']
LAUNCHER = ['-O2', '-fPIE', '-U_FORTIFY_SOURCE', '-D_FORTIFY_SOURCE=2']
# musl's start is short, where glibc's asks the processor what it can do, for some tenth of a
# millisecond on a virtual machine. Its names for four functions are other ones.
RENAMED = {'fopen64': 'fopen', 'fstat64': 'fstat', 'open64': 'open', '__isoc23_strtoul': 'strtoul'}
LINK = ['-Wl,-z,relro,-z,now', '-Wl,-z,noexecstack', '-s']
LDFLAGS = os.environ.get('LDFLAGS', '').split()  # which setuptools keeps to itself
WERROR = ['-Werror'] if os.environ.get('CAPS_WERROR') else []

# 'make man' writes them, with Sphinx. An sdist has them, so that no build needs Sphinx.
PAGES = sorted(glob('man/*.[1-8]'))


class Build(build_ext):
    """build_ext, and the launcher linked static where a static libcap is at hand."""

    def run(self):
        super().run()
        version = ('PPY_VERSION', f'"{self.distribution.get_version()}"')
        self.build_launcher('ppy', [version])
        self.build_launcher('ppy-check', [version, ('CHECK_ONLY', '1')])

    def build_extensions(self):
        with tempfile.TemporaryDirectory() as scratch:
            missing = {
                what: packages
                for what, (header, packages) in NEEDS.items()
                if not self.has(header, scratch)
            }
        if missing:
            ways = []
            for tool, (system, command) in INSTALL.items():
                names = ' '.join(packages[tool] for packages in missing.values())
                ways.append(f"'{command} {names}' ({system})")
            raise SystemExit(f'caps-ppy needs {", ".join(missing)}: {", ".join(ways)}')
        super().build_extensions()

    def has(self, header, scratch):
        """Whether a header compiles; without a compiler, whether it is there."""
        if header != 'stdlib.h' and not self.has('stdlib.h', scratch):
            places = sysconfig.get_path('include'), '/usr/include'
            return any(os.path.exists(os.path.join(place, header)) for place in places)
        probe = os.path.join(scratch, 'probe.c')
        with open(probe, 'w') as file:
            file.write(f'#include <{header}>\n')
        try:
            self.compiler.compile([probe], output_dir=scratch)
        except Exception:
            return False
        return True

    def link_with_musl(self, target, macros):
        """Whether musl, and a libcap that can be linked with it, made the launcher."""
        chosen = {'CC', 'CFLAGS', 'CPPFLAGS', 'LDFLAGS'} & set(os.environ)
        if chosen or sys.maxsize < 2**32:  # where the two disagree on the sizes of things
            return False
        output = {'text': True, 'stderr': subprocess.DEVNULL}
        try:
            # its last word is a file beside the library
            words = subprocess.check_output(
                'musl-gcc', env=os.environ | {'REALGCC': 'echo'}, **output
            )
            library = os.path.dirname(words.split()[-1])
            libcap = subprocess.check_output(['cc', '-print-file-name=libcap.a'], **output).strip()
            start, init, end = (f'{library}/{name}.o' for name in ('rcrt1', 'crti', 'crtn'))
            headers = '/usr/include', f'/usr/include/{sysconfig.get_config_var("MULTIARCH")}'
            command = ['musl-gcc', *HARDENED, *WERROR, *LAUNCHER[:2], *LINK]
            command += ['-nostartfiles', '-Wl,-static,-pie,--no-dynamic-linker,-z,text']
            command += [f'-D{macro}={value}' for macro, value in macros]
            command += ['-Iext', *(f'-idirafter{path}' for path in headers)]
            command += [f'-Wl,--defsym={name}={musls}' for name, musls in RENAMED.items()]
            command += [start, init, 'wrapper/ppy.c', 'wrapper/fortified.c', libcap, end]
            subprocess.run([*command, '-o', target], check=True, **output)
        except (OSError, subprocess.SubprocessError):
            return False
        return True

    def build_launcher(self, name, macros):
        target = os.path.join(os.path.dirname(self.get_ext_fullpath('caps._caps')), name)
        if self.link_with_musl(target, macros):
            return
        objects = self.compiler.compile(
            ['wrapper/ppy.c'],
            output_dir=os.path.join(self.build_temp, name),
            include_dirs=['ext'],
            macros=macros,
            extra_preargs=HARDENED + WERROR + LAUNCHER,
        )
        for how in ['-static-pie'], ['-pie']:
            try:
                self.compiler.link_executable(
                    objects, target, libraries=['cap'], extra_preargs=how + LDFLAGS + LINK
                )
                return
            except Exception:
                if how == ['-pie']:
                    raise


class Wheel(bdist_wheel):
    """A wheel that says which CPythons the extension loads in."""

    def finalize_options(self):
        if ABI3:
            self.py_limited_api = 'cp310'
        super().finalize_options()


setup(
    ext_modules=[
        Extension(
            'caps._caps',
            sorted(glob('ext/*.c')),
            depends=glob('ext/*.h'),
            libraries=['cap'],
            define_macros=[('CAPS_LIMITED_API', LIMITED_API)] if ABI3 else [],
            py_limited_api=ABI3,
            extra_compile_args=HARDENED + WERROR,
            extra_link_args=LINK,
        )
    ],
    data_files=[(f'share/man/man{page[-1]}', [page]) for page in PAGES],
    cmdclass={'build_ext': Build, 'bdist_wheel': Wheel},
)
