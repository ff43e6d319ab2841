"""A user's script. `make types` checks that type checkers understand the public names; nothing runs it."""

from orsanet_cache import FrozenPriors, PriorStore, build, verify
from orsanet_train import PriorDataset, compare, load, load_config, read_evaluation, train

build("faces.toml", "store.zarr", FrozenPriors.load("demo", "demo"))
units, damage = verify("store.zarr", deep=True)
train(load_config("small"), "faces.toml", "store.zarr", "run")
data = PriorDataset(PriorStore.open("store.zarr"), "faces.toml", "test")
model = load("run", device="cpu")
result = model("face.jpg")
labels: list[tuple[str | None, float]] = [(face.label, max(face.probability.values())) for face in result.faces]
print(units, damage, len(data), labels, compare(["run", "other"]).differences, read_evaluation("run").table)
