"""What the documents of several commands have in common, made and described.

What a command prints with --json is one object of a shape, to which only keys are added.  A leaf
names its type, '| null' being what there may be nothing to say of, also behind a key; a list holds
any number of what it shows.  `problems` are the sentences that standard error has too, and after a
refusal they are all there is.  Each byte of a name that is not UTF-8 is a lone surrogate, \\udc80
to \\udcff, which Python's json and os.fsencode turn back into that byte.
"""

from __future__ import annotations

from caps import Caps

Document = dict[str, object]

STATE = {'text': 'str', 'effective': ['str'], 'permitted': ['str'], 'inheritable': ['str']}
PROBLEMS = {'problems': ['str']}
FILES: Document = {
    'files': [{'path': 'str', 'marked': 'bool', **STATE, 'root_id': 'int'}],
    **PROBLEMS,
}
IDS = {'real': 'int', 'effective': 'int', 'saved': 'int'}


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
