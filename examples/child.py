"""Start a program that has one capability and hands it to its children.

sudo /opt/caps/bin/python child.py
"""

import subprocess

import caps

command = caps.command(
    ['grep', 'Cap', '/proc/self/status'],
    user='nobody',
    ambient=['cap_net_bind_service'],
    bounding=['cap_net_bind_service'],
)
print('$', *command, flush=True)
subprocess.run(command, check=True)
