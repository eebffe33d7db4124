"""How the documentation is built: 'make doc'."""

import re
import subprocess
import sys
from importlib.metadata import version as version_of
from pathlib import Path

from sphinx.application import Sphinx

# Drawn anew at each build, from the model itself.
here = Path(__file__).parent
(here / 'drawn').mkdir(exist_ok=True)
subprocess.run([sys.executable, here / 'figures.py', here / 'drawn'], check=True)
sys.path.append(str(here))

project = 'caps and ppy'
author = 'the caps-ppy authors'
copyright = '2026, the caps-ppy authors'
release = version = version_of('caps-ppy')

extensions = [
    'sphinx.ext.autodoc',
    'sphinx.ext.doctest',
    'sphinx.ext.viewcode',
    'myst_parser',
    'commands',
]
default_role = 'py:obj'
smartquotes_action = 'q'  # and leaves --json as it is typed
autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
doctest_test_doctest_blocks = ''

manpages_url = 'https://manpages.debian.org/{path}'

html_theme = 'furo'
html_title = 'caps and ppy'
html_static_path = ['style.css']
html_css_files = ['style.css']

man_pages = [
    ('caps', 'caps', 'show, change and explain Linux capabilities', author, 1),
    ('ppy', 'ppy', 'run a marked script as its owner with its capabilities', author, 8),
]
man_show_urls = False


# The docstrings speak of an argument as 'name: text' on a line of its own, and of results and
# errors in sentences that begin with Returns and Raises: these make a definition list.
TERM = re.compile(r'(?P<names>[a-z_]+(?:, [a-z_]+)*): |(?P<verb>Returns|Raises),? ')
MAN_PAGE = re.compile(r'\b(?<![`.])((?!caps\(|ppy\()[a-z][\w.-]*\(\d\))')  # not of our own


def with_terms(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Give the docstrings of the project the markup that they are written without."""
    marked_up: list[str] = []
    is_listed = False
    for line in lines:
        line = MAN_PAGE.sub(r':manpage:`\1`', line)
        if match := TERM.match(line):
            names = ', '.join(f'``{name}``' for name in (match['names'] or '').split(', ') if name)
            marked_up += [] if is_listed else ['']
            marked_up += [names or match['verb'], f'    {line[match.end() :]}']
            is_listed = True
        elif is_listed and line.startswith('See '):
            marked_up += ['', line]
            is_listed = False
        else:
            marked_up.append(f'    {line}' if is_listed and line else line)
            is_listed = is_listed and bool(line)
    lines[:] = marked_up


def without_aliases(
    app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object
) -> bool | None:
    """Leave out what a NamedTuple's signature has said."""
    return True if type(obj).__name__ == '_tuplegetter' else None


def setup(app: Sphinx) -> None:
    app.connect('autodoc-process-docstring', with_terms)
    app.connect('autodoc-skip-member', without_aliases)
