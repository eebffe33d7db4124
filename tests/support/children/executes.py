"""Come into a state, say so, wait for a line, and execute.

executes.py SETUP PROGRAM ARGUMENT...: the setup as code, which calls what is here.
"""

import ctypes
import os
import sys

from caps import IAB, Caps, SecureBits, set_no_new_privs

__all__ = 'become', 'bind', 'filter_nothing', 'hold', 'inherit', 'set_no_new_privs'


def become(uid: int, gid: int) -> None:
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def bind(*names: str) -> None:
    """Take capabilities from the bounding set, by default all of them."""
    iab = IAB.from_process()
    iab.bounding -= names or iab.bounding.copy()
    iab.apply()


def inherit(name: str) -> None:
    iab = IAB.from_process()
    iab.inheritable.add(name)
    iab.apply()


def hold(sets: str, uid: int | None = None, gid: int | None = None) -> None:
    """Have cap_net_raw inheritable (i) and ambient (a), as an account as little else as it can."""
    iab = IAB.from_process()
    iab.inheritable, iab.ambient = (['cap_net_raw'] * (letter in sets) for letter in 'ia')
    SecureBits(['no_setuid_fixup', 'keep_caps']).apply()
    if uid is not None and gid is not None:
        become(uid, gid)
    iab.apply()
    if uid is not None:
        Caps('cap_net_raw=pi' if 'i' in sets else 'cap_net_raw=p').apply()


def filter_nothing() -> None:
    """Have a seccomp(2) filter that allows everything."""
    libc = ctypes.CDLL(None, use_errno=True)
    instruction = ctypes.create_string_buffer((6).to_bytes(4, 'little') + b'\0\0\xff\x7f')
    program = ctypes.create_string_buffer(
        (1).to_bytes(8, 'little') + ctypes.addressof(instruction).to_bytes(8, 'little')
    )
    assert libc.prctl(22, 2, ctypes.byref(program)) == 0


setup, *command = sys.argv[1:]
exec(setup)
print('ready', flush=True)
sys.stdin.readline()
try:
    os.execv(command[0], command)
except OSError as error:
    print('Error:\t' + os.strerror(error.errno or 0), f'Errno:\t{error.errno}', sep='\n')
