"""caps manifest: the files that carry capabilities, listed, compared and brought back."""

from __future__ import annotations

import argparse

from caps.cli.documents import PROBLEMS, Document
from caps.cli.output import Output
from caps.cli.parsers import Commands, Parser

TYPE_CHECKING = False
if TYPE_CHECKING:
    from caps.admin.restoring import Drift

EXAMPLES = """\
A manifest is text with a line for each file, each installed ppy and each marked environment. The
line of a file that no package owns has its sha256 too.

examples:
  sudo caps manifest save /usr /srv --into /etc/caps/manifest
      from now on these files should carry the capabilities that they carry now
  caps manifest check
      after an upgrade: which files are not as listed
  sudo caps manifest restore
      gives the marks back to the files that were meant
"""
SAVE = """\
With --into, a manifest that is there keeps its comments, its order and its other lines. The line of
a file that is found is changed in place, or added at the end. Remove a line to forget a mark.

examples:
  caps manifest save /usr/bin
  sudo caps manifest save /usr /srv --into /etc/caps/manifest
"""
CHECK = """\
Without FILE it reads /etc/caps/manifest and the files in /etc/caps/manifest.d, but not what editors
and package managers leave there (.bak, .dpkg-old). Files whose mark amounts to root come first.

  lost        has no capabilities any more
  changed     has others, or another owner, group, mode or content
  missing     is not there
  unsafe      could be changed by others, or cannot be verified: is not brought back
  unexpected  has capabilities and is not listed
  unknown     cannot be looked at by this account

examples:
  sudo caps manifest check
  sudo caps manifest check --json /srv/app/manifest
"""
RESTORE = """\
A file gets its owner, group, mode and capabilities back only where it is regular, has one name, is
root's or the listed owner's, lies in directories that only these two can change, and holds what the
listed sha256 or its package says. Otherwise it stays as it is, and the exit status is 1. FILE must
be root's alone.

examples:
  sudo caps manifest restore --dry-run
  sudo caps manifest restore
"""
DRIFT: Document = {
    'kind': 'str',
    'path': 'str',
    'amounts_to_root': 'bool',
    'reason': 'str',
    'refusal': 'str | null',
}
DRIFTS: Document = {'files': [DRIFT], **PROBLEMS}


def add(commands: Commands) -> None:
    """Add the commands to a parser."""
    text = 'which files are to carry which capabilities: list, compare, bring back'
    group = commands.group('manifest', text, EXAMPLES)
    parser = group.add('save', _save, 'list what carries capabilities', SAVE)
    parser.add_argument('directories', nargs='+', metavar='DIR')
    parser.add_argument('--into', metavar='FILE', help='merge it into a manifest')
    parser = group.add('check', _check, 'say what is not as listed', CHECK, DRIFTS)
    _add_files(parser)
    parser = group.add('restore', _restore, 'bring back what is not as listed', RESTORE, DRIFTS)
    _add_files(parser)
    parser.add_argument('--dry-run', action='store_true', help='only say what would be')


def _add_files(parser: Parser) -> None:
    parser.add_argument('files', nargs='*', metavar='FILE')


def _save(arguments: argparse.Namespace, out: Output) -> bool:
    from caps.admin.manifest_files import save
    from caps.admin.manifest_text import merged
    from caps.admin.survey import survey

    found, problems = survey(arguments.directories)
    for problem in problems:
        out.problem(problem)
    if arguments.into is None:
        for line in merged((), '', found):
            out.text(line)
    else:
        save(found, arguments.into)
    return bool(found.files)


def _check(arguments: argparse.Namespace, out: Output) -> bool:
    from caps.admin.manifest import check
    from caps.admin.manifest_files import ManifestFiles

    drifts, problems = check(ManifestFiles(arguments.files, is_trusted=False))
    for drift in drifts:
        grave = ' (amounts to root)' if drift.amounts_to_root else ''
        out.line(f'{drift.kind:<11}', drift.path, f'{drift.reason}{grave}', style='yellow')
    for problem in problems:
        out.problem(problem)
    out.document = {'files': [*map(document, drifts)]}
    return not drifts


def _restore(arguments: argparse.Namespace, out: Output) -> bool:
    from caps.admin.manifest import restore
    from caps.admin.manifest_files import ManifestFiles

    listed = ManifestFiles(arguments.files, is_trusted=True)
    drifts = restore(listed, is_dry=arguments.dry_run)
    done = 'would be restored' if arguments.dry_run else 'restored'
    for drift in drifts:
        if drift.refusal:
            out.problem(f'{drift.path} is not restored: {drift.refusal}')
        else:
            out.line(done, drift.path, drift.listed.text if drift.listed else '', style='yellow')
    out.document = {'files': [*map(document, drifts)]}
    return True


def document(drift: Drift) -> Document:
    """A file that is not as listed."""
    return {
        'kind': drift.kind,
        'path': drift.path,
        'amounts_to_root': drift.amounts_to_root,
        'reason': drift.reason,
        'refusal': drift.refusal,
    }
