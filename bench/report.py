"""Goals, table and plots from what run.py measured; the documentation shows the last two.

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
    'start': 'A command: added to the start of Python',
    'launch': 'Launch: added to the start of a program',
    'find': 'Find marked files among 100,000',
    'find one': 'The same with one processor',
    'find marked': 'Find 100,000 marked files',
    'find empty': 'Search 100,000 empty directories',
    'find few': 'Find marked files among 10,000',
    'check': 'Compare 100,000 marked files with a manifest',
    'show': 'Show 10,000 processes',
    'threads': 'Change 15,000 threads',
    'threads spinning': 'Change 50 threads that compute in Python',
    'audit': 'Audit a command',
}
# What the second plot shows: the cost over the size.
GROWTH = {
    'find': 'Find, over files',
    'show': 'Show, over processes',
    'threads': 'Change, over threads',
    'launch': 'Launch, over lines of /etc/passwd',
}
OURS = {
    'launch': 'ppy',
    'start': 'caps get',
    'show': 'caps show --all',
    'threads': 'drop',
    'threads spinning': 'apply',
    'check': 'caps manifest check',
    'audit': 'caps audit',
}
LIMITS = 'system calls', 'an empty hop', 'the command'
FLOOR = 'nothing'  # what the others of its subject add to is subtracted from them
PEERS = 'libcap-ng', 'posixcaps', 'pyprctl', 'python-prctl'
Times = dict[str, float]
Sizes = dict[int, Times]

STYLE = """\
text { font: 14px sans-serif; fill: #222 } .head { font-weight: bold } .value { fill: #555 }
.card { fill: #fff } .peer { fill: #9aa5b1 } .ours { fill: #2f6fb0 } .limit { fill: #d5dae0 }
.grid { stroke: #e3e6ea } .peers { stroke: #9aa5b1 } .limits { stroke: #d5dae0 }
.mine { stroke: #2f6fb0; stroke-width: 3 } .line { fill: none; stroke-width: 2 }
.small { font-size: 12px; fill: #555 }
@media (prefers-color-scheme: dark) {
text { fill: #e6e6e6 } .value, .small { fill: #b5b5b5 } .card { fill: #16181b }
.peer { fill: #667380 } .ours { fill: #6aa9e9 } .limit { fill: #3a4149 }
.grid { stroke: #2a2e33 } .peers { stroke: #667380 } .limits { stroke: #3a4149 }
.mine { stroke: #6aa9e9 } }"""
WIDTH, LEFT, BAR, LINE = 480, 150, 240, 22


def ours_of(subject: str) -> str:
    return OURS.get(subject, 'caps find' if subject.startswith('find') else 'caps')


def load(results: Path) -> tuple[dict[str, Times], dict[str, Sizes]]:
    """The least seconds that each contestant of each subject took: noise only adds to them.

    Returns the subjects, of which one that grows is there in its largest size, and all its sizes.
    """
    measured: dict[str, Times] = {}
    for bench in pyperf.BenchmarkSuite.load(str(results)):
        subject, name = bench.get_name().split(': ')
        measured.setdefault(subject, {})[name] = min(bench.get_values())
    for times in measured.values():
        floor = times.pop(FLOOR, 0)
        for name in times:
            times[name] -= floor
    growth: dict[str, Sizes] = {subject: {} for subject in GROWTH}
    for key in measured:
        subject, slash, size = key.partition('/')
        if slash:
            growth[subject][int(size)] = measured[key]
    for subject in 'find', 'show', 'threads':
        measured[subject] = growth[subject][max(growth[subject])]
    measured['find few'] = growth['find'][sorted(growth['find'])[-2]]
    return {subject: measured[subject] for subject in TITLES}, growth


def goals(subjects: dict[str, Times], growth: dict[str, Sizes]) -> list[tuple[str, bool]]:
    """What is asked of us and what was measured, and whether that is enough."""
    judged = []

    def at_most(what: str, measured: float, limit: float, unit: str = '') -> None:
        judged.append((f'{what}: {measured:.2f}{unit}, at most {limit:g}', measured <= limit))

    def over(subject: str, ours: str, peer: str) -> float:
        return subjects[subject][ours] / subjects[subject][peer]

    def over_fastest(subject: str) -> float:
        times = subjects[subject]
        named = [time for name, time in times.items() if name in PEERS]
        return times['caps'] / min(named)

    at_most('activate, over the two system calls', over('activate', 'caps', 'system calls'), 4)
    at_most('activate, over the fastest peer', over_fastest('activate'), 0.25)
    first = subjects['activate']['caps, the first time'] * 1e6
    at_most('activate, the first time in a process', first, 33, ' µs')
    at_most('bounding set, over the fastest peer', over_fastest('bounding'), 1)
    at_most("read a file's by path, over the fastest peer", over_fastest('read'), 1)
    descriptor = over('read', 'caps, a descriptor', 'libcap-ng, a descriptor')
    at_most("read a file's by descriptor, over libcap-ng", descriptor, 1.2)
    at_most('mark a file, over the fastest peer', over_fastest('write'), 2)
    at_most('import', subjects['import']['caps'] * 1e3, 0.6, ' ms')
    at_most('caps get, over the start of Python', subjects['start']['caps get'] * 1e3, 13, ' ms')
    at_most(
        'caps explain, over the start of Python', subjects['start']['caps explain'] * 1e3, 25, ' ms'
    )
    at_most('ppy, over an empty hop', over('launch', 'ppy', 'an empty hop'), 1.7)
    million = growth['launch'][max(growth['launch'])]['ppy'] * 1e3
    at_most('ppy, with 1,000,000 lines in /etc/passwd', million, 25, ' ms')
    for subject, limit in (
        ('find', 1 / 2.2),
        ('find one', 1 / 1.5),
        ('find marked', 1),
        ('find few', 1),
        ('find empty', 1),
    ):
        ratio = over(subject, 'caps find', 'getcap -r')
        at_most(f'{TITLES[subject]}, over getcap -r', ratio, round(limit, 2))
    check = over('check', 'caps manifest check', 'caps find')
    at_most('caps manifest check, over caps find', check, 1.5)
    show = over('show', 'caps show --all', 'pscap -a')
    at_most('caps show --all, over pscap', show, 1.5)
    for name in 'drop', 'apply':
        at_most(f'{name} with 15,000 threads', subjects['threads'][name], 1, ' s')
    at_most('apply with 50 spinning threads', subjects['threads spinning']['apply'], 0.5, ' s')
    return judged


def spell(seconds: float) -> str:
    units = ('s', 1.0), ('ms', 1e-3), ('µs', 1e-6)
    unit, size = next((unit for unit in units if abs(seconds) >= unit[1]), units[-1])
    number = seconds / size
    return f'{number:.1f} {unit}' if abs(number) < 99.5 else f'{number:.0f} {unit}'


def rows(subject: str, times: Times) -> list[tuple[str, str, float]]:
    """Name, time, and how many times ours that is."""
    ours = times[ours_of(subject)]
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


def table(subjects: dict[str, Times], growth: dict[str, Sizes], where: str) -> str:
    lines = [where + '.', '']
    judged = goals(subjects, growth)
    lines += [f'- {goal} ({"met" if met else "**missed**"})' for goal, met in judged]
    for subject, times in subjects.items():
        lines += ['', f'.. csv-table:: {TITLES[subject]}']
        lines += ['   :header: "", time, times ours', '   :widths: 50 25 25', '']
        lines += [f'   "{name}", {time}, {ratio:.2f}' for name, time, ratio in rows(subject, times)]
    for subject, sizes in growth.items():
        header = ', '.join(f'"{size:,}"' for size in sorted(sizes))
        lines += ['', f'.. csv-table:: {GROWTH[subject]}', f'   :header: "", {header}', '']
        for name in sizes[max(sizes)]:
            spelled = ', '.join(spell(sizes[size][name]) for size in sorted(sizes))
            lines.append(f'   "{name}", {spelled}')
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
            kind = 'ours' if name == ours_of(subject) else 'limit' if name in LIMITS else 'peer'
            lines.append(f'<text x="12" y="{y}">{escape(name)}</text>')
            lines.append(
                f'<rect class="{kind}" x="{LEFT}" y="{y - 12}" width="{BAR * share:.0f}" '
                'height="14" rx="2"/>'
            )
            x = LEFT + BAR * share + 8
            lines.append(f'<text class="value" x="{x:.0f}" y="{y}">{time}</text>')
        y += 10
    title = 'caps and ppy beside their peers; the longer the slower, on a logarithmic scale'
    return drawing(title, WIDTH, y + 8, lines)


def drawing(title: str, width: int, height: int, lines: list[str]) -> str:
    return '\n'.join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
            f'<title>{title}</title>',
            f'<style>{STYLE}</style>',
            f'<rect class="card" width="{width}" height="{height}" rx="8"/>',
            *lines,
            '</svg>\n',
        ]
    )


def growth_plot(growth: dict[str, Sizes]) -> str:
    """Seconds over sizes, a panel for each subject, both axes logarithmic."""
    width, height, gap = 420, 240, 20
    lines: list[str] = []
    for number, (subject, sizes) in enumerate(growth.items()):
        left, top = gap + number % 2 * (width + gap), gap + number // 2 * (height + 70)
        lines += panel(subject, sizes, left, top, width, height)
    title = 'How the cost grows: seconds over size, both on logarithmic scales'
    return drawing(title, 2 * width + 3 * gap, 2 * height + 150, lines)


def panel(subject: str, sizes: Sizes, left: int, top: int, width: int, height: int) -> list[str]:
    every = sorted(sizes)
    seconds = [max(time, 1e-5) for times in sizes.values() for time in times.values()]
    low, high = math.floor(math.log10(min(seconds))), math.ceil(math.log10(max(seconds)))
    room = width - 170  # to the right of which the names are
    span = math.log10(every[-1] / every[0])

    def place(size: int, time: float) -> tuple[float, float]:
        share = (math.log10(max(time, 1e-5)) - low) / (high - low)
        x = left + 50 + math.log10(size / every[0]) / span * room
        return x, top + 20 + height - share * height

    lines = [f'<text class="head" x="{left}" y="{top + 6}">{escape(GROWTH[subject])}</text>']
    for power in range(low, high + 1):
        x, y = place(every[0], 10.0**power)
        lines.append(f'<path class="grid" d="M{x:.0f} {y:.0f} h{room}"/>')
        label = spell(10.0**power).replace('.0', '')
        lines.append(f'<text class="small" x="{left}" y="{y + 4:.0f}">{label}</text>')
    for size in every:
        x, y = place(size, 10.0**low)
        lines.append(
            f'<text class="small" x="{x:.0f}" y="{y + 18:.0f}" text-anchor="middle">{size:,}</text>'
        )
    taken: list[float] = []
    last = sizes[every[-1]]
    for name in sorted(last, key=lambda name: last[name]):
        kind = 'mine' if name == ours_of(subject) else 'limits' if name in LIMITS else 'peers'
        points = [place(size, sizes[size][name]) for size in every]
        path = ' L'.join(f'{x:.1f} {y:.1f}' for x, y in points)
        lines.append(f'<path class="line {kind}" d="M{path}"/>')
        x, y = points[-1]
        y = min([y + 4, *(other - 14 for other in taken)])
        taken.append(y)
        lines.append(f'<text class="small" x="{x + 8:.0f}" y="{y:.0f}">{escape(name)}</text>')
    return lines


def main(results: Path, directory: Path) -> int:
    """Print what was measured, write table and plots; 1 where a goal is missed."""
    subjects, growth = load(results)
    where = machine(results)
    print(where)
    for subject, times in subjects.items():
        print(f'\n{TITLES[subject]}')
        for name, time, ratio in rows(subject, times):
            print(f'  {name:22} {time:>8} {ratio:8.2f} times ours')
    print()
    judged = goals(subjects, growth)
    for goal, met in judged:
        print(f'{"met   " if met else "MISSED"} {goal}')
    directory.mkdir(exist_ok=True)
    (directory / 'table.txt').write_text(table(subjects, growth, where))
    (directory / 'plot.svg').write_text(plot(subjects))
    (directory / 'growth.svg').write_text(growth_plot(growth))
    return 0 if all(met for _, met in judged) else 1


if __name__ == '__main__':
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
