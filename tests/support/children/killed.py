"""Runs a command line of caps and sends itself a signal before its Nth change of the machine.

killed.py N SIGNAL ARGUMENT...: the status is that of caps where it comes to its end before that.
"""

import os
import signal
import sys
from types import FrameType
from typing import Any

from caps.cli import main

CHANGING = (
    *('chmod', 'chown', 'close', 'fchmod', 'fchown', 'flock', 'fork', 'fsync', 'link', 'mkdir'),
    *('open', 'remove', 'rename', 'replace', 'rmdir', 'set_file', 'symlink', 'system_calls'),
    *('unlink', 'write'),
)
left, number = int(sys.argv[1]), signal.Signals[sys.argv[2]]
here = os.getpid()


def watch(frame: FrameType, event: str, function: Any) -> None:
    global left
    if event != 'c_call' or isinstance(function.__self__, str):  # str.replace() changes no machine
        return
    if function.__name__ in CHANGING:
        left -= 1
        if left == 0 and os.getpid() == here:
            os.kill(here, number)


sys.setprofile(watch)
status = main(sys.argv[3:])
sys.setprofile(None)
sys.exit(status)
