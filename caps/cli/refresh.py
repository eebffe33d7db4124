"""caps refresh and caps status: what caps has made, kept up with the interpreters."""

from __future__ import annotations

import argparse

from caps.cli import hooks
from caps.cli.documents import PROBLEMS, Document
from caps.cli.output import Output
from caps.cli.parsers import Commands

TYPE_CHECKING = False
if TYPE_CHECKING:
    from caps.admin.refresh import Condition

REFRESH = """\
ppy and a marked environment run a copy of an interpreter, which an upgrade does not reach. Each
that "caps ppy install" or "caps venv mark" has made is made again where its original has changed,
with the options that it has. Where that fails the old one stays. The system's log has both.

What is not as it was made stays as it is. Nothing is done while a package is half configured.

examples:
  sudo caps refresh
  sudo caps refresh --dry-run
  sudo caps hooks install
      has this done after each package run
"""
STATUS = """\
  current   as it was made, and from what is there now
  stale     its interpreter has changed: caps refresh
  broken    not as it was made; the reason is on standard error

examples:
  sudo caps status
"""
MADE: Document = {
    'kind': 'str',
    'path': 'str',
    'state': 'str',
    'caps': 'str | null',
    'problems': ['str'],
}
REFRESHED: Document = {'made': [MADE], **PROBLEMS}
SHAPE: Document = {
    'made': [MADE],
    'drifts': 'int | null',
    'amounting_to_root': 'int | null',
    **hooks.HOOKS,
}
NO_MANIFEST = 'none; to have one: caps manifest save /usr --into /etc/caps/manifest'


def add(commands: Commands) -> None:
    """Add the commands to those of a parser."""
    text = 'renew what runs a copy of an interpreter that has changed'
    parser = commands.add('refresh', refresh, text, REFRESH, REFRESHED)
    parser.add_argument('--dry-run', action='store_true', help='only say what would be renewed')
    text = 'everything that caps has made here, and whether it is as it should be'
    commands.add('status', status, text, STATUS, SHAPE)


def refresh(arguments: argparse.Namespace, out: Output) -> bool:
    from caps.admin.refresh import refresh

    conditions = refresh(is_dry=arguments.dry_run)
    for condition in conditions:
        if condition.state == 'renewed':
            out.line('renewed', condition.path, style='yellow')
        elif condition.state == 'stale':
            out.line('would be renewed', condition.path, style='yellow')
        for problem in condition.problems:
            out.problem(problem)
    out.document = {'made': [*map(document, conditions)]}
    return True


def status(arguments: argparse.Namespace, out: Output) -> bool:
    from caps.admin import hooks as admin_hooks
    from caps.admin.refresh import status

    conditions, installed = status(), admin_hooks.status()
    rows = [
        [condition.kind, condition.path, condition.caps or '', condition.state]
        for condition in conditions
    ]
    for condition in conditions:
        for problem in condition.problems:
            out.problem(problem)
    text, drifts, grave = _manifest(out)
    for hook in installed:
        if hook.problem and hook.state == 'stale':
            out.problem(f'{hook.path}: {hook.problem}')
    rows.append(['manifest', '/etc/caps/manifest', '', text])
    rows.append(['hooks', '', '', hooks.summary(installed)])
    out.table(['what', 'where', 'capabilities', 'state'], rows)
    out.document = {
        'made': [*map(document, conditions)],
        'drifts': drifts,
        'amounting_to_root': grave,
        'hooks': [*map(hooks.document, installed)],
    }
    return not drifts


def _manifest(out: Output) -> tuple[str, int | None, int | None]:
    """The state of the manifest, and how many files are not as listed, and amount to root."""
    from caps.admin.manifest import check
    from caps.admin.manifest_files import ManifestFiles, places
    from caps.admin.transaction import AdminError

    try:
        places()
    except AdminError:
        return NO_MANIFEST, None, None
    with out.noting():
        drifts, problems = check(ManifestFiles([], is_trusted=False))
        for problem in problems:
            out.problem(problem)
        grave = sum(drift.amounts_to_root for drift in drifts)
        text = f'{len(drifts)} not as listed, of which {grave} amount to root: caps manifest check'
        return text if drifts else 'all as listed', len(drifts), grave
    return 'cannot be read', None, None


def document(condition: Condition) -> Document:
    """Something that caps has made, and its condition."""
    return {
        'kind': condition.kind,
        'path': condition.path,
        'state': condition.state,
        'caps': condition.caps,
        'problems': condition.problems,
    }
