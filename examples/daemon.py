"""A daemon that root starts: it keeps one capability, in all its threads, and becomes USER.

sudo /opt/caps/bin/python daemon.py USER
"""

import queue
import sys
import threading

import caps

if len(sys.argv) != 2:
    sys.exit('usage: daemon.py USER')

work: queue.Queue[int] = queue.Queue()


def worker() -> None:
    while True:
        number = work.get()
        sys.stdout.write(f'job {number} runs with {caps.Caps.from_process()}\n')
        work.task_done()


for _ in range(4):
    threading.Thread(target=worker, daemon=True).start()

caps.drop(keep=['cap_net_raw'], user=sys.argv[1], no_new_privs=True)

for number in range(8):
    work.put(number)
work.join()
