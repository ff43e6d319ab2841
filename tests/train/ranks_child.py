"""An epoch of a small model in float64, alone or as one of torchrun's processes: losses step by step and the weights at its end.

Also what the first process tells the others. Not a test: test_torchrun.py calls `main` with STORE MANIFEST OUT BATCH_SIZE…, for an epoch
with each batch size.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from orsanet_cache import Manifest, OrsanetError, PriorStore, load_manifest
from orsanet_train.config import load_config
from orsanet_train.engine.distributed import Ranks, from_main, process_group, tensors_from_main
from orsanet_train.engine.engine import build_engine
from orsanet_train.engine.step import Sums
from orsanet_train.feed.feed import Feed
from orsanet_train.feed.plan import batch_spans
from orsanet_train.feed.split import join
from orsanet_train.model.model import Expression, build_model
from orsanet_train.model.orsanet import ORSANet

torch.set_num_threads(1)

CPU = torch.device("cpu")
SENT = {
    "bool": torch.tensor([True, False]), "bfloat16": torch.arange(5).bfloat16(), "none": torch.empty(0, 3),
    "step": torch.tensor(7, dtype=torch.int64), "float64": torch.rand(2, 3, dtype=torch.float64),
}  # fmt: skip


class InDouble(nn.Module):
    """The model in float64, fed from a float32 batch."""

    def __init__(self, model: ORSANet) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Expression:
        return self.model(*(value.double() if value.is_floating_point() else value for value in inputs))


def main(arguments: Sequence[str]) -> None:
    store, manifest, out, *batch_sizes = arguments
    with process_group(CPU) as ranks:
        for batch_size in batch_sizes:
            content = epoch(PriorStore.open(store), load_manifest(manifest), batch_size, ranks)
            save_file(content, f"{out}-{batch_size}-{ranks.rank}.safetensors")
        save_file(tensors_from_main(SENT if ranks.main else {}, ranks), f"{out}-received-{ranks.rank}.safetensors")
        try:
            from_main(refuse, ranks)
        except OrsanetError as error:
            Path(f"{out}-refused-{ranks.rank}").write_text(str(error))


def refuse() -> None:
    raise OrsanetError(f"refused by process {os.environ.get('RANK', 0)}")


def epoch(store: PriorStore, manifest: Manifest, batch_size: str, ranks: Ranks) -> dict[str, Tensor]:
    config = load_config(
        "small",
        (f"batch_size={batch_size}", "precision=exact", "model.depth=2", "model.width=64", "loss.warmup_epochs=0",
         "model.backbone_channels=[8,16,32]", "model.backbone_units=[1,1,1]"),
    )  # fmt: skip
    split = join(manifest, store, "train", ["clean", "hflip"])
    feed = Feed(store, split, config.model, CPU, ranks=ranks)
    torch.manual_seed(0)
    model = build_model(config.model, 3, 128, 512).double()
    engine = build_engine(InDouble(model), model, config, CPU, ranks, compiled=False)
    engine.step.begin_epoch(0, Sums())
    seen, rows = [], []
    for span, batch in zip(batch_spans(len(split.rows), config.batch_size), feed.epoch(config, 0), strict=True):
        engine.take(batch, span[1] - span[0])
        seen.append(engine.step.sums.clone())
        rows.append(len(batch.label))
    content = {**engine.step.state(), "sums": torch.stack(seen), "rows": torch.tensor(rows)}
    return {name: tensor.contiguous() for name, tensor in content.items()}
