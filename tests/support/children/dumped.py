"""Run a program and print whether its memory was dumped: dumped.py PROGRAM ARGUMENT..."""

import os
import sys

pid = os.fork()
if not pid:
    os.execv(sys.argv[1], sys.argv[1:])
print(os.WCOREDUMP(os.waitpid(pid, 0)[1]))
