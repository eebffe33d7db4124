"""raised: permitted capabilities effective in a block, and no longer; see capset(2)."""

import sys
from _thread import get_native_id

from caps.capset import CapSet
from caps.state import Caps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType


class raised:
    """``with raised('cap_net_bind_service'):`` makes permitted capabilities effective in a block.

    In this thread only, and the effective set is exactly what it was when the block is left.
    A generator or a coroutine can be suspended inside the block, and others would run with what
    it raised, so there it is refused: put the block in a plain function.

    names: capabilities; all that are permitted without any.
    Raises OSError, EPERM for what is not permitted; RuntimeError in a generator or coroutine, or
    where contextlib's ExitStack enters it; see capset(2).
    """

    def __init__(self, *names: str | int) -> None:
        self._names = CapSet(names)
        self._before: dict[int, list[CapSet]] = {}

    def __enter__(self) -> CapSet:
        caller = sys._getframe(1)
        # CO_GENERATOR, CO_COROUTINE, CO_ITERABLE_COROUTINE and CO_ASYNC_GENERATOR of inspect
        suspends = caller.f_code.co_flags & (0x20 | 0x80 | 0x100 | 0x200)
        if suspends or caller.f_globals.get('__name__') == 'contextlib':
            raise RuntimeError(
                f'{caller.f_code.co_name} can be left with capabilities raised: use a with '
                'statement in a plain function'
            )
        caps = Caps.from_process()
        before = caps.effective.copy()
        caps.activate(*(self._names or caps.permitted)).apply()
        self._before.setdefault(get_native_id(), []).append(before)
        return caps.effective

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: 'TracebackType | None',
    ) -> None:
        caps, thread = Caps.from_process(), get_native_id()
        caps.effective = self._before[thread].pop() & caps.permitted
        if not self._before[thread]:
            del self._before[thread]
        caps.apply()
