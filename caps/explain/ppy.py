"""What ppy(8) has to do with an execution: the state that it makes of itself."""

from dataclasses import replace

from caps import CapSet, SecureBits
from caps.system.types import File, Ids, Process


def ppy_state(process: Process, script: File) -> Process:
    """What ppy makes of its process before it executes the capped copy of an interpreter.

    process: ppy as it is started.
    script: the marked script.
    Returns the state; see ppy(8).
    """
    own = CapSet('cap_dac_override')  # which it takes to execute that; it does not survive
    return replace(
        process,
        effective=own,
        permitted=own,
        inheritable=script.caps.inheritable if script.caps else CapSet(),
        ambient=CapSet(),
        bounding=CapSet(),
        uid=Ids(script.uid, script.uid, script.uid),
        gid=Ids(script.gid, script.gid, script.gid),
        groups=frozenset(),
        securebits=SecureBits(['noroot', 'noroot_locked', 'keep_caps']),
    )
