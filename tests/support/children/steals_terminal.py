#!/usr/bin/python3
"""What a ppy-check that its account traces would do: root's shell would run what it types."""

import os

path = 'SAID'
try:
    said = str(os.open('/dev/tty', os.O_RDWR))
except OSError as error:
    said = os.strerror(error.errno or 0)
with open(path, 'w') as file:
    file.write(said)
