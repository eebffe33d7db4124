"""libcap itself, the referee of the library's tests: its parser, its printer, its names."""

import ctypes
from collections.abc import Iterable

from caps import Caps

BITS = 64

library = ctypes.CDLL('libcap.so.2')
for name in 'cap_from_text', 'cap_init', 'cap_to_text', 'cap_to_name':
    getattr(library, name).restype = ctypes.c_void_p
library.cap_to_text.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
library.cap_to_name.argtypes = [ctypes.c_int]
library.cap_free.argtypes = [ctypes.c_void_p]
library.cap_get_flag.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
library.cap_set_flag.argtypes = [
    ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_int
]  # fmt: skip


def taken(pointer: int) -> str:
    """The text that libcap returned, which it wants back."""
    assert pointer
    text = ctypes.string_at(pointer).decode()
    library.cap_free(pointer)
    return text


def read(text: str) -> tuple[int, ...] | None:
    """The effective, permitted and inheritable bits of a text; None where libcap rejects it."""
    state = library.cap_from_text(text.encode())
    if not state:
        return None
    raised = ctypes.c_int()
    masks = []
    for flag in range(3):
        mask = 0
        for bit in range(BITS):
            assert library.cap_get_flag(state, bit, flag, ctypes.byref(raised)) == 0
            mask |= raised.value << bit
        masks.append(mask)
    library.cap_free(state)
    return tuple(masks)


def written(masks: Iterable[int]) -> str:
    """The text of effective, permitted and inheritable bits."""
    state = library.cap_init()
    for flag, mask in enumerate(masks):
        for bit in range(BITS):
            if mask >> bit & 1:
                value = ctypes.c_int(bit)
                assert library.cap_set_flag(state, flag, 1, ctypes.byref(value), 1) == 0
    text = taken(library.cap_to_text(state, None))
    library.cap_free(state)
    return text


def masks(caps: Caps) -> tuple[int, int, int]:
    """The bits of a Caps, in libcap's order of the sets."""
    return caps.effective.mask, caps.permitted.mask, caps.inheritable.mask


NAMES = [taken(library.cap_to_name(bit)) for bit in range(BITS)]
KERNEL = library.cap_max_bits()
ALL = (1 << KERNEL) - 1
