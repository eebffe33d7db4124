"""caps hooks: have package managers call caps when they have changed something."""

from __future__ import annotations

import argparse
import os

from caps.cli.documents import PROBLEMS, Document
from caps.cli.output import Output
from caps.cli.parsers import Commands

TYPE_CHECKING = False
if TYPE_CHECKING:
    from caps.admin.hooks import Hook

EXAMPLES = """\
After each package run the hooks do "caps refresh" and, where there is a manifest, "caps manifest
restore". A hook is one small file. Package runs go on whatever comes of it, also after caps is
gone.

examples:
  sudo caps hooks install
      for apt, dpkg, dnf, pacman and apk, as far as they are here; else a systemd path unit
  caps hooks status
  sudo caps hooks remove
"""
RUN = """\
This is what the hooks call. It ends after some minutes whatever happens, and does nothing unless it
is root who runs it.

examples:
  sudo caps hooks run
"""
HOOK: Document = {'manager': 'str', 'path': 'str', 'state': 'str', 'problem': 'str | null'}
HOOKS: Document = {'hooks': [HOOK], **PROBLEMS}
REMOVED: Document = {'removed': ['str'], **PROBLEMS}


def add(commands: Commands) -> None:
    """Add the commands to a parser."""
    group = commands.group(
        'hooks', 'have package managers keep marks and ppy as they are', EXAMPLES
    )
    group.add('install', install, 'write a hook for each package manager', EXAMPLES, HOOKS)
    group.add('status', status, 'say which hooks are there, and whether they work', EXAMPLES, HOOKS)
    group.add('remove', remove, 'take the hooks away', EXAMPLES, REMOVED)
    group.add('run', run, 'do what is done after each package run', RUN)


def install(arguments: argparse.Namespace, out: Output) -> bool:
    from caps.admin import hooks

    return _report(hooks.install(), out)


def status(arguments: argparse.Namespace, out: Output) -> bool:
    from caps.admin import hooks

    return _report(hooks.status(), out)


def remove(arguments: argparse.Namespace, out: Output) -> bool:
    from caps.admin import hooks

    removed = hooks.remove()
    for path in removed:
        out.line('removed', path)
    out.document = {'removed': removed}
    return True


def run(arguments: argparse.Namespace, out: Output) -> bool:
    from caps.admin import hooks

    if os.geteuid():  # a package manager in somebody's own root directory
        return True
    has_failed = False
    for status, text in hooks.after_packages():
        has_failed |= bool(status)
        for line in text.splitlines():
            out.line(line)
    return not has_failed


def _report(hooks: list[Hook], out: Output) -> bool:
    for hook in hooks:
        out.line(f'{hook.manager:<8}', hook.path, hook.state, style='yellow')
        if hook.problem:
            out.problem(f'{hook.path}: {hook.problem}')
    out.document = {'hooks': [*map(document, hooks)]}
    return any(hook.state == 'installed' for hook in hooks)


def summary(hooks: list[Hook] | None = None) -> str:
    """In a line, whether a copy of an interpreter is renewed after an upgrade."""
    if hooks is None:
        from caps.admin.hooks import status

        hooks = status()
    managers = [hook.manager for hook in hooks if hook.state == 'installed']
    there = f'renew it after each run of {" and ".join(managers)}'
    return there if managers else 'none; to have it renewed after upgrades: sudo caps hooks install'


def document(hook: Hook) -> Document:
    """A hook as it is."""
    return {
        'manager': hook.manager,
        'path': hook.path,
        'state': hook.state,
        'problem': hook.problem,
    }
