"""Serve a directory on port 80 with nothing left to abuse: needs cap_net_bind_service.

setcap cap_net_bind_service=i web_server.py; ppy web_server.py [ADDRESS]
"""

import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import caps

# Not the working directory: that is the caller's choice, and its files are read as the owner.
PUBLIC = Path(__file__).parent / 'public'

address = sys.argv[1] if len(sys.argv) > 1 else ''
with caps.raised('cap_net_bind_service'):
    server = ThreadingHTTPServer((address, 80), partial(SimpleHTTPRequestHandler, directory=PUBLIC))

caps.drop(no_new_privs=True)
print('listening with', caps.Caps.from_process(), flush=True)
server.serve_forever()
