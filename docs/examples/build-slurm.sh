#!/bin/bash
# A store built by an array of Slurm jobs, one GPU each: sbatch build-slurm.sh
#SBATCH --job-name=orsanet-build
#SBATCH --array=1-8
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=02:00:00
#SBATCH --requeue
#SBATCH --output=build-%a.log
#SBATCH --open-mode=append
set -euo pipefail

# Every task computes every eighth unit. A task that is requeued continues; the last one to finish seals the store.
exec orsanet-cache build "$SCRATCH/faces/my-faces.toml" --out "$SCRATCH/store.zarr" \
    --segmenter "$SCRATCH/weights/model_299.pt" --landmarks "$SCRATCH/weights/mobilefacenet_model_best.pth.tar" \
    --part "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
