"""Which processes have sockets that the network reaches, as /proc tells it; see proc(5)."""

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from caps.proc import require

LISTEN = '0A'  # of enum tcp_state; the other protocols have no such state
UNCONNECTED = '07'


class Socket(NamedTuple):
    """A socket that takes what anybody sends: its protocol, its address and port, its owners.

    address: as /proc/net has it, in words; '*' for every address or interface
    port: 0 where the protocol has none
    pids: the processes that hold it, as far as this process may look
    """

    protocol: str
    address: str
    port: int
    pids: tuple[int, ...]


def listening() -> list[Socket]:
    """The listening sockets of this network namespace; OSError where /proc is of no use."""
    require()
    holders = _holders()
    return [
        Socket(protocol, address, port, tuple(sorted(holders.get(inode, ()))))
        for protocol, address, port, inode in sorted(_sockets())
    ]


def _sockets() -> Iterator[tuple[str, str, int, str]]:
    for protocol in 'tcp', 'tcp6', 'udp', 'udp6', 'raw', 'raw6', 'udplite', 'udplite6':
        wanted = LISTEN if protocol.startswith('tcp') else UNCONNECTED
        for words in _rows(protocol):
            address, _, port = words[1].partition(':')
            if words[3] == wanted:
                number = 0 if protocol.startswith('raw') else int(port, 16)
                yield protocol, _in_words(address), number, words[9]
    for words in _rows('packet'):
        yield 'packet', '*', 0, words[8]


def _rows(protocol: str) -> Iterator[list[str]]:
    with suppress(FileNotFoundError), open(f'/proc/self/net/{protocol}') as file:
        next(file)
        for line in file:
            yield line.split()


def _in_words(address: str) -> str:
    import socket
    import sys

    words = [bytes.fromhex(address[n : n + 8]) for n in range(0, len(address), 8)]
    packed = b''.join(word[::-1] if sys.byteorder == 'little' else word for word in words)
    if not any(packed):
        return '*'
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


def _holders() -> dict[str, set[int]]:
    """The processes that hold a socket, by its inode."""
    holders: dict[str, set[int]] = {}
    for pid in filter(str.isdecimal, os.listdir('/proc')):
        with suppress(OSError):  # gone meanwhile, or another account's
            for fd in os.listdir(f'/proc/{pid}/fd'):
                with suppress(OSError):
                    target = os.readlink(f'/proc/{pid}/fd/{fd}')
                    if target.startswith('socket:['):
                        holders.setdefault(target[8:-1], set()).add(int(pid))
    return holders
