"""Read the documentation, write the man pages, and print what of Python it describes."""

import json
import sys

from sphinx.application import Sphinx
from sphinx.domains.python import PythonDomain

source, target = sys.argv[1:]
app = Sphinx(source, source, target, target + '/read', 'man', warningiserror=True, status=None)
app.build()
domain = app.env.get_domain('py')
assert isinstance(domain, PythonDomain)
print(json.dumps(sorted(domain.objects)))
sys.exit(app.statuscode)
