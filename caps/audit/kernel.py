"""The names of the kernel's functions and of system calls by their numbers."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from caps import CapSet
from caps.audit.records import Names


class Symbols:
    """The functions of the running kernel; read on first use, since that takes some 50 ms."""

    @functools.cached_property
    def _text(self) -> bytes:
        with suppress(OSError):
            text = Path('/proc/kallsyms').read_bytes()
            module = text.find(b'\t[')  # what follows is in no order
            return text if module < 0 else text[: text.rfind(b'\n', 0, module) + 1]
        return b''

    @functools.cache  # noqa: B019  there is one for the life of the process
    def name(self, address: int) -> str:
        """The function that an address is in; '' where the kernel does not tell."""
        text, low, high = self._text, 0, len(self._text)
        while low < high:  # lines, in the order of their addresses
            start = text.rfind(b'\n', low, (low + high) // 2) + 1 or low
            end = text.find(b'\n', start) + 1 or len(text)
            if int(text[start : text.find(b' ', start)], 16) <= address:
                low, last = end, start
            else:
                high = start
        if not low:
            return ''
        where, _, function = text[last : text.find(b'\n', last)].split(b' ', 2)
        # Where kptr_restrict hides them all addresses are 0.
        return function.decode() if int(where, 16) and address >> 63 else ''


SYMBOLS = Symbols()


@functools.cache
def system_call(number: int) -> str:
    """The name of a system call, if libseccomp is there to tell; '' if not."""
    resolve = _resolver()
    if resolve is None:
        return ''
    pointer = resolve(0, number)  # 0 is this architecture
    if not pointer:
        return ''
    name = ctypes.string_at(pointer).decode()
    ctypes.CDLL(None).free(ctypes.c_void_p(pointer))
    return name


@functools.cache
def _resolver() -> Callable[[int, int], int | None] | None:
    try:
        resolve = ctypes.CDLL('libseccomp.so.2').seccomp_syscall_resolve_num_arch
    except (OSError, AttributeError):
        return None
    resolve.argtypes, resolve.restype = [ctypes.c_uint32, ctypes.c_int], ctypes.c_void_p
    return resolve


def capability(number: int) -> str:
    """The name of a capability."""
    return next(iter(CapSet.from_mask(1 << number)))


NAMES = Names(SYMBOLS.name, system_call, capability)
