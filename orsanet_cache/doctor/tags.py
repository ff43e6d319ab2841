"""Tags: evaluation reports each as a group, so spellings must agree and groups must be large."""

from collections import Counter, defaultdict

from orsanet_cache.doctor.finding import Finding, Place
from orsanet_cache.doctor.look import DataSet

FEW = 20  # pictures: one more right prediction moves the group's accuracy by 5 percentage points


def judge_tags(data: DataSet) -> list[Finding]:
    """Find tags that differ only in capitals or punctuation, and small groups in tested splits."""
    pictures = data.pictures
    used = Counter(tag for tags in pictures.tags for tag in tags)
    spellings = defaultdict(list)
    for tag in sorted(used):
        spellings["".join(character for character in tag.lower() if character.isalnum())].append(tag)
    findings = []
    if alike := [tags for tags in spellings.values() if len(tags) > 1]:
        listed = "; ".join(" and ".join(f"{tag} ({used[tag]:,})" for tag in tags) for tags in alike)
        findings.append(
            Finding(
                "warning",
                "tag-spelt-twice",
                f"tags that seem to mean the same: {listed}",
                "write each in one way only.",
            )
        )
    tested = pictures[pictures.split != "train"]
    groups = Counter((split, tag) for split, tags in zip(tested.split, tested.tags, strict=True) for tag in tags)
    if rare := sorted(group for group, size in groups.items() if size < FEW):
        findings.append(
            Finding(
                "note",
                "rare-tag",
                f"{len(rare):,} group(s) of tagged pictures have fewer than {FEW}: their accuracies are very uncertain",
                "read them with their intervals, or join tags.",
                tuple(Place((), f"{split}:{tag} {groups[split, tag]}") for split, tag in rare),
            )
        )
    return findings
