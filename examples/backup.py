"""Back up a directory whatever its permissions: needs cap_dac_read_search.

setcap cap_dac_read_search=i backup.py; ppy backup.py DIRECTORY
"""

import os
import sys
import tarfile
import time
from pathlib import Path

import caps

# Anyone who may start the script chooses its arguments, so no argument names what it writes.
ARCHIVES = Path(__file__).parent / 'archive'


def back_up(directory: str) -> Path:
    archive = ARCHIVES / time.strftime(f'%Y-%m-%d_%H%M%S_{os.getpid()}.tar')
    descriptor = os.open(archive, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with (
        open(descriptor, 'wb') as file,
        tarfile.open(fileobj=file, mode='w') as tar,
        caps.raised('cap_dac_read_search'),
    ):
        tar.add(directory)
    return archive


if len(sys.argv) != 2:
    sys.exit('usage: ppy backup.py DIRECTORY')
print(back_up(sys.argv[1]))
