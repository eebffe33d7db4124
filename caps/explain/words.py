"""The sentences of an explanation."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from caps import CapSet
from caps.explain.types import Advice, Check, Step
from caps.system.files import Executable
from caps.system.launcher import means_all
from caps.system.processes import Actor
from caps.system.tasks import in_words
from caps.system.types import SETS, Process


def of_file(executable: Executable) -> Iterator[str]:
    file, caps = executable.file, executable.file.caps
    for link, target in executable.links:
        yield f'{link} is a symbolic link to {target}'
    if executable.venv:
        yield (
            f'ATTENTION: this looks like a program of the virtual environment {executable.venv}, '
            f'but it really is {executable.real_path}, which everyone shares: a mark on it is '
            'a mark for everyone'
        )
    elif not executable.has_path:
        yield f'no path leads to it: the kernel calls it {executable.real_path}'
    elif executable.real_path != executable.path:
        yield f'it really is {executable.real_path}'
    yield f'mode {stat.filemode(file.mode)}, owner {file.uid}, group {file.gid}'
    mount = executable.mount
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
        for news in filter(None, map(newer, (caps.permitted, caps.inheritable))):
            yield f'these were all capabilities of an older kernel: this one has {news} too'
    if executable.first_line:
        yield f'first line {executable.first_line.text}'
        if executable.interpreter and os.path.basename(executable.interpreter.real_path) == 'env':
            yield 'env then executes another program, and all this happens once more for that'


def newer(members: CapSet) -> CapSet | None:
    """The capabilities that `all` did not include yet when it was written."""
    return (CapSet.all() - members) if means_all(members) else None


def of_process(process: Process, who: Actor | str) -> Iterator[str]:
    if isinstance(who, Actor):
        yield f'process {who.pid} ({who.name})'
    else:
        yield f'a process of {who} after a login'
    for kind, ids in (('user', process.uid), ('group', process.gid)):
        if ids.real == ids.effective == ids.saved:
            yield f'{kind} {ids.real}'
        else:
            numbers = f'{ids.real}, {ids.effective}, {ids.saved}'
            yield f'{kind} {numbers} (real, effective, saved)'
    for name in SETS:
        yield f'{name}: {in_words(getattr(process, name))}'
    if process.securebits:
        yield f'secure bits {", ".join(process.securebits)}'
    if process.no_new_privs:
        yield 'no_new_privs is set: no program can give it privilege (prctl(2))'
    if process.namespace.roots != (0,):
        yield f'its user namespace has user {process.namespace.roots[0]} as root'


def of_checks(checks: tuple[Check, ...]) -> Iterator[str]:
    held = sum(check.holds for check in checks)
    yield f'{held} of {len(checks)} rules hold (ppy-check lists them)'
    for check in checks:
        if not check.holds:
            yield f'REFUSED: {check.text}'


def of_step(step: Step) -> Iterator[str]:
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
        old, new = (in_words(getattr(state, name)) for state in (step.before, after))
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


def of_advice(advice: Advice) -> str:
    return advice.text + (f': {advice.command}' if advice.command else '')
