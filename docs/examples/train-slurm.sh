#!/bin/bash
# A training per seed, as an array of Slurm jobs: sbatch train-slurm.sh
#SBATCH --job-name=orsanet-train
#SBATCH --array=0-4
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
#SBATCH --output=train-%a.log
#SBATCH --open-mode=append
set -euo pipefail

run="$SCRATCH/runs/seed-$SLURM_ARRAY_TASK_ID"
resume=()
if [ -e "$run/run.json" ]; then # requeued
    resume=(--resume)
fi
# Two minutes before the time is over Slurm sends SIGTERM to this script: the run saves its state, and the task is queued again.
stopped=
trap 'stopped=1; kill -TERM "$training"' TERM
orsanet-train run --store "$SCRATCH/store.zarr" --manifest "$SCRATCH/faces/my-faces.toml" --preset rafdb \
    --set seed="$SLURM_ARRAY_TASK_ID" --out "$run" "${resume[@]}" &
training=$!
wait "$training" || true # until the run or the signal comes
status=0
wait "$training" || status=$?
if [ -n "$stopped" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
