#!/bin/bash
# One training whose batches all GPUs of a machine share, or those of several machines.
set -euo pipefail

resume=()
if [ -e run/run.json ]; then
    resume=(--resume)
fi
# Only the first process writes the run folder; the store must be readable under the same path everywhere.
exec torchrun --nnodes "${NODES:-1}" --node-rank "${NODE:-0}" --nproc-per-node 4 \
    --master-addr "${FIRST_NODE:-127.0.0.1}" --master-port 29500 \
    -m orsanet_train run --store store.zarr --manifest my-faces.toml --preset rafdb --out run "${resume[@]}"
