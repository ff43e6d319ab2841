"""All judges together: manifest → findings, the most severe first."""

from collections.abc import Sequence
from typing import get_args

from orsanet_cache.data.manifest import load_manifest
from orsanet_cache.doctor.confounds import judge_confounds
from orsanet_cache.doctor.copies import find_near_copies, judge_near_copies, judge_same_files
from orsanet_cache.doctor.counts import judge_counts
from orsanet_cache.doctor.finding import Finding, Severity
from orsanet_cache.doctor.known import known_data_set
from orsanet_cache.doctor.label_order import judge_label_order
from orsanet_cache.doctor.look import DataSet, look
from orsanet_cache.doctor.people import judge_persons, read_persons
from orsanet_cache.doctor.pictures import judge_pictures
from orsanet_cache.doctor.tags import judge_tags
from orsanet_cache.paths import StrPath, as_path


def examine(
    path: StrPath, root: StrPath | None = None, classes: Sequence[str] | None = None
) -> tuple[DataSet, list[Finding]]:
    """Examine the manifest at `path`, with arguments as for a build.

    Raises OrsanetError if its table cannot be read.
    """
    path = as_path(path, "manifest")
    # The check of files is off: it would stop at missing files, which are findings here.
    manifest = load_manifest(path, root, classes, check_files=False)
    data = look(manifest, read_persons(path))
    known = known_data_set(data.name, len(data.classes))
    findings = [
        *judge_label_order(data, known),
        *judge_counts(data, known),
        *judge_pictures(data, known),
        *judge_same_files(data),
        *judge_near_copies(data, find_near_copies(data, manifest.root)),
        *judge_persons(data),
        *judge_confounds(data),
        *judge_tags(data),
    ]
    order = get_args(Severity)
    return data, sorted(findings, key=lambda finding: order.index(finding.severity))
