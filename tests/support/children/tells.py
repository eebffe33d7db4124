"""Write what this process is to a pipe; test_fuzz.py puts a name and a path into this."""

import fcntl
import os

name, path = 'NAME', 'PIPE'
with open('/proc/self/status') as file:
    status = file.read()
with open('/proc/self/cmdline', 'rb') as line:
    command = line.read()
state = {
    'name': name, 'status': status, 'command': command, 'environment': dict(os.environb),
    'descriptors': os.listdir('/proc/self/fd'),
    'access': [fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE for fd in range(3)],
}  # fmt: skip
pipe = os.open(path, os.O_WRONLY)
os.write(pipe, ascii(state).encode() + b'\n')
os.close(pipe)
