"""raised: permitted capabilities effective in a block, and no longer; see capset(2)."""

import errno
import sys

from caps import _caps
from caps.capset import CapSet
from caps.refusals import first_broken
from caps.state import Caps


class raised(_caps.Raised):
    """``with raised('cap_net_bind_service'):`` makes permitted capabilities effective in a block.

    In this thread only.  Blocks may nest, overlap, be left by an exception, even one from a signal
    handler, or in a child of fork: a capability stays effective while a block that raised it is
    open, and when the last block is left, the effective set is what it was before the first.

    It is refused where other code could run inside the block and use what it raised: in a
    generator or coroutine, and in a greenlet (gevent, eventlet) other than the main one.  Put the
    block in a plain function.  Three things cannot be seen: a coroutine that Cython compiled, a
    main greenlet that switches inside the block, and a thread that is started there, which
    keeps for good what is raised at that moment.

    names: capabilities; without any, all that are permitted.
    Raises OSError, EPERM for what is not permitted; RuntimeError in a generator, a coroutine or a
    greenlet, where contextlib's ExitStack enters it, or where a block is left that this thread
    did not enter; see capset(2).
    """

    __slots__ = ()

    def __init__(self, *names: str | int) -> None:
        self._mask = CapSet(names).mask

    def _check(self) -> CapSet:
        """The set that will be effective; RuntimeError where other code could run in the block."""
        caller = sys._getframe(1)
        # CO_GENERATOR, CO_COROUTINE, CO_ITERABLE_COROUTINE and CO_ASYNC_GENERATOR of inspect
        suspends = caller.f_code.co_flags & (0x20 | 0x80 | 0x100 | 0x200)
        greenlet = sys.modules.get('greenlet')
        if (
            suspends
            or caller.f_globals.get('__name__') == 'contextlib'
            or (greenlet and greenlet.getcurrent().parent)
        ):
            raise RuntimeError(
                f'{caller.f_code.co_name} can be left with capabilities raised: use a with '
                'statement in a plain function'
            )
        caps = Caps.from_process()
        wanted = CapSet.from_mask(self._mask) or caps.permitted
        if broken := first_broken(
            ('effective', wanted - caps.permitted, 'only the permitted can be effective')
        ):
            raise OSError(errno.EPERM, broken)
        return caps.effective | wanted
