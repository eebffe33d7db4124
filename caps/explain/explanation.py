"""The report on an execution: looks at all that decides, follows the steps, adds what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from caps.explain import words
from caps.explain.advice import advice_on
from caps.explain.execve import Outcome, execve
from caps.explain.ppy import checks_of, given_to_ppy, launch, own_checks
from caps.explain.rules import Reason
from caps.explain.types import Advice, Check, Step
from caps.system.files import Executable, look_at_file
from caps.system.path import closed_directory
from caps.system.processes import Actor, as_user, look_at_process
from caps.system.records import dataclass
from caps.system.types import Process


@dataclass(frozen=True)
class Explanation:
    """What becomes of a process that executes a file.

    sections: headings with sentences, from top to bottom; ``str()`` puts them together.
    """

    executable: Executable
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
        """The report: each heading with its sentences."""
        heading, files = 'The file', [*self.executable.chain]
        if self.launcher and self.launcher.path not in [file.path for file in files]:
            files.append(self.launcher)
        parts = []
        for file in files:
            parts.append((f'{heading} {file.path}', [*words.of_file(file)]))
            heading = 'The interpreter'
        who = self.user or self.actor
        parts.append(('The process', [*words.of_process(self.actor.process, who)]))
        if self.checks:
            parts.append(("ppy's checks", [*words.of_checks(self.checks)]))
        parts += [(step.what, [*words.of_step(step)]) for step in self.steps]
        if self.caveats:
            parts.append(('Not taken into account', [*self.caveats]))
        parts.append(('What to do', [*map(words.of_advice, self.advice)] or ['nothing']))
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

    path: the file; symbolic links and interpreters of scripts are followed.
    user: an account that executes it, after a login; by default the process as it is.
    pid: the process that executes it, or that a login of the user starts from; by default this
    process.
    launcher: a ppy that gets the file as its first argument. A ppy in the first line of the file
    needs no such argument.
    Raises OSError where a file or the process is not there, LookupError where the account is not,
    ValueError where a file's capabilities are malformed; see execve(2) and capabilities(7).
    """
    actor, executable = look_at_process(pid), _look(os.fspath(path))
    if user is not None:
        actor = as_user(actor, user)
    started = executable if launcher is None else _look(os.fspath(launcher))
    given = given_to_ppy(started, None if launcher is None else executable)
    if launcher is not None and given is None:
        raise ValueError(f'{started.path} is not an installed ppy')
    steps = [_execution(actor.process, started)]
    if given and given.is_by_env and (after := steps[0].outcome.process):
        steps.append(_execution(after, given.ppy))
    checks: tuple[Check, ...] = ()
    is_launched = False
    if given:
        is_other = user is not None or pid is not None
        said = checks_of(given, steps[-1].before, is_other)
        checks = (*own_checks(steps[-1].outcome), *said)
        if is_launched := all(check.holds for check in checks):
            steps += launch(steps[-1].outcome, given)
    error = errno.errorcode.get(steps[-1].outcome.error)
    if given and not error and not is_launched:
        error = 'refused by ppy'
    caveats = (*_file_caveats(executable), *actor.caveats)
    if checks and os.geteuid() not in (0, actor.process.uid.real):
        caveats += (
            f'ppy-check judged as user {os.geteuid()}, since only root can act as another user',
        )
    environ = os.environ if pid is None else {}
    return Explanation(
        executable=executable,
        actor=actor,
        user=None if user is None else str(user),
        launcher=given.ppy if given else None,
        checks=checks,
        steps=tuple(steps),
        error=error,
        caveats=caveats,
        advice=tuple(
            advice_on(
                executable,
                started if not (given and given.is_by_env) else given.ppy,
                given,
                checks=checks,
                steps=steps,
                is_launched=is_launched,
                environ=environ,
            )
        ),
    )


def _look(path: str) -> Executable:
    """A file that an argument names; who types it may expect PATH to be searched, as by a shell."""
    try:
        return look_at_file(path)
    except FileNotFoundError as error:
        from shutil import which

        if error.filename == path and '/' not in path and (command := which(path)):
            error.strerror = f'{error.strerror}; did you mean {command!r}?'
        raise


def _execution(process: Process, executable: Executable) -> Step:
    for member in executable.chain:
        if member.has_path and (closed := closed_directory(process, member.real_path)):
            text = f'user {process.uid.effective} may not search {closed} (path_resolution(7))'
            reason = Reason('access', 'file', text)
            return _failed(process, executable, errno.EACCES, reason)
    return Step(f'Executing {executable.path}', process, execve(process, executable.file))


def _failed(process: Process, executable: Executable, error: int, reason: Reason) -> Step:
    outcome = Outcome(None, error, False, executable.file, (reason,))
    return Step(f'Executing {executable.path}', process, outcome)


def _file_caveats(executable: Executable) -> Iterator[str]:
    for member in executable.chain:
        if member.has_acl:
            what = 'has an access control list, which may let others execute it (acl(5))'
            yield f'{member.path} {what}'
