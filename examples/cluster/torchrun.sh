#!/usr/bin/env bash
# One training on two machines of four GPUs each, started by torchrun. Run this on both, with NODE=0 and NODE=1:
#
#   NODE=0 MAIN=gpu01 bash torchrun.sh config.yaml runs/big
#   NODE=1 MAIN=gpu01 bash torchrun.sh config.yaml runs/big
#
# The config, the images and the run folder lie where both machines see them under the same path.
# For one machine nothing of this is needed: medtail train config.yaml --set devices=4 --out runs/big
set -euo pipefail
export TORCH_CPP_LOG_LEVEL=ERROR  # a hint of torch about speed, once a process
config=$1
out=$2

# after a crash the same script goes on from the last whole epoch
if [[ -f "$out/config.yaml" ]]; then
  where=(--resume "$out")
else
  where=(--out "$out")
fi

# --no-python: `medtail` is a program of its own. --max-restarts 0: a resume is a new start, which this script makes.
exec torchrun --nnodes 2 --node-rank "$NODE" --nproc-per-node 4 --max-restarts 0 \
  --master-addr "$MAIN" --master-port 29500 --no-python \
  medtail train "$config" --set devices=4 --set num_nodes=2 "${where[@]}"
