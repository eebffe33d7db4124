"""Open a file for writing as soon as that is allowed, say so, and write to it when told to."""

import mmap
import os
import sys

while True:
    try:
        fd = os.open(sys.argv[1], os.O_RDWR)
        break
    except PermissionError:
        pass
mapped = mmap.mmap(fd, 0)
print('open', flush=True)
sys.stdin.readline()
mapped[:1] = b'!'
mapped.flush()
