"""List /root, which takes cap_dac_read_search, and show that a child of this gets nothing."""

import os
import subprocess

from caps import Caps

caps = Caps.from_process()
print('started with:', caps)

caps.activate().apply()
print('activated:   ', caps)
print('/root has:   ', os.listdir('/root'))

caps.deactivate().apply()
child = subprocess.run(['ls', '/root'], capture_output=True, text=True)
print('a child:     ', child.stderr.strip())
