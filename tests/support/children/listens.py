"""Listen at a port of TCP and one of UDP, print both, and stay until the input ends."""

import socket
import sys

tcp = socket.create_server(('127.0.0.1', 0))
udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
udp.bind(('::', 0))
print(tcp.getsockname()[1], udp.getsockname()[1], flush=True)
sys.stdin.read()
