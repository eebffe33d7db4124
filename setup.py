"""One extension for every CPython from 3.10, and the ppy launcher."""

import os
import sysconfig
import tempfile
from glob import glob

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

LIMITED_API = '0x030a0000'
# A free-threaded CPython before 3.15 has no limited API.
ABI3 = not sysconfig.get_config_var('Py_GIL_DISABLED')

# What the build needs, in the order in which it is missed.
NEEDS = {
    '#include <stdlib.h>': "a C compiler: 'apt install gcc libc6-dev' (Debian), "
    "'dnf install gcc' (Fedora), 'apk add gcc musl-dev' (Alpine) or 'pacman -S gcc' (Arch)",
    '#include <Python.h>': "the headers of Python: 'apt install python3-dev' (Debian), "
    "'dnf install python3-devel' (Fedora) or 'apk add python3-dev' (Alpine)",
    '#include <sys/capability.h>': "the headers of libcap: 'apt install libcap-dev' (Debian), "
    "'dnf install libcap-devel libcap-static' (Fedora), "
    "'apk add libcap-dev libcap-static linux-headers' (Alpine) or 'pacman -S libcap' (Arch)",
}

HARDENED = ['-std=gnu11', '-Wall', '-Wextra', '-fstack-protector-strong']
LAUNCHER = ['-O2', '-fPIE', '-U_FORTIFY_SOURCE', '-D_FORTIFY_SOURCE=2']
LINK = ['-Wl,-z,relro,-z,now', '-Wl,-z,noexecstack', '-s']
LDFLAGS = os.environ.get('LDFLAGS', '').split()  # which setuptools keeps to itself
WERROR = ['-Werror'] if os.environ.get('CAPS_WERROR') else []

# 'make man' writes them, with Sphinx. An sdist has them, so that no build needs Sphinx.
PAGES = sorted(glob('man/*.[1-8]'))


class Build(build_ext):
    """build_ext, and the launcher linked static where a static libcap is at hand."""

    def run(self):
        super().run()
        self.build_launcher('ppy')
        self.build_launcher('ppy-check', [('CHECK_ONLY', '1')])

    def build_extensions(self):
        with tempfile.TemporaryDirectory() as scratch:
            for line, what in NEEDS.items():
                self.require(line, what, scratch)
        super().build_extensions()

    def require(self, line, what, scratch):
        probe = os.path.join(scratch, 'probe.c')
        with open(probe, 'w') as file:
            file.write(f'{line}\n')
        try:
            self.compiler.compile([probe], output_dir=scratch)
        except Exception:
            raise SystemExit(f'caps-ppy needs {what}') from None

    def build_launcher(self, name, macros=()):
        objects = self.compiler.compile(
            ['wrapper/ppy.c'],
            output_dir=os.path.join(self.build_temp, name),
            include_dirs=['ext'],
            macros=list(macros),
            extra_preargs=HARDENED + WERROR + LAUNCHER,
        )
        target = os.path.join(os.path.dirname(self.get_ext_fullpath('caps._caps')), name)
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
