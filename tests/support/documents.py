"""The documents of the command line, held against their shapes."""

from typing import Any

from caps.cli import parser
from caps.cli.completion import places

PARSERS = {place.strip(): command for place, command in places(parser())}


def matches(shape: Any, document: Any) -> bool:
    """Whether a document is of the shape that its command gives."""
    if isinstance(shape, dict):
        names = {key: key.removesuffix(' | null') for key in shape}
        return list(names.values()) == list(document) and all(
            (document[name] is None and name != key) or matches(shape[key], document[name])
            for key, name in names.items()
        )
    if isinstance(shape, list):
        return isinstance(document, list) and all(matches(shape[0], item) for item in document)
    kinds = {'str': str, 'int': int, 'bool': bool, '[str]': list, 'null': type(None)}
    return type(document) in [kinds[name] for name in shape.split(' | ')]
