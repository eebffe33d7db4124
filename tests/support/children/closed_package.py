"""Use a room that is not loaded yet, as an account that cannot read the package.

closed_package.py DIRECTORY: where the package is.
"""

import os
import sys

sys.path.insert(0, sys.argv[1])

import caps

os.setresuid(65534, 65534, 65534)
caps.raised()
