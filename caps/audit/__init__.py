"""Which capabilities a command or a function needs, and the proof: it runs with less and more.

As root, ``needs(lambda: open('/etc/shadow').close())`` is ``CapSet('cap_dac_read_search')``.
"""

from caps.audit.auditing import audit, needs
from caps.audit.once import once
from caps.audit.runs import Options
from caps.audit.setup import Account
from caps.audit.types import Audit, AuditError, Observation
from caps.audit.verdicts import merge

__all__ = [
    'Account', 'Audit', 'AuditError', 'Observation', 'Options', 'audit', 'merge', 'needs', 'once',
]  # fmt: skip
