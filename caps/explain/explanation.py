"""An account of what executing a file would do to a process, and why; and what to do about it."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import stat
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from caps import Caps, CapSet
from caps.explain.execve import Outcome, Reason, execve
from caps.explain.ppy import ppy_state
from caps.system.elf import vanishing_libraries
from caps.system.files import SIZE, Executable, look_at_file
from caps.system.launcher import LAUNCHER_CAPS, NAME, PREFIX, means_all, read_record
from caps.system.path import closed_directory, strangers
from caps.system.processes import Actor, as_user, look_at_process
from caps.system.tasks import in_words
from caps.system.types import SETS, FileCaps, Process

ACTIVATE = 'caps.Caps.from_process().activate().apply()'


@dataclass(frozen=True)
class Check:
    """What ppy-check says about one of ppy's rules."""

    holds: bool
    text: str
    mend: str | None = None


@dataclass(frozen=True)
class Step:
    """One change of a process: by execve(2) of a program, or by ppy itself."""

    what: str
    before: Process
    outcome: Outcome


@dataclass(frozen=True)
class Advice:
    """What to do: the rule that is in the way, a sentence, and a command that does it."""

    rule: str
    text: str
    command: str | None = None


@dataclass(frozen=True)
class Explanation:
    """What becomes of a process that executes a file.

    sections: headings with sentences, from top to bottom; ``str()`` puts them together.
    """

    found: Executable
    actor: Actor
    user: str | None
    launcher: Executable | None
    checks: tuple[Check, ...]
    steps: tuple[Step, ...]
    error: str | None
    caveats: tuple[str, ...]
    advice: tuple[Advice, ...]

    @property
    def after(self) -> Process | None:
        """The state in the end, None where there is an error."""
        return None if self.error else self.steps[-1].outcome.process

    @property
    def sections(self) -> list[tuple[str, list[str]]]:
        """The account: each heading with its sentences."""
        parts = [(_heading(one, one is self.found), [*_of_file(one)]) for one in self.found.chain]
        if self.launcher and self.launcher.path not in [one.path for one in self.found.chain]:
            parts.append((_heading(self.launcher, False), [*_of_file(self.launcher)]))
        parts.append(('The process', [*_of_process(self.actor.process, self.user or self.actor)]))
        if self.checks:
            parts.append(("ppy's checks", [*_of_checks(self.checks)]))
        parts += [(step.what, [*_of_step(step)]) for step in self.steps]
        if self.caveats:
            parts.append(('Not taken into account', [*self.caveats]))
        parts.append(('What to do', [*map(_of_advice, self.advice)] or ['nothing']))
        return parts

    def __str__(self) -> str:
        return '\n\n'.join(
            '\n'.join([heading, *(f'  {sentence}' for sentence in sentences)])
            for heading, sentences in self.sections
        )


def explain(
    path: str | os.PathLike[str],
    user: str | int | None = None,
    pid: int | None = None,
    launcher: str | os.PathLike[str] | None = None,
) -> Explanation:
    """Explain what executing a file would do.

    path: the file; a script and a symbolic link are followed.
    user: an account that executes it, after a login; by default the process as it is.
    pid: the process that executes it or that the user's login has its limits from; by default
    this one.
    launcher: a ppy that is given the file as its first argument; a ppy that is named in the
    file's first line is seen without it.
    Raises OSError where a file or the process is not there, LookupError where the account is not,
    ValueError where a file's capabilities are malformed; see execve(2) and capabilities(7).
    """
    found, actor = _look(os.fspath(path)), look_at_process(pid)
    if user is not None:
        actor = Actor(actor.pid, actor.name, as_user(actor.process, user), actor.caveats)
    started = found if launcher is None else _look(os.fspath(launcher))
    ppy = next((one for one in started.chain if _is_ppy(one)), None)
    if launcher is not None and ppy is None:
        raise ValueError(f'{started.path} is not an installed ppy')
    steps = [_execution(actor.process, started)]
    checks: tuple[Check, ...] = ()
    if ppy:
        is_other = user is not None or pid is not None
        said = _checks(ppy, found, actor.process, is_other)
        checks = (*_own_checks(steps[0].outcome), *said)
        if all(check.holds for check in checks):
            steps += _launch(steps[0].outcome, ppy, found)
    error = errno.errorcode.get(steps[-1].outcome.error)
    if ppy and not error and not all(check.holds for check in checks):
        error = 'refused by ppy'
    caveats = (*_file_caveats(found), *actor.caveats)
    if checks and os.geteuid() not in (0, actor.process.uid.real):
        caveats += (f'ppy-check has judged by user {os.geteuid()}, since only root can be others',)
    return Explanation(
        found,
        actor,
        None if user is None else str(user),
        ppy,
        checks,
        tuple(steps),
        error,
        caveats,
        tuple(_advice(found, started, ppy, checks, steps, os.environ if pid is None else {})),
    )


def _look(path: str) -> Executable:
    """A file that was named by an argument, where a shell's habits may have left the path out."""
    try:
        return look_at_file(path)
    except FileNotFoundError as error:
        if error.filename == path and '/' not in path and (command := shutil.which(path)):
            error.strerror = f'{error.strerror}; did you mean {command!r}?'
        raise


def _is_ppy(found: Executable) -> bool:
    with suppress(PermissionError):  # everyone may read a ppy, but not every program
        return found.size <= SIZE and read_record(found.path) is not None
    return False


def _execution(process: Process, found: Executable) -> Step:
    for one in found.chain:
        if closed := closed_directory(process, one.real_path):
            text = f'user {process.uid.effective} may not search {closed} (path_resolution(7))'
            reason = Reason('access', 'file', text)
            return _failed(process, found, errno.EACCES, reason)
    return Step(f'Executing {found.path}', process, execve(process, found.file))


def _failed(process: Process, found: Executable, error: int, reason: Reason) -> Step:
    outcome = Outcome(None, error, False, found.file, (reason,))
    return Step(f'Executing {found.path}', process, outcome)


def _own_checks(outcome: Outcome) -> Iterator[Check]:
    """What ppy-check, which is not privileged, cannot see: what ppy itself is given."""
    if outcome.process is None:
        yield Check(False, 'ppy: must be executable')
    elif missing := LAUNCHER_CAPS.permitted - outcome.process.permitted:
        yield Check(False, f'{missing}: must have been given to ppy')


def _checks(
    ppy: Executable, found: Executable, process: Process, is_other: bool
) -> Iterator[Check]:
    """What ppy-check beside a ppy says, started as the user where that is possible."""
    program = f'{ppy.real_path}-check'
    if not _belongs_to_root(program):
        yield Check(False, f'{program}: must be there, and nobody but root may change it')
        return
    identity: dict[str, object] = {}
    if is_other and os.geteuid() == 0:
        identity = {'user': process.uid.real, 'group': process.gid.real}
        identity['extra_groups'] = sorted(process.groups)
    try:
        done = subprocess.run(
            [program, os.path.abspath(found.path)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={},
            timeout=30,
            **identity,  # type: ignore[call-overload]
        )
    except (OSError, subprocess.SubprocessError) as error:
        yield Check(False, f'{program}: must run, and not end with {error}')
        return
    said = []
    for line in os.fsdecode(done.stdout + done.stderr).splitlines():
        verdict, _, rest = line.partition(' ')
        text, _, mend = rest.strip().partition('; mend: ')
        said.append(Check(verdict == 'ok', text, mend or None))
    yield from said
    if not said or (done.returncode and all(check.holds for check in said)):
        yield Check(False, f'{program}: must say what holds, and not end with {done.returncode}')
    marked = found.file.caps.inheritable if found.file.caps else CapSet()
    if missing := marked - process.bounding:
        yield Check(False, f'{missing}: must be in the bounding set of the process')


def _belongs_to_root(path: str) -> bool:
    """Whether nobody but root can have put a program there, so that it may be run."""
    with suppress(OSError):
        info = os.lstat(path)
        if stat.S_ISREG(info.st_mode) and not info.st_uid and not info.st_mode & 0o022:
            return not any(strangers(os.path.dirname(path)))
    return False


def _launch(outcome: Outcome, ppy: Executable, found: Executable) -> Iterator[Step]:
    """What ppy makes of itself, and its execution of the capped copy."""
    before = outcome.process
    record = read_record(ppy.path)
    if before is None or record is None:
        return
    capped = look_at_file(record[1])
    state = ppy_state(before, found.file)
    reasons = (
        Reason('ppy-ids', 'ids', f"ppy becomes the script's owner, user {found.file.uid} (ppy(8))"),
        Reason('ppy-inheritable', 'inheritable', "ppy takes the script's inheritable set (ppy(8))"),
        Reason('ppy-permitted', 'permitted', 'ppy keeps what it takes to execute the capped copy'),
        Reason('ppy-effective', 'effective', 'ppy keeps what it takes to execute the capped copy'),
        Reason('ppy-ambient', 'ambient', 'ppy clears ambient (ppy(8))'),
        Reason('ppy-bounding', 'bounding', 'ppy drops the whole bounding set (ppy(8))'),
        Reason('ppy-securebits', 'securebits', 'ppy sets noroot and locks it (capabilities(7))'),
    )
    changed = Outcome(state, 0, outcome.secure, ppy.file, reasons)
    yield Step(f'{ppy.path} makes itself ready', before, changed)
    yield Step(
        f'Executing {record[1]}, the capped copy of {record[2]}', state, execve(state, capped.file)
    )


def _file_caveats(found: Executable) -> Iterator[str]:
    for one in found.chain:
        if one.has_acl:
            yield f'{one.path} has an access control list, which may let others execute it (acl(5))'


# The account


def _heading(found: Executable, is_first: bool) -> str:
    return f'The file {found.path}' if is_first else f'The interpreter {found.path}'


def _of_file(found: Executable) -> Iterator[str]:
    file, caps = found.file, found.file.caps
    for link, target in found.links:
        yield f'{link} is a symbolic link to {target}'
    if found.venv:
        yield (
            f'ATTENTION: this looks like a program of the virtual environment {found.venv}, but it '
            f"really is {found.real_path}, everyone's: what that is marked with, everyone gets"
        )
    elif found.real_path != found.path:
        yield f'it really is {found.real_path}'
    yield f'mode {stat.filemode(file.mode)}, owner {file.uid}, group {file.gid}'
    mount = found.mount
    if mount.point is None:
        yield 'it is on a mount of another mount namespace, which counts as nosuid'
    else:
        flags = ', '.join(['nosuid'] * mount.nosuid + ['noexec'] * mount.noexec)
        yield f'on {mount.point} ({mount.kind}{", " * bool(flags)}{flags})'
    if caps is None:
        yield 'it has no capabilities'
    else:
        alone = caps.effective and not caps.permitted | caps.inheritable
        flag = ', which is the effective flag alone' if alone else ''
        root = f', for user namespaces whose root is {caps.root_id}' if caps.root_id else ''
        yield f'capabilities {caps}{flag}{root}'
        for news in filter(None, map(_news, (caps.permitted, caps.inheritable))):
            yield f'these were all capabilities of an older kernel: this one has {news} too'
    if found.shebang is not None:
        yield f'first line {found.shebang}'
        if found.interpreter and os.path.basename(found.interpreter.real_path) == 'env':
            yield 'env will execute another program in turn, and all this happens once more'


def _news(members: CapSet) -> CapSet | None:
    """What `all` did not mean when it was written."""
    return (CapSet.all() - members) if means_all(members) else None


def _of_process(process: Process, who: Actor | str) -> Iterator[str]:
    if isinstance(who, Actor):
        yield f'process {who.pid} ({who.name})'
    else:
        yield f'a process of {who} after a login'
    for kind, ids in (('user', process.uid), ('group', process.gid)):
        same = len(set(ids)) == 1
        parts = ids[:1] if same else ids
        names = '' if same else ' (real, effective, saved)'
        yield f'{kind} {", ".join(map(str, parts))}{names}'
    for name in SETS:
        yield f'{name}: {in_words(getattr(process, name))}'
    if process.securebits:
        yield f'secure bits {", ".join(process.securebits)}'
    if process.no_new_privs:
        yield 'no_new_privs is set: no program can give it privilege (prctl(2))'
    if process.namespace.roots != (0,):
        yield f'its user namespace has user {process.namespace.roots[0]} as root'


def _of_checks(checks: tuple[Check, ...]) -> Iterator[str]:
    held = sum(check.holds for check in checks)
    yield f'{held} of {len(checks)} rules hold (ppy-check lists them)'
    for check in checks:
        if not check.holds:
            yield f'REFUSED: {check.text}'


def _of_step(step: Step) -> Iterator[str]:
    reasons = dict.fromkeys(('file', 'ids', *SETS, 'securebits', 'secure'), '')
    for reason in step.outcome.reasons:
        reasons[reason.about] += f'; {reason.text}' if reasons[reason.about] else reason.text
    if reasons['file']:
        yield reasons['file']
    after = step.outcome.process
    if after is None:
        yield f'execve fails with {errno.errorcode[step.outcome.error]}'
        return
    for name in SETS:
        old, new = (in_words(getattr(one, name)) for one in (step.before, after))
        change = f'{old} before, {new} after' if old != new else f'{new} before and after'
        yield f'{name}: {change}: {reasons[name]}' if reasons[name] else f'{name}: {change}'
    yield f'runs as user {after.uid.effective}, group {after.gid.effective}' + (
        f': {reasons["ids"]}' if reasons['ids'] else ''
    )
    if reasons['securebits']:
        yield reasons['securebits']
    if reasons['secure']:
        is_secure = 'is' if step.outcome.secure else 'is not'
        yield f'it {is_secure} a secure execution (AT_SECURE): {reasons["secure"]}'


def _of_advice(advice: Advice) -> str:
    return advice.text + (f': {advice.command}' if advice.command else '')


# What to do


def _advice(
    found: Executable,
    started: Executable,
    ppy: Executable | None,
    checks: tuple[Check, ...],
    steps: list[Step],
    environ: Mapping[str, str],
) -> Iterator[Advice]:
    for check in checks:
        if not check.holds:
            text = f'ppy refuses, since this does not hold: {check.text}'
            yield Advice('ppy-check', text, check.mend)
    for one in found.chain:
        yield from _on_marks(one)
    step = steps[-1]
    if ppy and len(steps) > 1:
        yield from _on_launch(step, found)
        return
    if ppy is None:
        yield from _on_script(found)
    yield from _on_access(started, step)
    program = next(one for one in started.chain if one.file is step.outcome.program)
    yield from _on_mount(program, step)
    yield from _on_process(program, step)
    yield from _on_sets(found, program, step)
    if ppy is None:
        yield from _on_end(found, program, step, environ)


def _rules(step: Step) -> set[str]:
    return {reason.rule for reason in step.outcome.reasons}


def _setcap(text: str, found: Executable) -> str:
    return shlex.join(['setcap', text, found.real_path])


def _unmark(found: Executable) -> str:
    return shlex.join(['setcap', '-r', found.real_path])


def _on_marks(found: Executable) -> Iterator[Advice]:
    caps = found.file.caps
    if caps is None:
        return
    if found.venv:
        text = (
            f'{found.real_path} is marked, for everyone who runs it: unmark it '
            f"({_unmark(found)}), and mark a copy of the environment's own"
        )
        command = shlex.join(['caps', 'venv', 'mark', found.venv, str(caps)])
        yield Advice('venv', text, command)
    elif found.links and not _is_environments_own(found):
        text = (
            f'what is marked is {found.real_path}, whatever it is executed as: if that is too '
            f'much, make {found.path} a copy instead of a link and mark that'
        )
        yield Advice('link', text)
    if _news(caps.permitted) or _news(caps.inheritable):
        every = CapSet.all()
        renewed = FileCaps(
            every if _news(caps.permitted) else caps.permitted,
            every if _news(caps.inheritable) else caps.inheritable,
            caps.effective,
        )
        text = 'mark it again, since all capabilities are more than they were'
        yield Advice('older-all', text, _setcap(str(renewed), found))


def _is_environments_own(found: Executable) -> bool:
    """Whether this is what `caps venv mark` has made, to which the environment's names lead."""
    return os.path.exists(os.path.join(os.path.dirname(found.real_path), '../pyvenv.cfg'))


def _on_script(found: Executable) -> Iterator[Advice]:
    caps, mode = found.file.caps, found.file.mode
    if found.interpreter is None or (caps is None and not mode & 0o6000):
        return
    text = (
        'the kernel ignores the capabilities and set-id bits of a script: have it started by ppy '
        '(caps ppy install), as its owner and with what it has inheritable'
    )
    wanted = caps.permitted | caps.inheritable if caps else CapSet()
    yield Advice('script', text, _setcap(str(Caps(inheritable=wanted)), found) if wanted else None)


def _on_access(started: Executable, step: Step) -> Iterator[Advice]:
    rules = _rules(step)
    if 'format' in rules:
        text, command = 'a script needs #! and an interpreter as its first line', None
        if started.file.caps:
            text += '; one that is marked for ppy can also be given to it'
            command = shlex.join(['caps', 'explain', '--ppy', f'{PREFIX}/bin/{NAME}', started.path])
        yield Advice('format', text, command)
    if 'access' not in rules:
        return
    for one in started.chain:
        if closed := closed_directory(step.before, one.real_path):
            text = f'put {one.real_path} where the user can reach it, or open the directory'
            yield Advice('access', text, shlex.join(['chmod', 'o+x', closed]))
            return
    path = next(one for one in started.chain if one.file is step.outcome.program).real_path
    yield Advice('access', 'let the user execute it', shlex.join(['chmod', 'a+x', path]))


def _on_mount(program: Executable, step: Step) -> Iterator[Advice]:
    mount, rules = program.mount, _rules(step)
    for wrong, option, text in (
        ('noexec', 'exec', 'programs'),
        ('nosuid', 'suid', 'capabilities'),
        ('nosuid-ids', 'suid', 'set-id bits'),
    ):
        if wrong in rules:
            command = ['mount', '-o', f'remount,bind,{option}', mount.point or '']
            yield Advice(
                wrong,
                f'let the mount have {text}, or put the file on another',
                shlex.join(command) if mount.point else None,
            )


def _on_process(program: Executable, step: Step) -> Iterator[Advice]:
    """What to change of the process or take from the file."""
    process, caps, rules = step.before, program.file.caps, _rules(step)
    if process.no_new_privs and (caps or rules & {'no-new-privs', 'no-new-privs-ids'}):
        yield Advice(
            'no-new-privs',
            'start from a process without no_new_privs, which cannot be taken back: look for '
            'NoNewPrivileges= (systemd), --security-opt no-new-privileges (containers), '
            'allowPrivilegeEscalation (Kubernetes), --no-new-privs (setpriv)',
        )
    if 'root-id' in rules and caps:
        text = 'it was marked in a user namespace and for that: mark it in this one'
        yield Advice('root-id', text, _setcap(str(caps), program))
    if 'setuid-root-file' in rules:
        text = 'its mark is all that a marked set-user-ID root program gets: unmark it'
        yield Advice('setuid-root-file', text, _unmark(program))
    lost = process.ambient - (step.outcome.process or process).permitted
    if lost and 'ambient-file' in rules:
        yield Advice(
            'ambient-file',
            f'its own capabilities take {lost}, which is ambient, from it: unmark it',
            _unmark(program),
        )
    if lost and 'ambient-ids' in rules:
        yield Advice(
            'ambient-ids',
            f'its set-id bits take {lost}, which is ambient, from it: clear them',
            shlex.join(['chmod', 'u-s,g-s', program.real_path]),
        )


def _on_sets(found: Executable, program: Executable, step: Step) -> Iterator[Advice]:
    """What of the file's capabilities the process does not get because of its own sets."""
    process, caps, rules = step.before, program.file.caps, _rules(step)
    if caps is None or not rules & {'file', 'too-little'} or 'root' in rules:
        return
    given = (caps.permitted & process.bounding) | (caps.inheritable & process.inheritable)
    if missing := (caps.permitted & CapSet.all()) - given:
        yield Advice(
            'bounding',
            f'start from a process that has {missing} in its bounding set, to which nothing can '
            'be added: --cap-add (containers), CapabilityBoundingSet= (systemd)',
        )
    if 'too-little' in rules:
        text = 'or mark it without the effective flag, to run with less'
        yield Advice('too-little', text, _setcap(str(replace(caps, effective=False)), program))
    if found is program and (useless := (caps.inheritable & process.bounding) - given):
        marked = FileCaps(caps.permitted | useless, caps.inheritable, True)
        text = (
            f'what a file has inheritable is for processes that have it inheritable, and this one '
            f'has not {useless}: mark the file as permitted'
        )
        yield Advice('inheritable', text, _setcap(str(marked), program))


def _on_end(
    found: Executable, program: Executable, step: Step, environ: Mapping[str, str]
) -> Iterator[Advice]:
    """What remains to be done where the program runs."""
    after, caps = step.outcome.process, program.file.caps
    if after is None:
        return
    is_script = found is not program
    if idle := after.permitted - after.effective:
        text = f'the program must make {idle} effective (in Python {ACTIVATE})'
        command = None
        if caps and not caps.effective and not is_script:
            text += ', or the effective flag does it'
            command = _setcap(str(replace(caps, effective=True)), program)
        yield Advice('idle', text, command)
    is_told = is_script and found.file.caps is not None
    if not after.permitted and caps is None and not program.file.mode & 0o4000 and not is_told:
        if is_script:
            way = "to mark a script's interpreter is to mark every script: mark this one for ppy"
        elif found.venv:
            way = (
                f'to mark this is to mark it for everyone: caps venv mark {found.venv} CAPABILITIES'
            )
        else:
            way = (
                f'mark it (setcap CAPABILITIES=ep {shlex.quote(program.real_path)}) unless it is '
                'an interpreter, or make them ambient (setpriv --ambient-caps)'
            )
        text = (
            'nothing gives the program capabilities, as bounding, which is all that --cap-add '
            'changes for a user who is not root, only limits them'
        )
        yield Advice('unmarked', f'{text}; {way}')
    if step.outcome.secure and (lost := vanishing_libraries(program, environ)):
        text = (
            f'the program will not start, as in secure execution the loader does not find '
            f'{", ".join(lost)} by $ORIGIN or LD_LIBRARY_PATH (ld.so(8)): have it where the system '
            'has its libraries, or do without the mark'
        )
        yield Advice('libraries', text, _unmark(program) if caps else None)


def _on_launch(step: Step, script: Executable) -> Iterator[Advice]:
    """What remains to be done where ppy executes the capped copy."""
    after, capped = step.outcome.process, look_at_file(step.outcome.program.path)
    if after is None:
        yield Advice('ppy-install', 'the capped copy cannot be executed: install ppy again')
        return
    if capped.file.caps and (news := _news(capped.file.caps.inheritable)):
        text = f'ppy was installed under an older kernel and cannot give {news}: install it again'
        yield Advice('older-all', text)
    if after.permitted:
        yield Advice('idle', f'the script must make {after.permitted} effective ({ACTIVATE})')
    else:
        text = 'the mark of the script is empty: it runs as its owner and without capabilities'
        yield Advice('empty', f'{text}; if it needs any, mark it (setcap CAPABILITIES=i)')
