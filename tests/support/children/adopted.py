"""Wait for a child, and leave the loot if there is another that this script did not start."""

import os
import time

if not os.fork():
    if not os.fork():
        time.sleep(0.1)
    os._exit(0)
os.wait()
try:
    os.wait()
    open('LOOT', 'w').close()
except ChildProcessError:
    pass
