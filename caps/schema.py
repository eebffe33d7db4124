"""What each command prints with --json: one object of this shape, to which only keys are added.

A leaf names its type, '| null' being what there may be nothing to say of, also behind a key; a
list holds any number of what it shows.  `problems` are the sentences that standard error has too,
and after a refusal they are all there is.  Each byte of a name that is not UTF-8 is a lone
surrogate, \\udc80 to \\udcff, which Python's json and os.fsencode turn back into that byte.
"""

STATE = {'text': 'str', 'effective': ['str'], 'permitted': ['str'], 'inheritable': ['str']}
PROBLEMS = {'problems': ['str']}
FILES = {'files': [{'path': 'str', 'marked': 'bool', **STATE, 'root_id': 'int'}], **PROBLEMS}
IDS = {'real': 'int', 'effective': 'int', 'saved': 'int'}
ALL_IDS = {**IDS, 'file_system': 'int'}
PROCESS = {
    'pid': 'int',
    'parent': 'int',
    'name': 'str',
    'user': 'str',
    'uid': ALL_IDS,
    'gid': ALL_IDS,
    **STATE,
    'ambient': ['str'],
    'bounding': ['str'],
    'iab': 'str',
    'securebits': '[str] | null',
    'no_new_privs': 'bool',
    'seccomp': 'str',  # disabled, strict or filter
    'user_namespace': 'int | null',
}
ENVIRONMENT = {
    'directory': 'str',
    'python': 'str',
    'names': ['str'],
    'unmarked': 'str | null',
    'owner': 'str',
    'group': 'str | null',
    'who': 'str',
    'closed': ['str'],
    **STATE,
    **PROBLEMS,
}
INSTALLATION = {
    'ppy': 'str',
    'installed': 'bool',
    'original': 'str | null',
    'capped': 'str | null',
    'setuid': 'bool',
    'group': 'str | null',
    'allowed': '[str] | null',
    'allow_root': 'bool',
    **PROBLEMS,
}
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
EXPLANATION: dict[str, object] = {
    'file': EXECUTABLE,
    'interpreters': [EXECUTABLE],
    'user': 'str | null',
    'process': {'pid': 'int', 'name': 'str', **MOMENT},
    'ppy | null': {
        'path': 'str',
        'checks': [{'holds': 'bool', 'text': 'str', 'mend': 'str | null'}],
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
SCHEMA = {
    'explain': EXPLANATION,
    'show': {'processes': [PROCESS], **PROBLEMS},
    'get': FILES,
    'set': FILES,
    'remove': FILES,
    'find': FILES,
    'venv mark': ENVIRONMENT,
    'venv unmark': ENVIRONMENT,
    'ppy install': INSTALLATION,
    'ppy status': INSTALLATION,
    'ppy remove': {'ppy': 'str', **PROBLEMS},
}


def text(command: str) -> str:
    """The shape of a command's document, as its help shows it."""
    import json
    import re

    return re.sub(r'\[\s+("[^"]*")\s+\]', r'[\1]', json.dumps(SCHEMA[command], indent=2))
