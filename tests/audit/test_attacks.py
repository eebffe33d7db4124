"""What a command, its account and other users can do to an audit, and to whom it runs as."""

import os
from contextlib import suppress

from caps import CapSet
from caps.audit import needs
from support import needs_root

pytestmark = needs_root


def test_function_cannot_read_what_the_whole_machine_is_asked_for():
    """It would by the events of the tracer, which are not of one process."""

    def look():
        names = []
        for fd in os.listdir('/proc/self/fd'):
            with suppress(FileNotFoundError):  # the one that lists them
                names.append(os.readlink(f'/proc/self/fd/{fd}'))
        assert not [name for name in names if 'perf' in name], names

    assert needs(look) == CapSet()
