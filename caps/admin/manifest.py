"""A manifest of marks, compared with what is there, and brought back."""

import os
from collections.abc import Iterable, Iterator

from caps.admin.manifest_text import Manifest
from caps.admin.restoring import Drift, look, shown
from caps.admin.survey import without_ppy
from caps.admin.transaction import AdminError
from caps.system.find import find
from caps.system.packages import recorded_digests


def check(manifest: Manifest) -> tuple[list[Drift], list[OSError]]:
    """What is not as listed, first what amounts to root, and what could not be looked at."""
    drifts = [*_each(manifest, is_acting=False)]
    problems: list[OSError] = []
    for directory in manifest.searched:
        try:
            findings = find(directory)
        except OSError as error:
            problems.append(OSError(error.errno, error.strerror, directory))
            continue
        problems += findings.problems
        for path, caps in without_ppy(findings.files):
            if path not in manifest.files:
                drifts.append(Drift('unexpected', path, None, f'has {shown(caps)}', caps))
    return in_order(drifts), problems


def restore(manifest: Manifest, *, is_dry: bool = False) -> list[Drift]:
    """Bring back what is not as listed, or with `is_dry` say what would be.

    Returns what was brought back, and with a `refusal` what was not, first what amounts to root.
    """
    if os.geteuid() and not is_dry:
        raise AdminError('this needs root: run it with sudo')
    return in_order(_each(manifest, is_acting=not is_dry))


def in_order(drifts: Iterable[Drift]) -> list[Drift]:
    """First what amounts to root."""
    return sorted(drifts, key=lambda drift: (not drift.amounts_to_root, drift.path))


def _each(manifest: Manifest, *, is_acting: bool) -> Iterator[Drift]:
    listed = manifest.files.values()
    there = (file.path for file in listed if not file.sha256 and os.path.lexists(file.path))
    recorded = recorded_digests(there)
    for file in listed:
        drift = look(file, recorded.get(file.path), is_acting)
        if drift:
            yield drift
