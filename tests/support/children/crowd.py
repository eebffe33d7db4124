"""Drop on more threads than an extension with room for 16 can ask; it prints the refusal."""

import time

from inside import leave, refusal, start, threads

from caps import IAB, Caps

start(time.sleep, 60, count=15)
IAB.from_process().apply(all_threads=True)
start(time.sleep, 60, count=2)
before = threads()
error = refusal(Caps().apply, all_threads=True)
assert threads() == before
print(error.errno, error.strerror)
leave()
