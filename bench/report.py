"""Goals, table and plot from what run.py measured; the documentation shows the last two.

python bench/report.py RESULTS DIRECTORY makes them anew.
"""

import math
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from xml.sax.saxutils import escape

import pyperf

TITLES = {
    'activate': 'Read, activate, apply',
    'bounding': 'Read the bounding set',
    'read': "Read a file's capabilities",
    'write': "Write a file's capabilities",
    'import': 'Import, in a fresh interpreter',
    'launch': 'Launch: added to the start of a program',
    'find': 'Find marked files among 100,000',
}
OURS = {'launch': 'ppy', 'find': 'caps find'}
FLOOR = 'nothing'  # what the others of its subject add to is subtracted from them
PEERS = 'libcap-ng', 'posixcaps', 'pyprctl', 'python-prctl'
Times = dict[str, float]

STYLE = """\
text { font: 14px sans-serif; fill: #222 } .head { font-weight: bold } .value { fill: #555 }
.card { fill: #fff } .peer { fill: #9aa5b1 } .ours { fill: #2f6fb0 }
@media (prefers-color-scheme: dark) {
text { fill: #e6e6e6 } .value { fill: #b5b5b5 } .card { fill: #16181b } .peer { fill: #667380 }
.ours { fill: #6aa9e9 } }"""
WIDTH, LEFT, BAR, LINE = 480, 150, 240, 22


def load(results: Path) -> dict[str, Times]:
    """The least seconds that each contestant of each subject took: noise only adds to them."""
    subjects: dict[str, Times] = {subject: {} for subject in TITLES}
    for bench in pyperf.BenchmarkSuite.load(str(results)):
        subject, name = bench.get_name().split(': ')
        subjects[subject][name] = min(bench.get_values())
    for times in subjects.values():
        floor = times.pop(FLOOR, 0)
        for name in times:
            times[name] -= floor
    return subjects


def goals(subjects: dict[str, Times]) -> list[tuple[str, bool]]:
    """What is asked of us and what was measured, and whether that is enough."""
    activate, launch, find = (subjects[name] for name in ('activate', 'launch', 'find'))
    calls = activate['caps'] / activate['system calls']
    peer = min(activate[name] for name in PEERS) / activate['caps']
    added = subjects['import']['caps'] * 1e3
    hop = launch['ppy'] / launch['an empty hop']
    getcap = find['getcap -r'] / find['caps find']
    return [
        (f'activate at most 5 times the two system calls: {calls:.1f}', calls <= 5),
        (f'activate at least 4 times faster than the fastest peer: {peer:.1f}', peer >= 4),
        (f'import takes at most 1.5 ms: {added:.2f}', added <= 1.5),
        (f'ppy adds at most 1.5 times what an empty hop adds: {hop:.2f}', hop <= 1.5),
        (f'find at least 2 times faster than getcap -r: {getcap:.1f}', getcap >= 2),
    ]


def spell(seconds: float) -> str:
    unit, size = ('ms', 1e-3) if abs(seconds) >= 1e-3 else ('µs', 1e-6)
    number = seconds / size
    return f'{number:.1f} {unit}' if abs(number) < 99.5 else f'{number:.0f} {unit}'


def rows(subject: str, times: Times) -> list[tuple[str, str, float]]:
    """Name, time, and how many times ours that is."""
    ours = times[OURS.get(subject, 'caps')]
    return [(name, spell(seconds), seconds / ours) for name, seconds in times.items()]


def machine(results: Path) -> str:
    """When, where and with what this was measured."""
    suite = pyperf.BenchmarkSuite.load(str(results))
    seen = suite.get_metadata()
    date = suite.get_dates()[0].date()
    packages = 'libcap2', 'libcap-ng0', 'util-linux', 'sudo'
    command = ['dpkg-query', '--show', '--showformat', '${Package} ${Version}, ', *packages]
    debian = subprocess.run(command, capture_output=True, text=True).stdout
    peers = ', '.join(f'{name} {version(name)}' for name in PEERS if name != 'libcap-ng')
    return (
        f'{date}, Linux {platform.release()}, {os.cpu_count()} processors '
        f'({seen["cpu_model_name"]}), CPython {platform.python_version()}, '
        f'caps {version("caps-ppy")}, {debian}{peers}'
    )


def table(subjects: dict[str, Times], where: str) -> str:
    lines = [where + '.', '']
    lines += [f'- {goal} ({"met" if met else "**missed**"})' for goal, met in goals(subjects)]
    for subject, times in subjects.items():
        lines += ['', f'.. csv-table:: {TITLES[subject]}']
        lines += ['   :header: "", time, times ours', '   :widths: 50 25 25', '']
        lines += [f'   "{name}", {time}, {ratio:.2f}' for name, time, ratio in rows(subject, times)]
    return '\n'.join(lines) + '\n'


def plot(subjects: dict[str, Times]) -> str:
    """Bars from a tenth of ours to a hundred times, since differences are of that order."""
    lines, y = [], 12
    for subject, times in subjects.items():
        y += LINE
        lines.append(f'<text class="head" x="12" y="{y}">{escape(TITLES[subject])}</text>')
        for name, time, ratio in rows(subject, times):
            y += LINE
            share = (math.log10(min(max(ratio, 0.1), 100)) + 1.05) / 3.05
            kind = 'ours' if name == OURS.get(subject, 'caps') else 'peer'
            lines.append(f'<text x="12" y="{y}">{escape(name)}</text>')
            lines.append(
                f'<rect class="{kind}" x="{LEFT}" y="{y - 12}" width="{BAR * share:.0f}" '
                'height="14" rx="2"/>'
            )
            x = LEFT + BAR * share + 8
            lines.append(f'<text class="value" x="{x:.0f}" y="{y}">{time}</text>')
        y += 10
    title = 'caps and ppy beside their peers; the longer the slower, on a logarithmic scale'
    return '\n'.join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 8}" role="img">',
            f'<title>{title}</title>',
            f'<style>{STYLE}</style>',
            f'<rect class="card" width="{WIDTH}" height="{y + 8}" rx="8"/>',
            *lines,
            '</svg>\n',
        ]
    )


def main(results: Path, directory: Path) -> int:
    """Print what was measured, write table and plot; 1 where a goal is missed."""
    subjects = load(results)
    where = machine(results)
    print(where)
    for subject, times in subjects.items():
        print(f'\n{TITLES[subject]}')
        for name, time, ratio in rows(subject, times):
            print(f'  {name:22} {time:>8} {ratio:8.2f} times ours')
    print()
    for goal, met in goals(subjects):
        print(f'{"met   " if met else "MISSED"} {goal}')
    directory.mkdir(exist_ok=True)
    (directory / 'table.txt').write_text(table(subjects, where))
    (directory / 'plot.svg').write_text(plot(subjects))
    return 0 if all(met for _, met in goals(subjects)) else 1


if __name__ == '__main__':
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
