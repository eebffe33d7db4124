"""threads.py WHAT COUNT KIND: the seconds of a call that changes COUNT threads, asleep or not."""

import os
import sys
import threading
import time
from collections.abc import Callable

from caps import Caps, drop


def spin() -> None:
    while True:
        pass


def main() -> None:
    what, count, kind = sys.argv[1:]
    threading.stack_size(1 << 16)
    is_asleep = kind == 'asleep'
    work: Callable[[], object] = threading.Event().wait if is_asleep else spin
    for _ in range(int(count)):
        threading.Thread(target=work, daemon=True).start()
    start = time.perf_counter()
    if what == 'drop':
        drop()
    else:
        Caps.from_process().apply(all_threads=True)
    print(time.perf_counter() - start, flush=True)
    os._exit(0)  # the threads would be long in ending


main()
