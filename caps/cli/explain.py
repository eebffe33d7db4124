"""caps explain: what executing a file would do, and why."""

from __future__ import annotations

import argparse
import errno
import stat

from caps.cli.documents import IDS, PROBLEMS, Document
from caps.cli.output import Output
from caps.cli.parsers import Commands
from caps.system.types import SETS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from caps.explain import Explanation, Step
    from caps.system.files import Executable
    from caps.system.types import FileCaps, Process

EXAMPLES = """\
The exit status is 1 where the file would not run.

examples:
  caps explain ./backup.py                    what running it as this account would do
  caps explain venv/bin/python --as daemon    for another account
  caps explain /usr/bin/ping --pid 1234       for the state of a process
  caps explain --ppy /usr/local/bin/ppy backup.py    as 'ppy backup.py' would run it
"""
MOMENT: dict[str, object] = {  # a process before or after an execve(2)
    'inheritable': ['str'],
    'permitted': ['str'],
    'effective': ['str'],
    'ambient': ['str'],
    'bounding': ['str'],
    'uid': IDS,
    'gid': IDS,
    'groups': ['int'],
    'securebits': ['str'],
    'no_new_privs': 'bool',
    'namespace_root': 'int',  # -1 where it has none
}
EXECUTABLE = {
    'path': 'str',
    'real_path': 'str',
    'links': [{'path': 'str', 'target': 'str'}],
    'venv': 'str | null',
    'mode': 'str',  # octal
    'uid': 'int',
    'gid': 'int',
    'capabilities | null': {
        'text': 'str',
        'permitted': ['str'],
        'inheritable': ['str'],
        'effective': 'bool',  # the flag
        'root_id': 'int',
    },
    'mount': {'point': 'str | null', 'type': 'str', 'nosuid': 'bool', 'noexec': 'bool'},
    'shebang': 'str | null',
    'is_program': 'bool',
}
SHAPE: dict[str, object] = {
    'file': EXECUTABLE,
    'interpreters': [EXECUTABLE],
    'user': 'str | null',
    'process': {'pid': 'int', 'name': 'str', **MOMENT},
    'ppy | null': {
        'path': 'str',
        'checks': [{'holds': 'bool', 'text': 'str', 'fix': 'str | null'}],
    },
    'steps': [
        {
            'what': 'str',
            'before': MOMENT,
            'after | null': MOMENT,
            'error': 'str | null',  # EPERM, ENOENT, ...
            'secure': 'bool',  # AT_SECURE
            'reasons': [{'rule': 'str', 'about': 'str', 'text': 'str'}],
        }
    ],
    'error': 'str | null',
    'after | null': MOMENT,
    'caveats': ['str'],
    'advice': [{'rule': 'str', 'text': 'str', 'command': 'str | null'}],
    **PROBLEMS,
}


def add(commands: Commands) -> None:
    """Add the command to a parser."""
    text = 'what executing a file would do, and why'
    parser = commands.add('explain', run, text, EXAMPLES, SHAPE)
    parser.add_argument('file', metavar='FILE')
    parser.add_argument('--as', dest='user', metavar='USER', help='default: this account')
    parser.add_argument('--pid', type=int, help='in the state of this process')
    parser.add_argument('--ppy', metavar='PPY', help='started by this launcher')


def run(arguments: argparse.Namespace, out: Output) -> bool:
    from caps.explain import explain

    explanation = explain(arguments.file, arguments.user, arguments.pid, arguments.ppy)
    out.document = document(explanation)
    for title, lines in explanation.sections:
        out.line(title, style='bold')
        for line in lines:
            out.line(f'  {line}')
    return explanation.error is None


def document(explanation: Explanation) -> Document:
    """What becomes of a process that executes a file."""
    executables = [*explanation.executable.chain]
    actor, launcher = explanation.actor, explanation.launcher
    return {
        'file': _executable(executables[0]),
        'interpreters': [*map(_executable, executables[1:])],
        'user': explanation.user,
        'process': {'pid': actor.pid, 'name': actor.name} | _moment(actor.process),
        'ppy': launcher
        and {
            'path': launcher.path,
            'checks': [
                {'holds': check.holds, 'text': check.text, 'fix': check.fix}
                for check in explanation.checks
            ],
        },
        'steps': [*map(_step, explanation.steps)],
        'error': explanation.error,
        'after': explanation.after and _moment(explanation.after),
        'caveats': list(explanation.caveats),
        'advice': [
            {'rule': advice.rule, 'text': advice.text, 'command': advice.command}
            for advice in explanation.advice
        ],
    }


def _step(step: Step) -> Document:
    return {
        'what': step.what,
        'before': _moment(step.before),
        'after': step.outcome.process and _moment(step.outcome.process),
        'error': errno.errorcode.get(step.outcome.error),
        'secure': step.outcome.secure,
        'reasons': [{**vars(reason)} for reason in step.outcome.reasons],
    }


def _moment(process: Process) -> Document:
    return {
        **{name: [*getattr(process, name)] for name in SETS},
        'uid': {**vars(process.uid)},
        'gid': {**vars(process.gid)},
        'groups': sorted(process.groups),
        'securebits': [*process.securebits],
        'no_new_privs': process.no_new_privs,
        'namespace_root': process.namespace.roots[0],
    }


def _executable(executable: Executable) -> Document:
    file, mount = executable.file, executable.mount
    return {
        'path': executable.path,
        'real_path': executable.real_path,
        'links': [{'path': path, 'target': target} for path, target in executable.links],
        'venv': executable.venv,
        'mode': f'{stat.S_IMODE(file.mode):04o}',
        'uid': file.uid,
        'gid': file.gid,
        'capabilities': file.caps and _file_caps(file.caps),
        'mount': {
            'point': mount.point,
            'type': mount.kind,
            'nosuid': mount.nosuid,
            'noexec': mount.noexec,
        },
        'shebang': executable.first_line and executable.first_line.text,
        'is_program': file.is_program,
    }


def _file_caps(caps: FileCaps) -> Document:
    return {
        'text': str(caps),
        'permitted': [*caps.permitted],
        'inheritable': [*caps.inheritable],
        'effective': caps.effective,
        'root_id': caps.root_id,
    }
