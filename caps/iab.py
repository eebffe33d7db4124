"""IAB: the inheritable, ambient and bounding sets of a thread; see cap_iab(3)."""

import errno
import os

from caps import _caps, refusals
from caps.capset import ALL, CapSet
from caps.secbits import SecureBits
from caps.state import Caps, Member, State
from caps.text import parse_iab, written_iab
from caps.threads import drop_bounding, prctl, run_with_setpcap


class IAB(State):
    """The inheritable, ambient and bounding sets of a process; libcap's cap_iab_t.

    Each set is a `CapSet`, as an attribute and as an item.  A capability that libcap's text blocks
    with ``!`` is not in ``bounding``.  This set is an upper limit: `apply` drops what is not in it,
    and adds nothing, since nothing can.

    text: as cap_iab_from_text(3) takes it, or another `IAB` to copy.
    Raises ValueError for text that libcap rejects.

    >>> iab = IAB('!cap_sys_admin,^cap_net_raw')
    >>> iab.ambient, 'cap_sys_admin' in iab.bounding
    (CapSet('cap_net_raw'), False)
    """

    __slots__ = ('_ambient', '_bounding', '_inheritable')
    _sets = ('inheritable', 'ambient', 'bounding')

    inheritable = Member()
    ambient = Member()
    bounding = Member()

    def __init__(self, text: 'str | IAB' = '') -> None:
        if isinstance(text, IAB):
            self._inheritable, self._ambient, self._bounding = (
                text[name].copy() for name in self._sets
            )
            return
        try:
            vectors = parse_iab(text)
        except ValueError as error:
            raise ValueError(f'{text!r} is not IAB text: {error}') from None
        except AttributeError:
            kind = type(text).__name__
            raise TypeError(f'IAB text is a str, such as ^cap_kill, not {kind}') from None
        self._inheritable = CapSet.from_mask(vectors['%'])
        self._ambient = CapSet.from_mask(vectors['^'])
        self._bounding = CapSet.from_mask(ALL & ~vectors['!'])

    @classmethod
    def from_text(cls, text: str) -> 'IAB':
        """The state that a text describes.

        text: IAB text, such as ``!cap_sys_admin,^cap_net_raw``.
        Raises ValueError where cap_iab_from_text(3) fails.
        """
        return cls(text)

    @classmethod
    def from_process(cls, pid: int = 0) -> 'IAB':
        """The state of a process, or of a single thread.

        pid: of a process or a thread; 0 is the calling thread.
        Raises OSError, ESRCH where there is no such process, ENOENT where /proc is missing, which
        another process is read from; OverflowError, as os.kill() does, for what is no pid; see
        cap_iab_get_pid(3).
        """
        try:
            return cls(_caps.get_iab(pid))
        except OSError as error:
            number, reason = error.errno, error.strerror
        if number == errno.ENOENT:
            reason = 'it is read from /proc, which is not mounted'
            if os.path.exists('/proc/self'):
                number, reason = errno.ESRCH, os.strerror(errno.ESRCH)
        raise OSError(number, f'process {pid}: {reason}')

    def apply(self, *, all_threads: bool = False) -> 'IAB':
        """Make this the state of the calling thread, as cap_iab_set_proc(3) does; returns self.

        Inheritable and ambient become what they are here.  What is not in ``bounding`` is dropped
        from the bounding set.  Where that lacks more already, as in every container, it goes on
        lacking it.  cap_setpcap is made effective meanwhile where it is permitted; dropping needs
        it.

        all_threads: change every thread of the process or none; all get the calling thread's
        effective and permitted sets.
        Raises OSError with the rule that was broken, before anything is changed, or with those
        threads that did not answer in about two seconds; see capabilities(7) and prctl(2).
        """
        now, caps = IAB.from_process(), Caps.from_process()
        refusal = refusals.of_iab(
            self._three,
            now._three,
            caps.permitted,
            no_raise='no_cap_ambient_raise' in SecureBits.from_process(),
        )
        if refusal:
            raise OSError(errno.EPERM, refusal)
        clear = _caps.PR_CAP_AMBIENT_CLEAR_ALL
        calls = [prctl('clearing ambient', _caps.PR_CAP_AMBIENT, clear)]
        for name in self.ambient:
            bit = CapSet(name).mask.bit_length() - 1
            raising = _caps.PR_CAP_AMBIENT, _caps.PR_CAP_AMBIENT_RAISE, bit
            calls.append(prctl(f'making {name} ambient', *raising))
        # Other threads may have more in bounding than this one.
        is_all = all_threads and 'cap_setpcap' in caps.permitted
        calls += drop_bounding((CapSet.all() if is_all else now.bounding) - self.bounding)
        run_with_setpcap(calls, all_threads, self.inheritable)
        return self

    def copy(self) -> 'IAB':
        """An independent state with the same sets."""
        return IAB(self)

    __copy__ = copy

    def __str__(self) -> str:
        blocked = ALL & ~self.bounding.mask
        return written_iab(self.inheritable.mask, self.ambient.mask, blocked)

    @property
    def _three(self) -> tuple[CapSet, CapSet, CapSet]:
        return self._inheritable, self._ambient, self._bounding
