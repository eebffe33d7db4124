"""A manifest of marks, compared with what is there, and brought back."""

import os
from collections.abc import Iterable, Iterator
from itertools import islice

from caps.admin.glance import Glance
from caps.admin.listed import Manifest
from caps.admin.listed_copies import look_at_copy
from caps.admin.manifest_files import ManifestFiles
from caps.admin.restoring import Drift, look, shown
from caps.admin.survey import without_copies
from caps.admin.transaction import AdminError
from caps.system.find import Findings, find
from caps.system.packages import recorded_digests

AT_ONCE = 5000  # files, about whose packages is asked together


def check(manifest: Manifest | ManifestFiles) -> tuple[list[Drift], list[OSError]]:
    """What is not as listed, first what amounts to root, and what could not be looked at."""
    drifts = [*_each(manifest, is_acting=False)]
    problems: list[OSError] = []

    def watch(findings: Findings) -> None:
        unlisted = (entry for entry in findings.take() if entry[0] not in manifest)
        for path, caps in without_copies(unlisted, manifest.copies):
            drifts.append(Drift('unexpected', path, None, f'has {shown(caps)}', caps))

    for directory in manifest.searched:
        try:
            findings = find(directory, watch=watch)
        except OSError as error:
            problems.append(OSError(error.errno, error.strerror, directory))
        else:
            watch(findings)
            problems += findings.problems
    return in_order(drifts), problems


def restore(manifest: Manifest | ManifestFiles, *, is_dry: bool = False) -> list[Drift]:
    """Bring back what is not as listed, or with `is_dry` say what would be.

    Returns what was brought back, and with a `refusal` what was not, first what amounts to root.
    """
    if os.geteuid() and not is_dry:
        raise AdminError('this needs root: run it with sudo')
    return in_order(_each(manifest, is_acting=not is_dry))


def in_order(drifts: Iterable[Drift]) -> list[Drift]:
    """First what amounts to root."""
    return sorted(drifts, key=lambda drift: (not drift.amounts_to_root, drift.path))


def _each(manifest: Manifest | ManifestFiles, *, is_acting: bool) -> Iterator[Drift]:
    for copy in manifest.copies.values():
        if drift := look_at_copy(copy, is_acting):
            yield drift
    files = manifest.each()
    with Glance() as glance:
        while some := [*islice(files, AT_ONCE)]:
            there = (file.path for file in some if not file.sha256 and os.path.lexists(file.path))
            recorded = recorded_digests(there)
            for file in some:
                digest = recorded.get(file.path)
                if not glance.is_as_listed(file, digest) and (
                    drift := look(file, digest, is_acting)
                ):
                    yield drift
