"""Draws one execve(2), one launch by ppy and one audit, from the models in caps, as SVG.

python doc/figures.py DIRECTORY writes execve.svg, launch.svg and audit.svg there.
"""

import sys
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

from caps import CapSet
from caps.audit.search import search
from caps.audit.types import Call, Run
from caps.explain.execve import execve
from caps.explain.ppy import ppy_state
from caps.system.launcher import LAUNCHER_CAPS
from caps.system.types import File, FileCaps, Ids, Process

SETS = 'bounding', 'inheritable', 'ambient', 'permitted', 'effective'
COLUMN, LEFT, TOP, GAP = 150, 100, 92, 52
CHIP, LINE = 22, 26
COLOURS = '#2f6fb0', '#b3541e', '#2f7a3e', '#8a4fa3', '#7d6800', '#b8336a', '#2b6f79'
ALL, FLAG = 'all', 'flag: permitted'
Flow = tuple[int, str, int, str, str]
STYLE = """\
text { font: 13px sans-serif; fill: #222 } .head { font-weight: bold; font-size: 14px }
.name { font-style: italic } .small { font-size: 12px; fill: #555 } .chip { fill: #fff }
.lane { fill: #f3f4f6 } .flow { fill: none; stroke-width: 2.5; stroke-opacity: .55 }"""


class Column(NamedTuple):
    """A process or a file at one moment: words for each set."""

    title: str
    subtitle: str
    words: dict[str, list[str]]


def words(members: CapSet) -> list[str]:
    return [ALL] if members == CapSet.all() else [*members]


def of_process(title: str, subtitle: str, process: Process) -> Column:
    return Column(title, subtitle, {name: words(getattr(process, name)) for name in SETS})


def of_file(title: str, subtitle: str, caps: FileCaps) -> Column:
    sets = {name: words(getattr(caps, name)) for name in ('permitted', 'inheritable')}
    return Column(title, subtitle, {**sets, 'effective': [FLAG] * caps.effective})


def draw(title: str, columns: list[Column], flows: set[Flow], lanes: tuple[str, ...] = SETS) -> str:
    """A table with sets as lanes, and curves where a capability comes from.

    flows: from which column and set to which column and set, and the capability
    """
    every = sorted({word for column in columns for part in column.words.values() for word in part})
    colour = {word: COLOURS[number % len(COLOURS)] for number, word in enumerate(every)}
    heights = {
        name: 14 + LINE * max(1, *(len(column.words.get(name, ())) for column in columns))
        for name in lanes
    }
    tops, top = {}, TOP
    for name in lanes:
        tops[name] = top
        top += heights[name] + 6
    pitch = COLUMN + GAP
    width, height = LEFT + pitch * len(columns) - GAP + 20, top + 10

    def place(number: int, name: str, word: str) -> tuple[int, int]:
        row = columns[number].words[name].index(word)
        return LEFT + number * pitch, tops[name] + 10 + row * LINE

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        f'<title>{escape(title)}</title>',
        f'<style>{STYLE}</style>',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text class="head" x="16" y="26">{escape(title)}</text>',
    ]
    for name in lanes:
        y, h = tops[name], heights[name]
        lines.append(f'<rect class="lane" x="8" y="{y}" width="{width - 16}" height="{h}" rx="6"/>')
        lines.append(f'<text class="name" x="18" y="{y + h // 2 + 5}">{name}</text>')
    for number, column in enumerate(columns):
        x = LEFT + number * pitch
        lines.append(f'<text class="head" x="{x}" y="58">{escape(column.title)}</text>')
        lines.append(f'<text class="small" x="{x}" y="76">{escape(column.subtitle)}</text>')
    for source, from_, target, to, word in sorted(flows):
        x1, y1 = place(source, from_, word if word in columns[source].words[from_] else ALL)
        x2, y2 = place(target, to, word)
        x1, y1, y2 = x1 + COLUMN, y1 + CHIP // 2, y2 + CHIP // 2
        middle = (x1 + x2) // 2
        path = f'M{x1} {y1} C{middle} {y1} {middle} {y2} {x2} {y2}'
        lines.append(f'<path class="flow" d="{path}" stroke="{colour[word]}"/>')
    for number, column in enumerate(columns):
        for name in lanes:
            if name in column.words and not column.words[name]:
                x, y = LEFT + number * pitch, tops[name] + heights[name] // 2 + 5
                lines.append(f'<text class="small" x="{x + 8}" y="{y}">empty</text>')
            for word in column.words.get(name, ()):
                x, y = place(number, name, word)
                box = f'x="{x}" y="{y}" width="{COLUMN}" height="{CHIP}" rx="5"'
                lines.append(f'<rect {box} fill="{colour[word]}"/>')
                lines.append(f'<text class="chip" x="{x + 8}" y="{y + 16}">{escape(word)}</text>')
    return '\n'.join([*lines, '</svg>\n'])


def taken(file: int | None, before: int, after: int, process: Process, program: File) -> set[Flow]:
    """Where execve(2) takes each capability from: the file's sets pass those of the process."""
    state, caps = execve(process, program).process, program.caps or FileCaps()
    if state is None:
        raise ValueError('this execution fails')
    bounded = caps.permitted & process.bounding
    inherited = caps.inheritable & process.inheritable
    ways = {
        (before, 'bounding', after, 'bounding'): state.bounding,
        (before, 'inheritable', after, 'inheritable'): state.inheritable,
        (before, 'ambient', after, 'ambient'): state.ambient,
        (before, 'ambient', after, 'permitted'): state.ambient,
        (before, 'inheritable', after, 'permitted'): inherited,
    }
    if file is not None:
        ways[before, 'bounding', after, 'permitted'] = bounded
        ways[file, 'permitted', before, 'bounding'] = bounded
        ways[file, 'inheritable', before, 'inheritable'] = inherited
    return {(*way, word) for way, members in ways.items() for word in words(members)}


def execve_figure() -> str:
    """One execution by a user who is not root."""
    process = Process(
        bounding=CapSet('cap_chown,cap_kill,cap_net_raw'),
        inheritable=CapSet('cap_net_raw'),
        uid=Ids(1000, 1000, 1000),
    )
    caps = FileCaps(CapSet('cap_chown,cap_sys_admin'), CapSet('cap_kill,cap_net_raw'))
    program = File('program', caps=caps)
    after = execve(process, program).process
    assert after is not None
    columns = [
        of_file('the file', 'without the effective flag', caps),
        of_process('the process', 'before', process),
        of_process('the process', 'after', after),
    ]
    return draw(
        'Where execve(2) takes the five sets from', columns, taken(0, 1, 2, process, program)
    )


def launch_figure() -> str:
    """One launch of a script that is marked cap_net_raw=i."""
    caller = Process(uid=Ids(1000, 1000, 1000), gid=Ids(1000, 1000, 1000))
    ppy = File('ppy', caps=FileCaps.of(LAUNCHER_CAPS))
    mark = FileCaps(inheritable=CapSet('cap_net_raw'))
    script = File('script.py', uid=1001, gid=1001, caps=mark)
    copy = File('python3', 0o700, caps=FileCaps(inheritable=CapSet.all()))
    started = execve(caller, ppy).process
    assert started is not None
    ready = ppy_state(started, script)
    running = execve(ready, copy).process
    assert running is not None
    columns = [
        of_process('the caller', 'user 1000', caller),
        of_process('ppy', 'still user 1000, by its own mark', started),
        of_process('ppy, ready', "user 1001, the script's owner", ready),
        of_process('the script', 'effective is for it to fill', running),
    ]
    flows = taken(None, 0, 1, caller, ppy) | taken(None, 2, 3, ready, copy)
    for name in 'permitted', 'effective':
        flows |= {(1, name, 2, name, word) for word in words(getattr(ready, name))}
    return draw('What ppy makes of a script that is marked cap_net_raw=i', columns, flows)


def audit_figure() -> str:
    """An audit of a command that reads a closed directory and gives a file away."""
    steps = {
        ('openat', 'EACCES'): ('cap_dac_read_search', 'cap_dac_override'),
        ('fchownat', 'EPERM'): ('cap_chown',),
    }

    def start(caps: CapSet) -> Run:
        for (name, error), enough in steps.items():
            if not caps & enough:
                return Run(caps, 2, False, {Call(name, error, enough): 1})
        return Run(caps, 0, True, {})

    runs = search(start, CapSet.all()).runs
    columns = []
    for number, run in enumerate(runs, 1):
        failures = [f'{name} {error}' for name, error in run.failures()]
        ends = {'it has': [*run.caps], 'it is refused': [*run.refused], 'it ends': failures}
        subtitle = 'it does its work' if run.is_done else 'it fails'
        ends['it ends'] += [f'exit {run.status}']
        columns.append(Column(f'run {number}', subtitle, ends))
    flows = {
        (number, 'it is refused', number + 1, 'it has', name)
        for number, (before, after) in enumerate(pairwise(runs))
        for name in before.refused & after.caps
    }
    lanes = 'it has', 'it is refused', 'it ends'
    return draw('An audit of a command that needs two capabilities', columns, flows, lanes)


FIGURES = {'execve.svg': execve_figure, 'launch.svg': launch_figure, 'audit.svg': audit_figure}

if __name__ == '__main__':
    for name, figure in FIGURES.items():
        Path(sys.argv[1], name).write_text(figure())
