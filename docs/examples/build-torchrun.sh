#!/bin/bash
# A store built by all GPUs of a machine, or of several: the same line on each of them, with its --node-rank.
set -euo pipefail

# torchrun's rank is the part: the processes share the folder and nothing else.
exec torchrun --nnodes "${NODES:-1}" --node-rank "${NODE:-0}" --nproc-per-node 4 \
    --master-addr "${FIRST_NODE:-127.0.0.1}" --master-port 29500 \
    -m orsanet_cache build my-faces.toml --out store.zarr \
    --segmenter model_299.pt --landmarks mobilefacenet_model_best.pth.tar
