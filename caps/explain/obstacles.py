"""What stands in the way of an execution: the mount, the process, or its sets, and what helps."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from caps import CapSet
from caps.explain.types import Advice, Step
from caps.system.files import Executable
from caps.system.launcher import NAME, PREFIX
from caps.system.path import closed_directory
from caps.system.records import replace


def obstacles(
    executable: Executable, started: Executable, program: Executable, step: Step
) -> Iterator[Advice]:
    """What stands in the way of an execution, or of a capability in it.

    executable: the file that is asked about.
    started: the file that is executed, which can be a ppy.
    program: the one that runs in the end, an interpreter for instance.
    """
    yield from _on_access(started, step)
    yield from _on_mount(program, step)
    yield from _on_process(program, step)
    yield from _on_sets(executable, program, step)


def _on_access(started: Executable, step: Step) -> Iterator[Advice]:
    rules = _rules(step)
    if 'format' in rules:
        from shutil import which

        text, command = 'a script needs #! and an interpreter as its first line', None
        if started.stray:
            text = f'its first line has {started.stray} before #!: remove that'
        if started.file.caps:
            text += '; a script that is marked for ppy can also be started by ppy directly'
            ppy = which(NAME) or f'{PREFIX}/bin/{NAME}'
            command = shlex.join(['caps', 'explain', '--ppy', ppy, started.path])
        yield Advice('format', text, command)
    if 'access' not in rules:
        return
    for member in started.chain:
        if member.has_path and (closed := closed_directory(step.before, member.real_path)):
            text = (
                f'{closed} is closed to the user: put {member.real_path} where the user can reach '
                'it, or make the user a member of a group that may search the directory'
            )
            yield Advice('access', text)
            return
    path = next(member for member in started.chain if member.file is step.outcome.program).real_path
    text = f'make the user a member of a group that may execute {path}'
    yield Advice('access', text)


def _on_mount(program: Executable, step: Step) -> Iterator[Advice]:
    mount, rules = program.mount, _rules(step)
    for rule, option, text in (
        ('noexec', 'exec', 'let the mount execute programs'),
        ('nosuid', 'suid', 'let capabilities count on the mount'),
        ('nosuid-ids', 'suid', 'let set-id bits count on the mount'),
    ):
        if rule in rules:
            command = ['mount', '-o', f'remount,bind,{option}', mount.point or '']
            yield Advice(
                rule,
                f'{text}, or put the file on another mount',
                shlex.join(command) if mount.point else None,
            )


def _on_process(program: Executable, step: Step) -> Iterator[Advice]:
    """What to change in the process, or to take from the file."""
    process, caps, rules = step.before, program.file.caps, _rules(step)
    if process.no_new_privs and (caps or rules & {'no-new-privs', 'no-new-privs-ids'}):
        yield Advice(
            'no-new-privs',
            'start from a process without no_new_privs, which cannot be taken back: look for '
            'NoNewPrivileges= (systemd), --security-opt no-new-privileges (containers), '
            'allowPrivilegeEscalation (Kubernetes), --no-new-privs (setpriv)',
        )
    if 'root-id' in rules and caps:
        if program.mount.idmapped:
            text = (
                'it is on an idmapped mount, which changes the owners of files and the root ids of '
                'marks: mark it where it is not mapped, for the user who is shown as 0 here'
            )
            yield Advice('root-id', text)
        elif process.namespace.roots[0] == -1:
            text = (
                'the user namespace of the process has no user 0, and marks only count where there '
                'is one: map a user to 0 (user_namespaces(7))'
            )
            yield Advice('root-id', text)
        else:
            text = (
                'its mark only counts in the user namespace that it was made in: mark it here too'
            )
            yield Advice('root-id', text, setcap(str(caps), program))
    if 'setuid-root-file' in rules:
        text = 'a set-user-ID root program with a mark gets only the mark: unmark it'
        yield Advice('setuid-root-file', text, unmark(program))
    lost = process.ambient - (step.outcome.process or process).permitted
    if lost and 'ambient-file' in rules:
        yield Advice(
            'ambient-file',
            f'its own mark makes it lose the ambient {lost}: unmark it',
            unmark(program),
        )
    if lost and 'ambient-ids' in rules:
        yield Advice(
            'ambient-ids',
            f'its set-id bits make it lose the ambient {lost}: clear them',
            _on_file(program, 'chmod', 'u-s,g-s'),
        )


def _on_sets(executable: Executable, program: Executable, step: Step) -> Iterator[Advice]:
    """The capabilities of the file that the process does not get because of its own sets."""
    process, caps, rules = step.before, program.file.caps, _rules(step)
    if caps is None or not rules & {'file', 'too-little'} or 'root' in rules:
        return
    given = (caps.permitted & process.bounding) | (caps.inheritable & process.inheritable)
    missing = (caps.permitted & CapSet.all()) - given
    if missing and not process.bounding:
        yield Advice(
            'bounding',
            'the bounding set is empty, as ppy leaves it (ppy(8)), and nothing can be added to it: '
            'a script under ppy can start neither a marked program nor another script under ppy; '
            'start a program without a mark, and make ambient what it needs',
        )
        return
    if missing:
        yield Advice(
            'bounding',
            f'nothing can be added to the bounding set: start from a process that has {missing} '
            'in it; see --cap-add (containers), CapabilityBoundingSet= (systemd)',
        )
    if 'too-little' in rules and program.record is None:
        text = 'or mark it without the effective flag, to run with less'
        yield Advice('too-little', text, setcap(str(replace(caps, effective=False)), program))
    if executable is program and (useless := (caps.inheritable & process.bounding) - given):
        text = (
            "a file's inheritable capabilities reach only processes that have them inheritable, "
            f'and this one lacks {useless}: start the file from a process that has them '
            'inheritable (setpriv --inh-caps=+CAPABILITY, or pam_cap(8) for an account). A mark '
            'with =p would give them to everyone who may execute it'
        )
        yield Advice('inheritable', text)


def _rules(step: Step) -> set[str]:
    return {reason.rule for reason in step.outcome.reasons}


def _on_file(executable: Executable, *words: str) -> str | None:
    """A command on a file, if a path leads to it."""
    return shlex.join([*words, executable.real_path]) if executable.has_path else None


def setcap(text: str, executable: Executable) -> str | None:
    return _on_file(executable, 'setcap', text)


def unmark(executable: Executable) -> str | None:
    return _on_file(executable, 'setcap', '-r')
