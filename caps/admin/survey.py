"""What carries capabilities here, for a manifest."""

import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

from caps import Caps
from caps.accounts import group_name, user_name
from caps.admin.installation import recorded
from caps.admin.listed import Listed, ListedCopy, Manifest
from caps.admin.listed_copies import copies_below, is_python_of
from caps.admin.restoring import digest
from caps.admin.transaction import AdminError
from caps.system.find import find
from caps.system.launcher import LAUNCHER_CAPS
from caps.system.look import look_at
from caps.system.packages import Digest, recorded_digests

PathText = str | os.PathLike[str]
PPY = re.compile(r'(.*)/(?:bin/([^/]+)|libexec/([^/]+)-[a-z0-9_]{8}/[^/]+)', re.DOTALL)


def survey(directories: Iterable[PathText]) -> tuple[Manifest, list[OSError]]:
    """What carries capabilities below directories, and what could not be looked at."""
    manifest = Manifest(searched=[os.path.abspath(directory) for directory in directories])
    manifest.copies = {copy.path: copy for copy in copies_below(manifest.searched)}
    problems: list[OSError] = []
    for directory in manifest.searched:
        findings = find(directory)
        problems += findings.problems
        paths = [path for path, _ in without_copies(findings.files, manifest.copies)]
        recorded = recorded_digests(paths)
        for path in paths:
            try:
                if listed := _listed(path, recorded.get(path)):
                    manifest.files[path] = listed
            except FileNotFoundError:  # gone meanwhile
                continue
            except OSError as error:
                problems.append(OSError(error.errno, error.strerror, path))
    return manifest, problems


def _listed(path: str, recorded: Digest | None) -> Listed | None:
    """A file as it is; None where it is not marked."""
    with look_at(path) as look, look.opened() as fd:
        if fd is None:
            raise PermissionError(errno.EACCES, 'cannot be read', path)
        caps = Caps.from_file(look.fd)
        if not caps.marked:  # its owner has another file there by now
            return None
        is_owned = recorded and digest(fd, recorded.algorithm) == recorded.digits
        names = user_name(look.info.st_uid), group_name(look.info.st_gid)
        mode, sha256 = stat.S_IMODE(look.info.st_mode), None if is_owned else digest(fd, 'sha256')
        return Listed(path, str(caps), *names, mode, caps.root_id, sha256)


def without_copies(
    files: Iterable[tuple[str, Caps]], listed: Mapping[str, ListedCopy]
) -> Iterator[tuple[str, Caps]]:
    """Files but for those of a ppy that is installed, and of environments that are listed.

    Each installation and each mark writes these anew and proves them.
    """
    for path, caps in files:
        venv = listed.get(os.path.dirname(os.path.dirname(path)))
        if not (_is_of_ppy(path, caps) or (venv and is_python_of(venv, path, caps))):
            yield path, caps


def _is_of_ppy(path: str, caps: Caps) -> bool:
    match = PPY.fullmatch(path)
    if match is None:
        return False
    prefix, launcher, copy = match.groups()
    with suppress(AdminError, OSError):
        installation = recorded(prefix or '/', launcher or copy or '')
        if installation is None or os.lstat(installation.ppy).st_uid:
            return False
        if launcher:
            return path == installation.ppy and caps == LAUNCHER_CAPS
        is_harmless = not caps.permitted and not caps.effective
        return is_harmless and os.path.dirname(path) in installation.stages()
    return False
