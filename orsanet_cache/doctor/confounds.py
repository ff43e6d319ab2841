"""File properties associated with the class or split: a network may learn them, not expressions.

The strength is Cramér's V of the table property x class, 0 … 1
(scipy.stats.contingency.association). 0.3 is usually called medium. The effect is the result of
guessing the class from the property alone: the share of each class's pictures that is guessed
right, averaged over the classes.
"""

import numpy as np
import pandas as pd
from scipy.stats import chi2_contingency
from scipy.stats.contingency import association

from orsanet_cache.doctor.finding import Finding
from orsanet_cache.doctor.look import DataSet
from orsanet_cache.errors import few

GREY = 5.0  # chroma; among 959 real faces, grey ones have 0 and coloured ones at least 10
STRONG = 0.3
NAMED = 20  # classes in one finding
FEWEST = 20  # pictures of a value; rarer ones are left out
CHANCE = 1e-3  # probability that a table of independent properties differs as much
COLOUR = "colour"


def judge_confounds(data: DataSet) -> list[Finding]:
    """Return a warning for every property associated with the class or with the split."""
    usable = data.usable
    findings = []
    for title, values in properties(usable).items():
        for group, column in (("class", "label"), ("split", "split")):
            found = _judge(title, values, group, usable[column])
            findings += [found] if found else []
    return findings


def properties(usable: pd.DataFrame) -> dict[str, "pd.Series[str]"]:
    """Title -> value per picture; the value is missing if a picture does not have the property."""
    octave = np.floor(np.log2(np.maximum(np.minimum(usable.width, usable.height), 1))).astype(int)
    size = (2**octave).astype(str) + " to " + (2 ** (octave + 1) - 1).astype(str) + " pixels"
    quality = pd.cut(usable.quality, [0, 50, 75, 90, 100], labels=["up to 50", "51 to 75", "76 to 90", "above 90"])
    return {
        COLOUR: pd.Series(np.where(usable.chroma < GREY, "grey", "coloured"), usable.index),
        "the size (shorter side)": size,
        "the file format": usable.format,
        "the JPEG quality": quality.astype(object),
    }


def _judge(title: str, values: "pd.Series[str]", group: str, groups: "pd.Series[str]") -> Finding | None:
    table = pd.crosstab(values, groups)  # leaves missing values out
    table = table[table.sum(axis=1) >= FEWEST]
    table = table.loc[:, table.sum() > 0]
    if min(table.shape) < 2:
        return None
    strength = float(association(table.to_numpy(), method="cramer"))
    if strength < STRONG or chi2_contingency(table.to_numpy()).pvalue > CHANCE:
        return None
    shares = table / table.sum()  # of each group's pictures
    telling = int(np.argmax(shares.max(axis=1) - shares.min(axis=1)))  # the value that differs most
    share = shares.iloc[telling].sort_values(ascending=False)
    overall = table.iloc[telling].sum() / table.to_numpy().sum()
    guess = shares.max(axis=1).sum() / table.shape[1]
    listed = few([f"{name} {value:.0%}" for name, value in share.items()], NAMED)
    tagging = (
        "tag the pictures (grey, colour) and read test:grey and test:colour"
        if title == COLOUR
        else "tag the pictures by this property and read each tag separately"
    )
    advice = (
        f"make the pictures alike (all grey, of one size, encoded once), or balance them, or {tagging}."
        if group == "class"
        else "accuracies then also measure this difference; draw the splits from the same pictures, or make the pictures alike."
    )
    return Finding(
        "warning",
        f"confound-{group}",
        f"{title} is associated with the {group} (Cramér's V {strength:.2f}): share of {table.index[telling]}: {listed}; overall {overall:.0%}. "
        f"Guessing the {group} from this property alone is right for {guess:.0%} (mean over the {'classes' if group == 'class' else 'splits'}); chance is {1 / table.shape[1]:.0%}",
        advice,
    )
