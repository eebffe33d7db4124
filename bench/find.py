"""`caps find` beside `getcap -r`, on one tree with a warm cache, in turn; exits 1 below twice."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FILES = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
ROUNDS = 15


def make(top: Path) -> None:
    """Fifty files in each directory, ten directories in each of those above, ten of all marked."""
    for number in range(FILES // 50):
        directory = top / f'{number // 100}' / f'{number // 10 % 10}' / f'{number % 10}'
        directory.mkdir(parents=True)
        for name in range(50):
            (directory / f'file-{name}').touch()
        if number % (FILES // 500) == 0:
            subprocess.run(['setcap', 'cap_net_raw=ep', directory / 'file-7'], check=True)


def seconds(command: list[str]) -> tuple[float, list[str]]:
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return time.perf_counter() - start, sorted(done.stdout.splitlines())


with tempfile.TemporaryDirectory(dir='/var/tmp') as directory:
    make(Path(directory))
    caps = os.path.join(os.path.dirname(sys.executable), 'caps')
    commands = [['getcap', '-r', directory], [caps, 'find', directory]]
    times: list[list[float]] = [[], []]
    for _ in range(ROUNDS):
        results = [seconds(command) for command in commands]
        assert results[0][1] == results[1][1]
        for kept, (spent, _) in zip(times, results, strict=True):
            kept.append(spent)
for command, kept in zip(commands, times, strict=True):
    name = ' '.join(map(os.path.basename, command[:2]))
    print(f'{name:10} best {min(kept):.3f} s, median {statistics.median(kept):.3f} s')
ratio = min(times[0]) / min(times[1])
middle = statistics.median(times[0]) / statistics.median(times[1])
print(
    f'{FILES} files, {os.cpu_count()} processors: {ratio:.2f} by the best, {middle:.2f} by median'
)
sys.exit(ratio < 2)
