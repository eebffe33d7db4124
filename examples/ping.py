"""Ping a host without being root: needs cap_net_raw, the package aioping and /etc/protocols.

setcap cap_net_raw=i ping.py; ppy ping.py HOST
"""

import asyncio
import sys

import aioping

from caps import Caps

if len(sys.argv) != 2:
    sys.exit('usage: ppy ping.py HOST')

Caps.from_process().activate('cap_net_raw').apply()
delay = asyncio.run(aioping.ping(sys.argv[1], timeout=5))
print(f'{sys.argv[1]} answered after {delay * 1000:.2f} ms')
