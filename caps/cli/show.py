"""caps show: the state of processes."""

from __future__ import annotations

import argparse

from caps.cli.documents import IDS, PROBLEMS, STATE, Document, state
from caps.cli.output import Output
from caps.cli.parsers import Commands

TYPE_CHECKING = False
if TYPE_CHECKING:
    from caps.system.tasks import Task

EXAMPLES = """\
examples:
  caps show                  this command's own state, which it has from your shell
  caps show $$ 1             the shell and init
  caps show --all            every process
  caps show --with           every process that has capabilities
  caps show --listening      every process that listens to the network
  caps show --tree           of every process, each below its parent
  caps show --tree $$        the shell and what it has started
  caps show --all --json | jq '.processes[] | select(.effective != []) | .pid'
"""
ALL_IDS = {**IDS, 'file_system': 'int'}
PROCESS = {
    'pid': 'int',
    'parent': 'int',
    'name': 'str',
    'user': 'str',
    'uid': ALL_IDS,
    'gid': ALL_IDS,
    **STATE,
    'ambient': ['str'],
    'bounding': ['str'],
    'iab': 'str',
    'securebits': '[str] | null',
    'no_new_privs': 'bool',
    'seccomp': 'str',  # disabled, strict or filter
    'user_namespace': 'int | null',
    'differing_threads': ['int'],  # whose state is another than the main thread's
}
SOCKET = {'protocol': 'str', 'address': 'str', 'port': 'int', 'pids': ['int']}
SHAPE: Document = {
    'processes': [PROCESS],
    'sockets | null': [SOCKET],  # with --listening
    **PROBLEMS,
}


def add(commands: Commands) -> None:
    """Add the command to a parser."""
    parser = commands.add('show', run, 'the state of processes', EXAMPLES, SHAPE)
    parser.add_argument('pids', nargs='*', type=int, metavar='PID', help='default: this command')
    parser.add_argument('--tree', action='store_true', help='each process below its parent')
    parser.add_argument('--all', action='store_true', help='every process')
    parser.add_argument(
        '--with', dest='only', action='store_true', help='every process that has capabilities'
    )
    parser.add_argument('--brief', action='store_true', help='a line PID: TEXT for each')
    parser.add_argument(
        '--listening',
        action='store_true',
        help='who listens to the network, with which capabilities',
    )


def run(arguments: argparse.Namespace, out: Output) -> bool:
    from caps.proc import require
    from caps.system import tasks

    if arguments.listening:
        return _run_listening(out)
    pids = arguments.pids
    arguments.all |= arguments.only
    shown: list[Task] = []
    depths: list[int] = []
    if arguments.all and pids:
        raise ValueError('--all and --with show every process: name none, or use --tree')
    if arguments.tree or arguments.all:
        shown = tasks.everything()
        if arguments.only:
            shown = [task for task in shown if task.caps or task.iab.ambient]
        for pid in sorted(set(pids) - {task.pid for task in shown}):
            out.problem(f'{pid}: no such process')
    if arguments.tree:
        ordered = tasks.tree(shown, pids)
        shown, depths = [task for _, task in ordered], [depth for depth, _ in ordered]
    elif not arguments.all:
        for pid in pids or [require()]:
            with out.noting():
                shown.append(tasks.read(pid))
    if out.as_json:
        out.document = {'processes': [document(task) for task in shown], 'sockets': None}
        return True
    if arguments.brief:
        for task in shown:
            out.line(f'{task.pid}:', str(task.caps))
        return True
    if arguments.tree or arguments.all:
        here = tasks.user_namespace('self')
        rows = [
            (*_who(task, depth), str(task.caps), str(task.iab), ', '.join(task.notes(here)))
            for task, depth in zip(shown, depths or [0] * len(shown), strict=True)
        ]
        out.table(('PID', 'USER', 'NAME', 'CAPS', 'IAB', 'NOTES'), rows)
        return True
    for task in shown:
        _print(task, out)
    return True


def _who(task: Task, depth: int = 0) -> tuple[str, str, str]:
    return str(task.pid), task.user, '  ' * depth + task.name


def _run_listening(out: Output) -> bool:
    from caps.system import sockets, tasks

    known = {task.pid: task for task in tasks.everything()}
    listening, rows, holding = sockets.listening(), [], set[int]()
    for socket in listening:
        holding |= known.keys() & {*socket.pids}
        place = f'{socket.address}:{socket.port}' if socket.port else socket.address
        holders = [(*_who(known[pid]), str(known[pid].caps)) for pid in socket.pids if pid in known]
        # Whose it is can be hidden: another account's, or in another pid namespace.
        rows += [(socket.protocol, place, *holder) for holder in holders or [('?',) * 4]]
    out.document = {
        'processes': [document(known[pid]) for pid in sorted(holding)],
        'sockets': [socket._asdict() | {'pids': list(socket.pids)} for socket in listening],
    }
    out.table(('PROTOCOL', 'ADDRESS', 'PID', 'USER', 'NAME', 'CAPS'), rows)
    return bool(rows)


def _print(task: Task, out: Output) -> None:
    from caps.system.tasks import in_words, user_namespace

    out.line(str(task.pid), task.name, f'({task.user})', style='bold')
    sets = {name: task.caps[name] for name in ('effective', 'permitted', 'inheritable')}
    for name, members in (
        sets | {name: task.iab[name] for name in ('ambient', 'bounding')}
    ).items():
        style = 'yellow' if members and name in ('effective', 'permitted', 'ambient') else ''
        out.line(f'  {name:<15}', in_words(members), style=style)
    if task.securebits is not None:
        out.line(f'  {"secure bits":<15}', ', '.join(task.securebits) or 'none')
    out.line(f'  {"no_new_privs":<15}', 'yes' if task.no_new_privs else 'no')
    out.line(f'  {"seccomp":<15}', task.seccomp)
    if task.differing:
        threads = ' '.join(map(str, task.differing))
        out.line(f'  {"threads":<15}', f'{threads} differ: caps show {threads}', style='yellow')
    here = ' (as here)' if task.user_namespace == user_namespace('self') else ''
    out.line(f'  {"user namespace":<15}', f'{task.user_namespace or "unknown"}{here}')


def document(task: Task) -> Document:
    """A process or thread, as `caps show` has it."""
    return {
        'pid': task.pid,
        'parent': task.parent,
        'name': task.name,
        'user': task.user,
        'uid': dict(zip(ALL_IDS, task.uids, strict=True)),
        'gid': dict(zip(ALL_IDS, task.gids, strict=True)),
        **state(task.caps),
        'ambient': list(task.iab.ambient),
        'bounding': list(task.iab.bounding),
        'iab': str(task.iab),
        'securebits': task.securebits,
        'no_new_privs': task.no_new_privs,
        'seccomp': task.seccomp,
        'user_namespace': task.user_namespace,
        'differing_threads': task.differing,
    }
