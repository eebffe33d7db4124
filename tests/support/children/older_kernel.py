"""Run a command without a system call, as an older kernel or a container does.

older_kernel.py NUMBER ANSWER COMMAND...: the call, and the name of the error that it gives.
"""

import ctypes
import errno
import os
import struct
import sys

LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
SECCOMP_RET_ERRNO, SECCOMP_RET_ALLOW = 0x50000, 0x7FFF0000
PR_SET_SECCOMP, SECCOMP_MODE_FILTER, PR_SET_NO_NEW_PRIVS = 22, 2, 38


def take_away(call: int, error: int) -> None:
    instructions = [
        (LOAD, 0, 0, 0),
        (JUMP_IF_EQUAL, 0, 1, call),
        (RETURN, 0, 0, SECCOMP_RET_ERRNO | error),
        (RETURN, 0, 0, SECCOMP_RET_ALLOW),
    ]
    program = b''.join(struct.pack('=HBBI', *instruction) for instruction in instructions)
    buffer = ctypes.create_string_buffer(program)
    filter = struct.pack('@HP', len(instructions), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filter, 0, 0) == 0, ctypes.get_errno()
    assert libc.syscall(call, -1, 0, 0, 0, 0) == -1
    assert ctypes.get_errno() == error


take_away(int(sys.argv[1]), getattr(errno, sys.argv[2]))
os.execvp(sys.argv[3], sys.argv[3:])
