"""Audit a command that reads /etc/shadow, and print what it needs and how that was found out.

audits.py START: what the command begins with, none or all.
"""

import json
import sys

from caps.audit import Options, audit

result = audit(['cat', '/etc/shadow'], None, Options(from_all=sys.argv[1] == 'all'))
traced = result.runs[0].calls is not None
failures = [*result.runs[0].failures().items()] if traced else None
needs = None if result.needs is None else list(result.needs)
print(json.dumps([needs, len(result.runs), result.method, failures]))
