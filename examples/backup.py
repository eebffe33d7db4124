"""Back up a directory whatever its permissions: needs cap_dac_read_search.

setcap cap_dac_read_search=i backup.py; ppy backup.py DIRECTORY ARCHIVE.tar
"""

import sys
import tarfile

import caps


def back_up(directory: str, archive: str) -> None:
    with tarfile.open(archive, 'w') as tar, caps.raised('cap_dac_read_search'):
        tar.add(directory)


back_up(*sys.argv[1:3])
