"""How the documentation is built: 'make doc'."""

from importlib.metadata import version as version_of

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
