#!/usr/bin/env bash
# One run over all hosts of a Cloud TPU slice, where jaxcl is installed on each (pip install "jaxcl" "jax[tpu]"):
#
#     launch/tpu_vm.sh my-slice us-central2-b configs/moco_v2_imagenet.py --run.devices None --out /mnt/bucket/run
#
# The run directory has to lie where all hosts see it, such as a mounted bucket. The same line goes on with a run that
# was stopped. Each host's output carries its number.
set -euo pipefail

if (($# < 3)); then
  echo "usage: launch/tpu_vm.sh NAME ZONE CONFIG --out RUN_DIR [--dotted.option VALUE ...]" >&2
  exit 2
fi
name=$1 zone=$2
shift 2

# Quoted once more, for the shell over there.
gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker=all --command "jaxcl train$(printf ' %q' "$@")"
