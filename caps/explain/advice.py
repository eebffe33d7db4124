"""What to do: a sentence for each rule that stands in the way."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace

from caps import Caps, CapSet
from caps.explain.ppy import Given
from caps.explain.types import Advice, Check, Step
from caps.explain.words import newer
from caps.system.elf import vanishing_libraries
from caps.system.files import UNMARKED, Executable, look_at_file
from caps.system.launcher import NAME, PREFIX
from caps.system.path import closed_directory
from caps.system.types import FileCaps

ACTIVATE = 'caps.Caps.from_process().activate().apply()'


def advice_on(
    executable: Executable,
    started: Executable,
    given: Given | None,
    *,
    checks: tuple[Check, ...],
    steps: list[Step],
    is_launched: bool,
    environ: Mapping[str, str],
) -> Iterator[Advice]:
    for check in checks:
        if not check.holds:
            text = f'ppy refuses, since this does not hold: {check.text}'
            yield Advice('ppy-check', text, check.fix)
    for member in executable.chain:
        yield from _on_marks(member)
    step = steps[-1]
    if given and is_launched:
        yield from _on_launch(step, given.script)
        return
    if given is None:
        yield from _on_script(executable)
    yield from _on_access(started, step)
    program = next(member for member in started.chain if member.file is step.outcome.program)
    yield from _on_mount(program, step)
    yield from _on_process(program, step)
    yield from _on_sets(executable, program, step)
    if given is None:
        yield from _on_end(executable, program, step, environ)


def _rules(step: Step) -> set[str]:
    return {reason.rule for reason in step.outcome.reasons}


def _on_file(executable: Executable, *words: str) -> str | None:
    """A command on a file, if a path leads to it."""
    return shlex.join([*words, executable.real_path]) if executable.has_path else None


def _setcap(text: str, executable: Executable) -> str | None:
    return _on_file(executable, 'setcap', text)


def _unmark(executable: Executable) -> str | None:
    return _on_file(executable, 'setcap', '-r')


def _on_marks(executable: Executable) -> Iterator[Advice]:
    caps = executable.file.caps
    if caps is None:
        return
    if executable.venv:
        text = (
            f'the mark of {executable.real_path} is for everyone who runs it: unmark it '
            f'({_unmark(executable)}), and mark a copy in the environment'
        )
        command = shlex.join(['caps', 'venv', 'mark', executable.venv, str(caps)])
        yield Advice('venv', text, command)
    elif executable.links and not _environment_of(executable):
        text = (
            f'the mark is on {executable.real_path}, and counts under each of its names: if that '
            f'is too much, make {executable.path} a copy instead of a link and mark the copy'
        )
        yield Advice('link', text)
    elif executable.is_stale and (environment := _environment_of(executable)):
        text = (
            f'this copy differs from its original, {executable.real_path}{UNMARKED}, for instance '
            'after an upgrade: mark it again'
        )
        command = shlex.join(['caps', 'venv', 'mark', environment, str(caps)])
        yield Advice('stale', text, command)
    if newer(caps.permitted) or newer(caps.inheritable):
        every = CapSet.all()
        renewed = FileCaps(
            every if newer(caps.permitted) else caps.permitted,
            every if newer(caps.inheritable) else caps.inheritable,
            caps.effective,
        )
        text = 'mark it again: the kernel has more capabilities than when it was marked'
        yield Advice('older-all', text, _setcap(str(renewed), executable))


def _environment_of(executable: Executable) -> str | None:
    """The virtual environment that the file itself is in, as a copy of `caps venv mark` is."""
    environment = os.path.dirname(os.path.dirname(executable.real_path))
    return environment if os.path.exists(f'{environment}/pyvenv.cfg') else None


def _on_script(executable: Executable) -> Iterator[Advice]:
    caps, mode = executable.file.caps, executable.file.mode
    if executable.interpreter is None or (caps is None and not mode & 0o6000):
        return
    text = (
        'the kernel ignores the capabilities and set-id bits of a script: let ppy start it (caps '
        'ppy install), as its owner and with its inheritable capabilities'
    )
    wanted = caps.permitted | caps.inheritable if caps else CapSet()
    yield Advice(
        'script', text, _setcap(str(Caps(inheritable=wanted)), executable) if wanted else None
    )


def _on_access(started: Executable, step: Step) -> Iterator[Advice]:
    rules = _rules(step)
    if 'format' in rules:
        text, command = 'a script needs #! and an interpreter as its first line', None
        if started.stray:
            text = f'its first line has {started.stray} before #!: remove that'
        if started.file.caps:
            text += '; a script that is marked for ppy can also be started by ppy directly'
            ppy = shutil.which(NAME) or f'{PREFIX}/bin/{NAME}'
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
            yield Advice('root-id', text, _setcap(str(caps), program))
    if 'setuid-root-file' in rules:
        text = 'a set-user-ID root program with a mark gets only the mark: unmark it'
        yield Advice('setuid-root-file', text, _unmark(program))
    lost = process.ambient - (step.outcome.process or process).permitted
    if lost and 'ambient-file' in rules:
        yield Advice(
            'ambient-file',
            f'its own mark makes it lose the ambient {lost}: unmark it',
            _unmark(program),
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
        yield Advice('too-little', text, _setcap(str(replace(caps, effective=False)), program))
    if executable is program and (useless := (caps.inheritable & process.bounding) - given):
        text = (
            "a file's inheritable capabilities reach only processes that have them inheritable, "
            f'and this one lacks {useless}: start the file from a process that has them '
            'inheritable (setpriv --inh-caps=+CAPABILITY, or pam_cap(8) for an account). A mark '
            'with =p would give them to everyone who may execute it'
        )
        yield Advice('inheritable', text)


def _on_end(
    executable: Executable, program: Executable, step: Step, environ: Mapping[str, str]
) -> Iterator[Advice]:
    """What is left to do where the program runs."""
    after, caps = step.outcome.process, program.file.caps
    if after is None:
        return
    is_script = executable is not program
    if idle := after.permitted - after.effective:
        text = f'the program must make {idle} effective (in Python {ACTIVATE})'
        command = None
        if caps and not caps.effective and not is_script:
            text += ', or its mark must have the effective flag'
            command = _setcap(str(replace(caps, effective=True)), program)
        yield Advice('idle', text, command)
    is_told = is_script and executable.file.caps is not None
    if not after.permitted and caps is None and not program.file.mode & 0o4000 and not is_told:
        if is_script:
            way = 'a mark on the interpreter is a mark on every script: mark this script for ppy'
        elif not step.before.namespace.maps(program.file.uid, program.file.gid):
            way = (
                'its owner or group is not in the user namespace of the process, so it can only be '
                'marked from outside (user_namespaces(7))'
            )
        elif environment := _environment_of(executable):
            command = f'caps venv mark {shlex.quote(environment)} CAPABILITIES'
            way = f"this is the environment's own copy of its python: mark it with {command}"
        elif executable.venv:
            command = f'caps venv mark {shlex.quote(executable.venv)} CAPABILITIES'
            way = f'everyone shares this python: give the environment a marked copy with {command}'
        else:
            way = (
                f'mark it (setcap CAPABILITIES=ep {shlex.quote(program.real_path)}) unless it is '
                'an interpreter, or make them ambient (setpriv --ambient-caps)'
            )
        text = (
            'nothing grants the program capabilities. For a user who is not root, --cap-add only '
            'widens the bounding set, and that is a limit, not a grant'
        )
        ask = f'caps audit -- {shlex.quote(executable.path)} tells which it needs'
        yield Advice('unmarked', f'{text}; {way}; {ask}')
    origin = os.path.dirname(program.real_path)
    lost_libraries = vanishing_libraries(program.elf, origin, environ) if program.elf else []
    if step.outcome.secure and lost_libraries:
        text = (
            f'the program will not start: in secure execution the loader does not look for '
            f'{", ".join(lost_libraries)} by $ORIGIN or LD_LIBRARY_PATH (ld.so(8)). Put it where '
            'the system has its libraries, or do without the mark'
        )
        yield Advice('libraries', text, _unmark(program) if caps else None)


def _on_launch(step: Step, script: Executable) -> Iterator[Advice]:
    """What is left to do where ppy executes the capped copy."""
    after, capped = step.outcome.process, look_at_file(step.outcome.program.path)
    if after is None:
        yield Advice('ppy-install', 'the capped copy cannot be executed: install ppy again')
        return
    if capped.file.caps and (news := newer(capped.file.caps.inheritable)):
        text = f'ppy was installed under an older kernel and cannot give {news}: install it again'
        yield Advice('older-all', text)
    if after.permitted:
        yield Advice('idle', f'the script must make {after.permitted} effective ({ACTIVATE})')
    else:
        text = 'the mark of the script is empty: it runs as its owner and without capabilities'
        ask = f'caps audit --ppy PPY -- {shlex.quote(script.path)} tells which'
        yield Advice('empty', f'{text}; if it needs any, mark it (setcap CAPABILITIES=i): {ask}')
