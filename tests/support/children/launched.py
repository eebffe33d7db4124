"""Say what this process is, as JSON: a script for what launches scripts."""

import json
import os
import sys

with open('/proc/self/status') as file:
    fields = dict(line.split(':\t', 1) for line in file if ':\t' in line)
sets = {
    'inheritable': 'CapInh', 'permitted': 'CapPrm', 'effective': 'CapEff',
    'bounding': 'CapBnd', 'ambient': 'CapAmb',
}  # fmt: skip
state = {
    'argv': sys.argv, 'executable': sys.executable, 'file': globals().get('__file__'),
    'path0': sys.path[0], 'uid': os.getresuid(), 'gid': os.getresgid(), 'groups': os.getgroups(),
    'environ': dict(os.environ), 'umask': os.umask(0o77), 'cwd': os.getcwd(),
    'descriptors': sorted(int(name) for name in os.listdir('/proc/self/fd'))[:-1],
    'prefix': sys.prefix,
    'status': {name: value.strip() for name, value in fields.items()},
    **{name: int(fields[field], 16) for name, field in sets.items()},
}  # fmt: skip
json.dump(state, sys.stdout)
