"""The paper's forms, the ablations without landmarks and the published reading, from pictures to export and prediction."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from encoded_pictures import encoded, orientation, picture
from PIL import Image

from orsanet_cache import Manifest, PriorStore, Sample
from orsanet_cache.builder.build import build
from orsanet_train import load
from orsanet_train.config import load_config
from orsanet_train.evaluation.evaluate import evaluate
from orsanet_train.evaluation.predictions import probability_columns
from orsanet_train.export.export import export_onnx
from orsanet_train.run.train import train

CLASSES = ("anger", "happiness", "neutral")
SETTINGS = (
    "epochs=1", "batch_size=6", "loss.warmup_epochs=0", "augmentation.hflip=0.0", "model.depth=1", "model.width=32", "model.multi_scale=false",
    "model.backbone_channels=[8,8,16]", "model.backbone_units=[1,1,1]",
)  # fmt: skip
# The changes of a configuration, and the store's fields that the exported model reads; None: not exported, as a trace takes many seconds.
FORMS = {
    "no-mcm": (("model.mcm=false",), {"image", "segmentation_features"}),
    "no-landmarks": (("model.landmark_prior=none",), None),
    "backbone-only": (("model.segmentation_prior=none", "model.mcm=false"), {"image"}),
    "paper": (
        ("model.spade=paper", "model.query=projected"),
        {"image", "segmentation_features", "landmark_features"},
    ),
}


@dataclass(frozen=True)
class Faces:
    """Pictures that lie on their side by their EXIF orientation, and a store of them as the published loader reads them."""

    manifest: Manifest
    store: PriorStore


@pytest.fixture(scope="module")
def faces(world, tmp_path_factory: pytest.TempPathFactory) -> Faces:
    folder = tmp_path_factory.mktemp("forms")
    samples = []
    for number, split in enumerate(["train"] * 6 + ["valid"] * 3):
        name = f"{split}_{number}.png"
        lying = Image.fromarray(picture(number, 64, 48))
        (folder / name).write_bytes(encoded(lying, "PNG", exif=orientation(6)))
        samples.append(Sample(name, number % len(CLASSES), split, frozenset()))
    manifest = Manifest("forms", CLASSES, folder, tuple(samples))
    build(manifest, folder / "store", world.load_priors(), ["clean"], device="cpu", image_reading="published")
    return Faces(manifest, PriorStore.open(folder / "store"))


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_trained_evaluated_exported_and_predicts_what_was_evaluated(
    world, faces: Faces, form: str, tmp_path: Path
) -> None:
    changes, reads = FORMS[form]
    run, store = tmp_path / "run", faces.store
    train(load_config("small", (*SETTINGS, *changes)), faces.manifest, store, run, device="cpu")
    evaluation = evaluate(
        run / "best.safetensors", faces.manifest, store, run / "evaluation", groups=None, device="cpu"
    )
    table = evaluation.table[evaluation.table["split"] == "valid"].set_index("image")
    columns = probability_columns(CLASSES)

    if reads is not None:
        exported = export_onnx(run, "best", tmp_path / "onnx", part="trainable")
        session = onnxruntime.InferenceSession(exported.folder / "trainable.onnx")
        inputs = {port.name for port in session.get_inputs()}
        assert inputs == reads
        rows = {name: store.read("valid", "clean", name, slice(None)) for name in inputs}
        (computed,) = session.run(["probabilities"], rows)
        expected = table.loc[list(store.sample_ids("valid")), columns].to_numpy()
        np.testing.assert_allclose(computed, expected, rtol=0, atol=1e-5)
        assert "orientation: ignored" in session.get_modelmeta().custom_metadata_map["preprocessing"]

    model = load(run, crop="none", device="cpu", segmenter=world.segmenter, landmarks=world.landmarks)
    for name in table.index:
        (face,) = model(faces.manifest.root / name).faces
        assert (face.box.width, face.box.height) == (48, 64)  # as stored: the orientation is not followed
        np.testing.assert_allclose(list(face.probability.values()), table.loc[name, columns].astype(float), atol=1e-4)
    opened = Image.open(faces.manifest.root / name)
    assert model(opened).faces[0].probability == pytest.approx(face.probability, abs=1e-4)
