"""Mounts that tests make."""

import ctypes
import os
import struct
import subprocess
from pathlib import Path


def mount_idmapped(source: Path, target: Path, ids: str = '0 100000 65536') -> None:
    """Mount a directory with its owners shown as others: from which, to which, how many."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call(*arguments: object) -> int:
        result = int(libc.syscall(*arguments))
        if result < 0:
            raise OSError(ctypes.get_errno(), 'no idmapped mounts')
        return result

    with subprocess.Popen(['unshare', '--user', 'sleep', '60']) as child:
        try:
            while not Path(f'/proc/{child.pid}/cmdline').read_bytes().startswith(b'sleep'):
                assert child.poll() is None
            for kind in 'uid', 'gid':
                Path(f'/proc/{child.pid}/{kind}_map').write_text(ids)
            with open(f'/proc/{child.pid}/ns/user') as namespace:
                tree = call(428, -100, os.fsencode(source), 1)  # open_tree, OPEN_TREE_CLONE
                attributes = struct.pack('4Q', 0x100000, 0, 0, namespace.fileno())
                call(442, tree, b'', 0x1000, attributes, 32)  # mount_setattr, MOUNT_ATTR_IDMAP
        finally:
            child.kill()
    call(429, tree, b'', -100, os.fsencode(target), 4)  # move_mount
    os.close(tree)
