"""The secure bits of a thread, and no_new_privs; see capabilities(7) and prctl(2)."""

from _collections_abc import Iterable, Iterator, MutableSet

from caps import _caps
from caps.threads import NO_NEW_PRIVS, prctl, run_calls, run_with_setpcap

# capabilities(7), "The securebits flags"; each is followed by the one that locks it.
_FLAGS = (
    'noroot',
    'no_setuid_fixup',
    'keep_caps',
    'no_cap_ambient_raise',
    'exec_restrict_file',
    'exec_deny_interactive',
)
_SECURE_BITS = {
    name: bit
    for number, flag in enumerate(_FLAGS)
    for name, bit in ((flag, 2 * number), (f'{flag}_locked', 2 * number + 1))
}


class SecureBits(MutableSet[str]):
    """The secure bits of a thread, as a set of names such as ``noroot`` and ``noroot_locked``.

    A bit without a name, from a newer kernel, is its number as text.  A name may be spelled as
    SECBIT_NOROOT too.

    members: names of bits.
    Raises ValueError for an unknown name; see capabilities(7), "The securebits flags".
    """

    __slots__ = ('mask',)

    mask: int
    """The bits as prctl(2) has them."""

    def __init__(self, members: Iterable[str] = ()) -> None:
        self.mask = 0
        for member in members:
            self.add(member)

    @classmethod
    def from_process(cls) -> 'SecureBits':
        """The secure bits of the calling thread; see cap_get_secbits(3)."""
        self = cls()
        self.mask = _caps.securebits()
        return self

    def apply(self, *, all_threads: bool = False) -> 'SecureBits':
        """Make these the secure bits of the calling thread, or of all; returns self.

        cap_setpcap is made effective meanwhile where it is permitted.  The calling thread does
        not need it if nothing has to change.

        all_threads: change every thread of the process or none.
        Raises OSError, EPERM where it is not permitted, a bit to change is locked or the kernel
        does not know it; see prctl(2).
        """
        import errno

        now = self.from_process()
        locks = now.mask & 0xAAAAAAAA
        locked = SecureBits()
        locked.mask = (self.mask ^ now.mask) & (locks | locks >> 1)
        if locked:
            raise OSError(
                errno.EPERM, f'{", ".join(locked)} cannot be changed: locked for good (prctl(2))'
            )
        if self.mask == now.mask and not all_threads:  # the bits of other threads cannot be seen
            return self
        step = prctl(f'setting {self!r}', _caps.PR_SET_SECUREBITS, self.mask)
        run_with_setpcap([step], all_threads)
        return self

    @staticmethod
    def _bit(member: object) -> int:
        text = str(member).lower().removeprefix('secbit_')
        bit = int(text) if text.isdecimal() else _SECURE_BITS.get(text, 32)
        if bit >= 32:
            raise ValueError(f'{member!r} is not a secure bit; there are {", ".join(_SECURE_BITS)}')
        return bit

    def add(self, member: str) -> None:
        """Set a bit.

        member: its name.
        Raises ValueError for an unknown name.
        """
        self.mask |= 1 << self._bit(member)

    def discard(self, member: str) -> None:
        """Clear a bit.

        member: its name.
        Raises ValueError for an unknown name.
        """
        self.mask &= ~(1 << self._bit(member))

    def __contains__(self, member: object) -> bool:
        return bool(self.mask >> self._bit(member) & 1)

    def __iter__(self) -> Iterator[str]:
        names = {bit: name for name, bit in _SECURE_BITS.items()}
        return (names.get(bit, str(bit)) for bit in range(32) if self.mask >> bit & 1)

    def __len__(self) -> int:
        return self.mask.bit_count()

    def __repr__(self) -> str:
        return f'SecureBits({list(self)!r})'


def no_new_privs() -> bool:
    """Whether execve(2) can no longer give the calling thread privilege; see prctl(2)."""
    return _caps.no_new_privs()


def set_no_new_privs(*, all_threads: bool = True) -> None:
    """Keep execve(2) from ever giving privilege again; it cannot be taken back.

    all_threads: change every thread of the process or none, else the calling one.
    Raises OSError with the threads that did not answer in about two seconds; see
    PR_SET_NO_NEW_PRIVS in prctl(2).
    """
    run_calls([NO_NEW_PRIVS], all_threads)
