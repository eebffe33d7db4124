"""Linux capabilities of processes and files: libcap's text, with Python's sets.

>>> caps = Caps('cap_net_raw=p')
>>> str(caps.activate())
'cap_net_raw=ep'
>>> caps['inheritable'].add('cap_kill')
>>> caps.inheritable
CapSet('cap_kill')
"""

# The layout.  A privileged script may import what stands directly in this directory; none of it
# imports a folder, nor what a bare interpreter has not loaded.  Imports run one way:
#
#   _caps  ->  capset  ->  text  ->  state  ->  iab  ->  dropping, raising, setpriv
#                              ->  threads  ->  secbits     what the last three and iab need
#                              ->  refusals                 which rule a change would break
#   proc, accounts                                          small readers
#
# system/ looks at the machine, explain/ judges, admin/ changes it as root, cli/ is the command
# line.  explain and admin never import each other, and only __main__.py imports cli.

from caps.capset import CapSet
from caps.state import Caps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from caps.dropping import drop
    from caps.iab import IAB
    from caps.raising import raised
    from caps.secbits import SecureBits, no_new_privs, set_no_new_privs
    from caps.setpriv import command

    __version__: str
    securebits: SecureBits

__all__ = [
    'IAB', 'CapSet', 'Caps', 'SecureBits', 'command', 'drop', 'no_new_privs', 'raised',
    'securebits', 'set_no_new_privs',
]  # fmt: skip

# Public names that are loaded on first use, and their rooms.  A room must not have such a name: the
# import system would put the module in the place of what it holds.
_ROOMS = {
    'IAB': 'iab',
    'SecureBits': 'secbits',
    'command': 'setpriv',
    'drop': 'dropping',
    'no_new_privs': 'secbits',
    'raised': 'raising',
    'securebits': 'secbits',
    'set_no_new_privs': 'secbits',
}


def load(room: str, what: str) -> 'Any':
    """A part of the package that is loaded when it is first used, which may be too late."""
    try:
        return __import__(f'caps.{room}', fromlist=[room])
    except (ImportError, OSError) as error:
        raise ImportError(
            f'{what} needs a part of the package whose file is out of reach: import caps.{room} '
            'before os.chroot(), or before the account changes'
        ) from error


if not TYPE_CHECKING:  # else a type checker would accept any name

    def __getattr__(name):
        if name == '__version__':
            from importlib.metadata import version

            return version('caps-ppy')
        if name not in _ROOMS:
            raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
        room = load(_ROOMS[name], f'caps.{name}')
        if name == 'securebits':
            return room.SecureBits.from_process()
        value = globals()[name] = getattr(room, name)
        return value
