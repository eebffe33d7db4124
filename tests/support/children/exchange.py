"""Exchange what a launch is given, until killed: exchange.py HOW, where `one` is."""

import ctypes
import os
import sys

AT_FDCWD, RENAME_EXCHANGE = -100, 2


def exchange() -> None:
    libc = ctypes.CDLL(None)
    while libc.renameat2(AT_FDCWD, b'one', AT_FDCWD, b'two', RENAME_EXCHANGE) == 0:
        pass


def relink() -> None:
    while True:
        for target in 'marked', 'planted':
            os.symlink(f'../{target}/script', 'new')
            os.rename('new', 'one')


def replace() -> None:
    while True:
        for target in 'marked', 'planted':
            os.link(f'../{target}/script', 'new')
            os.rename('new', 'one')


{'exchange': exchange, 'relink': relink, 'replace': replace}[sys.argv[1]]()
