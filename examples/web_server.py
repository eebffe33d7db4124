"""Serve the working directory on port 80, and be nobody by then: needs cap_net_bind_service.

setcap cap_net_bind_service=i web_server.py; ppy web_server.py [ADDRESS]
"""

import sys
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import caps

with caps.raised('cap_net_bind_service'):
    server = ThreadingHTTPServer(
        (sys.argv[1] if len(sys.argv) > 1 else '', 80), SimpleHTTPRequestHandler
    )

caps.drop(no_new_privs=True)
print('listening with', caps.Caps.from_process(), flush=True)
server.serve_forever()
