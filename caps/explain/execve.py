"""What execve(2) makes of a process: the rules of capabilities(7) as pure functions.

`execve` takes the state of a process and of a file.  It returns the state afterwards or the error,
and a sentence for every rule that decided something.  It follows Linux 6.18, fs/exec.c and
security/commoncap.c; tests/explain/test_execve.py compares it with the running kernel.

All ids are as one observer sees them, by default the initial user namespace, even where the process
is in another.

Not modelled: ptrace(2), and a root directory shared by CLONE_FS, which both keep a program from
gaining privilege much as no_new_privs does; security modules, seccomp(2), binfmt_misc, access
control lists, resource limits, setfsuid(2), id-mapped mounts, the directories on the way to the
file, and kernels booted with no_file_caps.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable

from caps import CapSet, SecureBits
from caps.explain.rules import RULES, Reason
from caps.system.records import dataclass, replace
from caps.system.types import File, FileCaps, Ids, Process

MAX_SCRIPTS = 5  # each the interpreter of the one before


@dataclass(frozen=True)
class Outcome:
    """What becomes of an execve(2).

    process: the state after it, None where it fails
    error: the errno of the failure, or 0
    secure: the program's AT_SECURE, see getauxval(3)
    program: the file that runs in the end; for a script its interpreter
    reasons: the rules that decided something, in the order in which the kernel applies them
    """

    process: Process | None
    error: int
    secure: bool
    program: File
    reasons: tuple[Reason, ...]


Say = Callable[..., None]


def execve(process: Process, file: File) -> Outcome:
    """What becomes of a process that executes a file, step by step as the kernel does it.

    process: the state before.
    file: the program or script.
    Returns the state after it or the error, and the reasons; see execve(2) and capabilities(7).
    """
    reasons: list[Reason] = []

    def say(rule: str, **facts: object) -> None:
        about, text = RULES[rule]
        reasons.append(Reason(rule, about, text.format_map(facts)))

    program, error = _program(process, file, say)
    if error:
        return Outcome(None, error, False, program, tuple(reasons))
    uid, gid = _set_ids(process, program, say)
    if process.compares_real:
        is_changed = uid != process.uid.real or gid != process.gid.real
    else:
        is_changed = uid != process.uid.effective or gid not in process.all_groups

    counting = _counting_caps(process, program, say)
    caps = counting or FileCaps()
    permitted = (caps.permitted & process.bounding) | (caps.inheritable & process.inheritable)
    if caps.effective and (missing := caps.permitted - permitted):
        say('too-little', missing=missing)
        return Outcome(None, errno.EPERM, False, program, tuple(reasons))
    if counting:
        say('file')
    becomes_effective = caps.effective
    if becomes_effective:
        say('effective-flag')

    root = process.namespace.roots[0]
    if root not in (uid, process.uid.real):
        pass
    elif 'noroot' in process.securebits:
        say('noroot')
    elif counting and root != process.uid.real:
        say('setuid-root-file')
    else:
        say('root')
        permitted = process.inheritable | process.bounding
        if uid == root:
            say('effective-root')
            becomes_effective = True

    gained = permitted - process.permitted
    if process.no_new_privs and (gained or (process.compares_real and is_changed)):
        if gained:
            say('no-new-privs', gained=gained)
        permitted &= process.permitted
        uid, gid = process.uid.real, process.gid.real

    ambient = _ambient(process, counting is not None, is_changed, say)
    if ambient:
        say('ambient-added')
    permitted |= ambient
    if not becomes_effective:
        say('effective-ambient')
    effective = permitted if becomes_effective else ambient
    say('inheritable')
    say('bounding')

    is_secure = is_changed or uid != process.uid.real or gid != process.gid.real
    if is_secure:
        say('secure-ids')
    elif process.uid.real != root and (becomes_effective or permitted - ambient):
        is_secure = True
        say('secure-caps')
    else:
        say('insecure')
    securebits = SecureBits(process.securebits)
    if 'keep_caps' in securebits:
        say('keep-caps')
        securebits.discard('keep_caps')
    after = replace(
        process,
        effective=effective,
        permitted=permitted,
        ambient=ambient,
        uid=Ids(process.uid.real, uid, uid),
        gid=Ids(process.gid.real, gid, gid),
        securebits=securebits,
    )
    return Outcome(after, 0, is_secure, program, tuple(reasons))


def _program(process: Process, file: File, say: Say) -> tuple[File, int]:
    """The file that runs in the end, and an error or 0; exec_binprm() of the kernel."""
    for scripts in itertools.count():
        if file.noexec:
            say('noexec', path=file.path)
            return file, errno.EACCES
        if not _may_execute(process, file):
            say('access', path=file.path, uid=process.uid.effective)
            return file, errno.EACCES
        if scripts > MAX_SCRIPTS:
            say('loop', limit=MAX_SCRIPTS)
            return file, errno.ELOOP
        if not file.is_program:
            say('format', path=file.path)
            return file, errno.ENOEXEC
        if file.interpreter is None:
            break
        say('script', path=file.path, interpreter=file.interpreter.path)
        file = file.interpreter
    return file, 0


def _may_execute(process: Process, file: File) -> bool:
    """Whether permission bits or cap_dac_override allow the execution; generic_permission()."""
    is_owner, is_member = file.uid == process.uid.effective, file.gid in process.all_groups
    bits = 0o100 if is_owner else 0o010 if is_member else 0o001
    if 'cap_dac_override' in process.effective and process.namespace.maps(file.uid, file.gid):
        bits = 0o111
    return bool(file.mode & bits)


def _set_ids(process: Process, file: File, say: Say) -> tuple[int, int]:
    """The effective ids by set-user-ID and set-group-ID; bprm_fill_uid()."""
    uid, gid = process.uid.effective, process.gid.effective
    is_setuid, is_setgid = file.mode & 0o4000, file.mode & 0o2010 == 0o2010
    if file.mode & 0o2010 == 0o2000:
        say('setgid-no-x')
    if not is_setuid and not is_setgid:
        return uid, gid
    if file.nosuid:
        say('nosuid-ids')
    elif process.no_new_privs:
        say('no-new-privs-ids')
    elif not process.namespace.maps(file.uid, file.gid):
        say('unmapped')
    else:
        if is_setuid:
            uid = file.uid
            say('setuid', uid=uid)
        if is_setgid:
            gid = file.gid
            say('setgid', gid=gid)
    return uid, gid


def _counting_caps(process: Process, file: File, say: Say) -> FileCaps | None:
    """A file's capabilities, if they count for a process; get_file_caps()."""
    if file.caps is None:
        say('unmarked')
    elif file.nosuid:
        say('nosuid')
    elif file.caps.root_id not in process.namespace.roots:
        say('root-id', root_id=file.caps.root_id)
    else:
        known = CapSet.all()
        sets = file.caps.permitted & known, file.caps.inheritable & known
        return FileCaps(*sets, file.caps.effective, file.caps.root_id)
    return None


def _ambient(process: Process, is_marked: bool, is_changed: bool, say: Say) -> CapSet:
    """The ambient set, which only a file without privilege leaves as it is."""
    if not process.ambient:
        say('ambient-empty')
    elif is_marked:
        say('ambient-file')
    elif is_changed:
        say('ambient-ids')
    else:
        say('ambient-kept')
        return process.ambient
    return CapSet()
