"""Two interpreters within this one, and then this one, print a state that each has made.

subinterpreters.py PARENT KIND: the directory of the package, and 'legacy' or 'isolated'.
"""

import os
import sys
from importlib import import_module


def say() -> None:
    try:
        from caps import Caps

        said = str(Caps.from_process(os.getpid()).clear() or Caps('cap_kill=p').activate())
    except ImportError:
        said = 'ImportError'
    os.write(1, said.encode() + b' ')


if __name__ == '__main__':
    parent, kind = sys.argv[1:]
    sys.path.insert(0, parent)
    try:
        interpreters = import_module('_interpreters')
        created = [interpreters.create(kind) for _ in range(2)]
    except ImportError:
        interpreters = import_module('_xxsubinterpreters')
        created = [interpreters.create(isolated=kind == 'isolated') for _ in range(2)]
    path = [parent, os.path.dirname(__file__)]
    work = f'import sys; sys.path[:0] = {path}; import subinterpreters; subinterpreters.say()'
    for interpreter in created:
        interpreters.run_string(interpreter, work)
    for interpreter in created:
        interpreters.destroy(interpreter)
    say()
