"""The tables of what audit.py found, from one machine or several; the documentation shows them.

python bench/audit_report.py FILE RESULTS... writes them; 1 where an audit was wrong.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from caps import CapSet

Results = dict[str, Any]
COLUMNS = 'granted', 'cap-audit', 'capable', 'strace'
TITLES = {
    'granted': 'granted with everything',
    'cap-audit': 'cap-audit',
    'capable': 'capable (bcc)',
    'strace': 'strace',
}


def spelled(names: Iterable[str] | None) -> str:
    if names is None:
        return 'no answer'
    return ', '.join(name.removeprefix('cap_') for name in names) or '-'


def wrong(truth: list[str] | None, said: list[str] | None) -> tuple[int, int]:
    """How many capabilities are false, and how many are missed; no answer where there is one."""
    wanted, given = CapSet(truth or ()), CapSet(said or ())
    return len(given - wanted), len(wanted - given)


def of_observer(row: Results, name: str) -> tuple[str, int, int]:
    """What an observer said of a program, and its false and missed."""
    said = row['observed'][name]
    if said['capabilities'] is not None:
        return spelled(said['capabilities']), *wrong(row['truth'], said['capabilities'])
    calls = said['calls']  # it names no capability: this is whether it shows that one is needed
    shown = ', '.join(calls) or '-'
    return shown, int(bool(calls) and not row['truth']), int(bool(row['truth']) and not calls)


def seen_by(name: str, all_results: list[Results]) -> Results | None:
    """The first results that have an observer."""
    for results in all_results:
        if any(name in row['observed'] for row in results['rows']):
            return results
    return None


def summary(results: Results) -> list[str]:
    rows = results['rows']
    lines = [f'{results["machine"]}, {len(rows)} programs:', '']
    if audited := [row for row in rows if 'needs' in row]:
        counts = [wrong(row['truth'], row['needs']) for row in audited]
        false, missed = (sum(each) for each in zip(*counts, strict=True))
        answers = sum((row['truth'] is None) != (row['needs'] is None) for row in audited)
        methods = ', '.join(dict.fromkeys(row['method'] for row in audited))
        lines.append(
            f'- ``caps audit``, {methods}: {false} false, {missed} missed; {answers} answered '
            'where there is no answer, or not answered where there is.'
        )
    for name in COLUMNS:
        said = [of_observer(row, name)[1:] for row in rows if name in row['observed']]
        if said:
            false, missed = (sum(each) for each in zip(*said, strict=True))
            lines.append(f'- {TITLES[name]}: {false} false, {missed} missed.')
    for name, why in results['absent'].items():
        lines.append(f'- {TITLES[name]} does not run there: {why}.')
    for name, cost in results.get('costs', {}).items():
        if cost:
            alone, traced = (f'{seconds * 1000:.0f} ms' for seconds in cost)
            lines.append(f'- ``{name}`` takes the processor {alone}, and {traced} while traced.')
    for name, times in results.get('times', {}).items():
        spent = {key: f'{seconds * 1000:.0f} ms' for key, seconds in times.items()}
        lines.append(
            f'- ``{name}``: the runs of its audit take {spent["runs"]} alone, the audit '
            f'{spent["audit"]} ({spent["first"]} the first time in a process), '
            f'``caps audit`` {spent["program"]}, of which {spent["python"]} is the start of Python '
            'with its modules.'
        )
    return [*lines, '']


def table(all_results: list[Results]) -> list[str]:
    first = all_results[0]
    columns = {name: found for name in COLUMNS if (found := seen_by(name, all_results))}
    titles = ', '.join(TITLES[name] for name in columns)
    lines = [
        '.. csv-table::',
        f'   :header: program, needs, caps audit, runs, time, {titles}',
        f'   :widths: 30 14 14 6 8 {" ".join("14" for _ in columns)}',
        '',
    ]
    for number, row in enumerate(first['rows']):
        cells = [row['command'], spelled(row['truth']), spelled(row['needs'])]
        cells += [str(row['runs']), f'{row["seconds"]:.1f} s']
        for name, results in columns.items():
            theirs = results['rows'][number]
            cells.append(of_observer(theirs, name)[0] if name in theirs['observed'] else '')
        lines.append('   ' + ', '.join('"' + cell.replace('"', '""') + '"' for cell in cells))
    return lines


def main(output: Path, *paths: Path) -> int:
    all_results = [json.loads(path.read_text()) for path in paths]
    lines = [line for results in all_results for line in summary(results)]
    print('\n'.join(lines))
    output.write_text('\n'.join([*lines, *table(all_results)]) + '\n')
    rows = [row for results in all_results for row in results['rows']]
    return int(any(row['truth'] != row.get('needs', row['truth']) for row in rows))


if __name__ == '__main__':
    sys.exit(main(*map(Path, sys.argv[1:])))
