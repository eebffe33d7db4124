"""The rules of execve(2), each a sentence that names its man page."""

from __future__ import annotations

from caps.system.records import dataclass

# What each rule decides about, and its sentence.
RULES = {
    'noexec': ('file', '{path} is on a noexec mount, which executes nothing (mount(8))'),
    'access': ('file', 'user {uid} may not execute {path} (path_resolution(7))'),
    'loop': (
        'file',
        'the kernel follows at most {limit} scripts, each the interpreter of another (execve(2))',
    ),
    'format': ('file', '{path} is neither a program nor a script (execve(2))'),
    'script': (
        'file',
        '{path} is a script: the kernel ignores its capabilities and set-id bits, and takes those '
        'of its interpreter, {interpreter} (execve(2))',
    ),
    'too-little': (
        'file',
        'the file has the effective flag, which demands all of its permitted set, but {missing} '
        'is not in the bounding set (capabilities(7))',
    ),
    'setuid': ('ids', 'set-user-ID makes user {uid} effective (execve(2))'),
    'setgid': ('ids', 'set-group-ID makes group {gid} effective (execve(2))'),
    'setgid-no-x': ('ids', 'set-group-ID means nothing where the group may not execute (stat(2))'),
    'nosuid-ids': ('ids', 'set-id bits mean nothing on a nosuid mount (mount(8))'),
    'no-new-privs-ids': ('ids', 'set-id bits mean nothing with no_new_privs (prctl(2))'),
    'unmapped': (
        'ids',
        "set-id bits mean nothing where the file's owner or group is not in the user namespace "
        '(user_namespaces(7))',
    ),
    'unmarked': ('permitted', 'the file has no capabilities (capabilities(7))'),
    'nosuid': ('permitted', "the file's capabilities mean nothing on a nosuid mount (mount(8))"),
    'root-id': (
        'permitted',
        "the file's capabilities are for user namespaces whose root is user {root_id}, and this "
        'process is not in one (user_namespaces(7))',
    ),
    'file': (
        'permitted',
        "the file's permitted set within bounding and its inheritable set within inheritable "
        'become permitted (capabilities(7))',
    ),
    'setuid-root-file': (
        'permitted',
        'a set-user-ID root program that has capabilities gets just those (capabilities(7))',
    ),
    'root': (
        'permitted',
        'the real or effective user is root, so inheritable and bounding together become permitted '
        '(capabilities(7))',
    ),
    'noroot': (
        'permitted',
        'the secure bit noroot makes root an ordinary user (capabilities(7))',
    ),
    'no-new-privs': (
        'permitted',
        'no_new_privs keeps permitted from gaining {gained}, and makes the real ids effective '
        '(prctl(2))',
    ),
    'ambient-added': ('permitted', 'ambient is part of permitted (capabilities(7))'),
    'effective-root': (
        'effective',
        'the effective user is root, so permitted becomes effective (capabilities(7))',
    ),
    'effective-flag': (
        'effective',
        "the file's effective flag makes permitted effective (capabilities(7))",
    ),
    'effective-ambient': (
        'effective',
        'nothing else makes permitted effective, so only ambient is (capabilities(7))',
    ),
    'inheritable': ('inheritable', 'execve leaves inheritable as it is (capabilities(7))'),
    'bounding': ('bounding', 'execve leaves bounding as it is (capabilities(7))'),
    'ambient-empty': ('ambient', 'execve adds nothing to ambient (capabilities(7))'),
    'ambient-file': (
        'ambient',
        'ambient is cleared because the file has capabilities (capabilities(7))',
    ),
    'ambient-ids': ('ambient', 'ambient is cleared because ids change (capabilities(7))'),
    'ambient-kept': (
        'ambient',
        'ambient stays as it is: the file has no capabilities and changes no ids (capabilities(7))',
    ),
    'keep-caps': ('securebits', 'the secure bit keep_caps is cleared (capabilities(7))'),
    'secure-ids': ('secure', 'ids change, or the effective ids are not the real ones (ld.so(8))'),
    'secure-caps': ('secure', 'a user other than root gets capabilities from the file (ld.so(8))'),
    'insecure': ('secure', 'neither ids nor capabilities make the execution secure (ld.so(8))'),
}


@dataclass(frozen=True)
class Reason:
    """A rule that decided something.

    rule: its name
    about: what it decided about
    text: a sentence that names it
    """

    rule: str
    about: str
    text: str
