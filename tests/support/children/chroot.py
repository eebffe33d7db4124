"""Do something, then something else in another root directory, and print how that was refused.

chroot.py DIRECTORY FIRST THEN: both as code, which finds what a script would have imported.
"""

import os
import sys
from typing import Any

import caps
from caps import Caps

directory, first, then = sys.argv[1:]
scope: dict[str, Any] = {'caps': caps, 'Caps': Caps}
exec(first, scope)
os.chroot(directory)
os.chdir('/')
before = str(Caps.from_process())
try:
    exec(then, scope)
except Exception as error:
    assert str(Caps.from_process()) == before
    print(type(error).__name__, error)
