"""Run a program and print whether its memory was dumped: dumped.py PROGRAM ARGUMENT..."""

import os
import signal
import sys

pid = os.fork()
if not pid:
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # which Python ignores
    os.execv(sys.argv[1], sys.argv[1:])
print(os.WCOREDUMP(os.waitpid(pid, 0)[1]))
