"""How the documentation is built: 'make doc'."""

import subprocess
import sys
from importlib.metadata import version as version_of
from pathlib import Path

# Drawn anew at each build, from the model itself.
here = Path(__file__).parent
(here / 'drawn').mkdir(exist_ok=True)
subprocess.run([sys.executable, here / 'figures.py', here / 'drawn'], check=True)

project = 'caps and ppy'
author = 'the caps-ppy authors'
copyright = '2026, the caps-ppy authors'
release = version = version_of('caps-ppy')

extensions = ['sphinx.ext.autodoc', 'sphinx.ext.doctest', 'sphinx.ext.viewcode', 'myst_parser']
nitpicky = False
autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
doctest_test_doctest_blocks = ''

html_theme = 'furo'
html_title = 'caps and ppy'

man_pages = [
    ('ppy', 'ppy', 'run a marked script as its owner with its capabilities', author, 8),
]
man_show_urls = False
