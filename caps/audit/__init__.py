"""Which capabilities a command or a function needs, and the proof: it runs with less and more.

>>> from caps.audit import needs
>>> needs(lambda: open('/etc/shadow').close())
CapSet('cap_dac_read_search')
"""

from caps.audit.auditing import Options, audit, needs
from caps.audit.setup import Account
from caps.audit.types import Audit, AuditError

__all__ = ['Account', 'Audit', 'AuditError', 'Options', 'audit', 'needs']
