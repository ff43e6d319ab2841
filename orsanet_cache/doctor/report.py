"""Findings as text, each with its first places, and as JSON, each with all its places."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import get_args

from orsanet_cache.doctor.counts import count
from orsanet_cache.doctor.finding import Finding, Place, Severity
from orsanet_cache.doctor.look import DataSet
from orsanet_cache.errors import few
from orsanet_cache.streams import padded, terminal_width

SHOWN = 3


def as_text(data: DataSet, findings: Sequence[Finding]) -> str:
    """Return the text that the command prints."""
    counts = count(data)
    width = max(map(terminal_width, data.classes))
    columns = [f"{split:>9}" for split in counts]
    lines = [f"{data.name}: {len(data.pictures):,} pictures", f"  {'':<{width}} {' '.join(columns)}"]
    lines += [f"  {padded(name, width)} {' '.join(f'{size:>9,}' for size in row)}" for name, row in zip(counts.index, counts.to_numpy(), strict=True)]  # fmt: skip
    for finding in findings:
        lines += ["", f"{finding.severity}: {finding.what}."]
        lines += [f"    {_shown(place)}" for place in finding.where[:SHOWN]]
        if len(finding.where) > SHOWN:
            lines.append(f"    … and {len(finding.where) - SHOWN:,} more")
        lines.append(f"  do: {finding.advice}")
    return "\n".join([*lines, "", summary(findings)])


def as_json(data: DataSet, findings: Sequence[Finding]) -> str:
    """Return all findings as ASCII, because a file name may contain characters without encoding."""
    counts = {
        str(split): {str(name): int(size) for name, size in sizes.items()} for split, sizes in count(data).items()
    }
    document = {
        "name": data.name,
        "classes": list(data.classes),
        "pictures": len(data.pictures),
        "counts": counts,
        "findings": [asdict(finding) for finding in findings],
    }
    return json.dumps(document, indent=1) + "\n"


def summary(findings: Sequence[Finding]) -> str:
    """Return the number of findings of each severity, in words."""
    number = Counter(finding.severity for finding in findings)
    found = [f"{number[severity]} {severity}{'s' * (number[severity] > 1)}" for severity in get_args(Severity) if number[severity]]  # fmt: skip
    return ", ".join(found) or "nothing found"


def _shown(place: Place) -> str:
    names = few([repr(image) for image in place.images])
    remarks = [place.remark] if place.remark else []
    if place.similarity is not None:
        remarks.append(f"similarity {place.similarity:.2f}")
    remark = "; ".join(remarks)
    return f"{names}: {remark}" if names and remark else names or remark
