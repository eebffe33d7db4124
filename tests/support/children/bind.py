"""Serve on port 80, for one who is here."""

import socket

server = socket.create_server(('127.0.0.1', 80))
client = socket.create_connection(('127.0.0.1', 80))
client.sendall(b'done')
print(server.accept()[0].recv(4).decode())
