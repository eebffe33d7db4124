"""Run a program where the network has a loopback that gives nobody a low port or a ping.

loopback.py PROGRAM ARGUMENT...: the network is a new one already, as unshare(1) makes it.
"""

import fcntl
import os
import socket
import struct
import sys
from pathlib import Path

SIOCSIFFLAGS, IFF_UP = 0x8914, 1


def set_up() -> None:
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack('16sh', b'lo', IFF_UP))
    for name, value in ('ip_unprivileged_port_start', '1024'), ('ping_group_range', '1 0'):
        Path('/proc/sys/net/ipv4', name).write_text(value)


if __name__ == '__main__':
    set_up()
    os.execvp(sys.argv[1], sys.argv[1:])
