"""What an ablation varies: two sets of variants, each measured against the first of its set.

    parts      the parts of the model: the paper's Table 6, then the forms in which paper and code differ
    caching    what the frozen networks see and how often: a cache, or the networks in the step

A variant is a list of settings. A store is built with one input of the landmark network, so a
variant of the set `parts` with the other input has the settings of `full` and a store of its own.

The help texts import this module, so it imports nothing that takes long to load.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from orsanet_cache.errors import OrsanetError, did_you_mean

if TYPE_CHECKING:
    from orsanet_cache.store.reader import PriorStore
    from orsanet_train.model_config import ModelConfig

Settings = tuple[str, ...]  # overrides, KEY=VALUE

# The rows of the paper's Table 6 ("cross-interaction" in both of its readings), less than these, then the forms in which paper and published code differ.
PARTS: dict[str, Settings] = {
    "full": (),
    "no-segmentation": ("model.segmentation_prior=none",),
    "no-cross-interaction": ("model.cross_interaction=false",),
    "no-mcm": ("model.mcm=false",),
    "single-scale": ("model.multi_scale=false",),
    "no-reintegration": ("model.landmark_reintegration=false",),
    "no-dare": ("loss.dare=none",),
    "no-landmarks": ("model.landmark_prior=none",),
    "backbone-only": ("model.segmentation_prior=none", "model.mcm=false"),
    "map": ("model.segmentation_prior=map",),
    "spatial": ("model.tokens=spatial",),
    "spatial-map": ("model.tokens=spatial", "model.segmentation_prior=map"),
    "spatial-no-segmentation": ("model.tokens=spatial", "model.segmentation_prior=none"),
    "paper-spade": ("model.spade=paper",),
    "projected-query": ("model.query=projected",),
    "paper-dare": ("loss.dare=paper",),
    "no-mixing": ("model.mixing=false",),  # of POSTER
    "plain-residual": ("model.residual=plain",),  # of POSTER V2
}
CACHING: dict[str, Settings] = {
    "cached-clean": (),
    "cached-augmented-4": ("augmentation.views=augmented-4",),
    "online-erased": ("priors=online", "online=erased"),
    "online-published": ("priors=online", "online=published"),
    "no-erasing": ("augmentation.erasing=0.0",),
    "cached-occluded": ("augmentation.views=clean,mask,sunglasses",),
}
SETS = {"parts": PARTS, "caching": CACHING}
# `full`, trained on the second store, by the input of the landmark network there.
LANDMARK_VARIANTS = {"native": "native-landmarks", "published": "published-landmarks"}


def settings_of(variant: str) -> Settings:
    """The settings that a variant changes; the landmark variants change the store instead."""
    return next((variants[variant] for variants in SETS.values() if variant in variants), ())


def set_of(variant: str) -> str:
    """The name of the variant's set."""
    return next((name for name, variants in SETS.items() if variant in variants), "parts")


def in_order(variants: Sequence[str]) -> list[str]:
    """The variants of one set in the order of a table, the first of the set first."""
    names = [name for of_set in SETS.values() for name in of_set]
    return [name for name in (*names, *LANDMARK_VARIANTS.values()) if name in variants]


def reference_of(variants: Sequence[str]) -> str:
    """The variant from which differences are taken: the first of the set, whether it is among them or not."""
    return next(iter(SETS[set_of(variants[0])]))


def fits(variant: str, model: "ModelConfig") -> bool:
    """Whether the kind of model has the keys that the variant changes."""
    tables = (setting.partition("=")[0].rpartition(".") for setting in settings_of(variant))
    return all(table != "model" or leaf in type(model).model_fields for table, _, leaf in tables)


def chosen_variants(
    names: Sequence[str] | None, model: "ModelConfig", store: "PriorStore", landmark_store: "PriorStore | None"
) -> list[str]:
    """The variants of these names, of which one may be that of a set.

    None means all parts that the stores allow and the kind of model has. Raises OrsanetError for an
    unknown variant, for one without its store, and for variants of two
    sets.
    """
    possible = landmark_variant(store)
    if names is None:
        return [*(name for name in PARTS if fits(name, model)), *(() if landmark_store is None else (possible,))]
    chosen = [variant for name in names for variant in _of_set(name, model)]
    known = [name for name in (*PARTS, possible, *CACHING, *SETS) if fits(name, model)]
    if unknown := [variant for variant in chosen if variant not in known]:
        raise OrsanetError(
            f'no variant {", ".join(unknown)} with {store.path} and model.kind = "{model.kind}"; choose from {", ".join(known)}{did_you_mean(unknown[0], known)}'
        )
    if possible in chosen and landmark_store is None:
        fed = next(fed for fed, variant in LANDMARK_VARIANTS.items() if variant == possible)
        raise OrsanetError(
            f"variant {possible} needs a second store, otherwise like {store.path}; build it with `orsanet-cache build MANIFEST --out NEW "
            f"--segmenter … --landmarks … --landmark-input {fed}`, then pass --landmark-store NEW"
        )
    first, *others = chosen
    if mixed := [variant for variant in others if set_of(variant) != set_of(first)]:
        raise OrsanetError(
            f"variants {first} and {mixed[0]} are of two sets ({', '.join(SETS)}), whose differences are taken from two variants; "
            f"ablate each set with an --out of its own"
        )
    return list(dict.fromkeys(chosen))


def _of_set(name: str, model: "ModelConfig") -> Sequence[str]:
    """The variants of a set that the kind of model has; of another name the name itself."""
    return [variant for variant in SETS[name] if fits(variant, model)] if name in SETS else [name]


def varied_keys(name: str) -> set[str]:
    """The keys that the variants of a set decide, and the seed."""
    return {"seed", *(setting.split("=")[0] for settings in SETS[name].values() for setting in settings)}


def landmark_variant(store: "PriorStore") -> str:
    """The variant that a second store with the other landmark input makes possible."""
    fed = store.recipe["landmarks"]["input"]
    return next(variant for other, variant in LANDMARK_VARIANTS.items() if other != fed)


def recipe_of(variant: str, store: "PriorStore") -> dict[str, Any]:
    """The recipe that a variant's store must have, given the store of the other variants."""
    recipe = store.recipe
    for fed, name in LANDMARK_VARIANTS.items():
        if variant == name:
            recipe["landmarks"] = {**recipe["landmarks"], "input": fed}
    return recipe
