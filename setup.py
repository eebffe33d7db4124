"""One extension for every CPython from 3.10, and the ppy launcher."""

import os
import sysconfig
import tempfile

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

LIMITED_API = '0x030a0000'
# A free-threaded CPython before 3.15 has no limited API.
ABI3 = not sysconfig.get_config_var('Py_GIL_DISABLED')

NO_LIBCAP = (
    "caps-ppy needs the headers of libcap: 'apt install libcap-dev' (Debian), "
    "'dnf install libcap-devel libcap-static' (Fedora), "
    "'apk add libcap-dev libcap-static linux-headers' (Alpine) or 'pacman -S libcap' (Arch)"
)

HARDENED = ['-std=gnu11', '-Wall', '-Wextra', '-fstack-protector-strong']
LAUNCHER = ['-O2', '-fPIE', '-U_FORTIFY_SOURCE', '-D_FORTIFY_SOURCE=2']
LINK = ['-Wl,-z,relro,-z,now', '-Wl,-z,noexecstack', '-s']
WERROR = ['-Werror'] if os.environ.get('CAPS_WERROR') else []


class Build(build_ext):
    """build_ext, and the launcher linked static where a static libcap is at hand."""

    def run(self):
        super().run()
        self.build_launcher('ppy')
        self.build_launcher('ppy-check', [('CHECK_ONLY', '1')])

    def build_extensions(self):
        self.require_libcap()
        super().build_extensions()

    def require_libcap(self):
        with tempfile.TemporaryDirectory() as scratch:
            probe = os.path.join(scratch, 'probe.c')
            with open(probe, 'w') as file:
                file.write('#include <sys/capability.h>\n')
            try:
                self.compiler.compile([probe], output_dir=scratch)
            except Exception:
                raise SystemExit(NO_LIBCAP) from None

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
                    objects, target, libraries=['cap'], extra_preargs=how + LINK
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
            ['ext/_caps.c', 'ext/calls.c', 'ext/threads.c', 'ext/find.c'],
            depends=['ext/capstate.h', 'ext/calls.h', 'ext/threads.h', 'ext/find.h'],
            libraries=['cap'],
            define_macros=[('CAPS_LIMITED_API', LIMITED_API)] if ABI3 else [],
            py_limited_api=ABI3,
            extra_compile_args=HARDENED + WERROR,
            extra_link_args=LINK,
        )
    ],
    cmdclass={'build_ext': Build, 'bdist_wheel': Wheel},
)
