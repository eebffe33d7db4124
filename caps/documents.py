"""The documents that --json prints, made from what the other rooms answer with; see the schema."""

from __future__ import annotations

import errno
import stat
from typing import TYPE_CHECKING

from caps import Caps
from caps.schema import ALL_IDS
from caps.system.types import SETS

if TYPE_CHECKING:
    from caps.explain import Explanation, Step
    from caps.install import Installation
    from caps.system.files import Executable
    from caps.system.tasks import Task
    from caps.system.types import FileCaps, Process
    from caps.venv import Environment

Document = dict[str, object]


def state(caps: Caps) -> Document:
    """Three sets."""
    return {
        'text': str(caps),
        'effective': list(caps.effective),
        'permitted': list(caps.permitted),
        'inheritable': list(caps.inheritable),
    }


def file(path: str, caps: Caps) -> Document:
    """A file and its capabilities."""
    return {'path': path, 'marked': caps.marked, **state(caps), 'root_id': caps.root_id}


def process(task: Task) -> Document:
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
    }


def environment(environment: Environment) -> Document:
    """A virtual environment whose python is marked."""
    return {
        'directory': environment.directory,
        'python': environment.python,
        'names': environment.names,
        'unmarked': environment.unmarked,
        'owner': environment.owner,
        'group': environment.group,
        'who': environment.who,
        'closed': environment.closed,
        **state(environment.caps),
    }


def installation(installation: Installation) -> Document:
    """An installed ppy, or none."""
    allowed = installation.allowed
    return {
        'ppy': installation.ppy,
        'installed': bool(installation.original),
        'original': installation.original or None,
        'capped': installation.capped or None,
        'setuid': installation.setuid,
        'group': installation.group,
        'allowed': None if allowed is None else list(allowed),
        'allow_root': installation.allow_root,
    }


def explanation(explanation: Explanation) -> Document:
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
                {'holds': check.holds, 'text': check.text, 'mend': check.mend}
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
        'reasons': [reason._asdict() for reason in step.outcome.reasons],
    }


def _moment(process: Process) -> Document:
    return {
        **{name: [*getattr(process, name)] for name in SETS},
        'uid': process.uid._asdict(),
        'gid': process.gid._asdict(),
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
        'shebang': executable.shebang,
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
