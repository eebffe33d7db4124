"""What to do: about ppy's rules, about marks, about obstacles, and what is left to do."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping

from caps import Caps, CapSet
from caps.explain.obstacles import obstacles, setcap, unmark
from caps.explain.ppy import Given
from caps.explain.types import Advice, Check, Step
from caps.explain.words import newer
from caps.system.elf import vanishing_libraries
from caps.system.files import UNMARKED, Executable, look_at_file
from caps.system.records import replace
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
    program = next(member for member in started.chain if member.file is step.outcome.program)
    yield from obstacles(executable, started, program, step)
    if given is None:
        yield from _on_end(executable, program, step, environ)


def _on_marks(executable: Executable) -> Iterator[Advice]:
    caps = executable.file.caps
    if caps is None:
        return
    if executable.venv:
        text = (
            f'the mark of {executable.real_path} is for everyone who runs it: unmark it '
            f'({unmark(executable)}), and mark a copy in the environment'
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
        yield Advice('older-all', text, setcap(str(renewed), executable))


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
        'script', text, setcap(str(Caps(inheritable=wanted)), executable) if wanted else None
    )


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
            command = setcap(str(replace(caps, effective=True)), program)
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
        yield Advice('libraries', text, unmark(program) if caps else None)


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
