#!/usr/bin/env bash
# One run over the nodes of a SLURM job, a process a node, each with all the node's devices:
#
#     sbatch --nodes=4 launch/slurm.sh configs/moco_v2_imagenet.py --run.devices None --out /shared/run
#
# The run directory has to lie where all nodes see it. Three minutes before the time is up the run saves and stops, and
# the job queues again and goes on; so it does when a node is lost. scancel ends it for good, saved.
#SBATCH --job-name=jaxcl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail

if (($# == 0)); then
  echo "usage: sbatch launch/slurm.sh CONFIG --out RUN_DIR [--dotted.option VALUE ...]" >&2
  exit 2
fi

code=0
srun --kill-on-bad-exit=1 jaxcl train "$@" || code=$?

# 143: told to stop. 75: another process was lost; srun gives the highest code, so that of the lost one where a signal
# ended it: 134, 137, 139. Anything else would most likely fail again.
case $code in
  75 | 134 | 137 | 139 | 143)
    if ((${SLURM_RESTART_COUNT:-0} < 100)); then
      scontrol requeue "$SLURM_JOB_ID"
    fi
    ;;
esac
exit "$code"
