#!/usr/bin/env bash
# What tpu_vm.sh does on each worker of a slice: installs the code that this lies in, and starts the training there.
#
# It is a systemd service, so it outlives the connection. A crash, or a stop that was saved (143), starts it again after
# 15 seconds, 20 times a day; exit code 2, the user's input being wrong, does not. Ended with 0 it stays visible as
# done. It comes after the network, so that at a shutdown it ends before: it has a checkpoint to save to gs://.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[[ -f setup.sh ]] || {
  echo "tpu_worker.sh: this is for tpu_vm.sh to run, on a worker; run that one." >&2
  exit 2
}

{
  sudo systemctl stop gpt1_jax # an earlier one saves first
  sudo systemctl reset-failed gpt1_jax
} 2>/dev/null || true

# The workers' own Python is 3.10; uv brings another.
python3 -m pip install --quiet --user uv
python3 -m uv venv --quiet --allow-existing --python=3.12 .venv
python3 -m uv pip install --quiet --python=.venv/bin/python --editable '.[tpu,demo]' 'etils[epath-gcs]'
bash setup.sh

sudo systemd-run --unit=gpt1_jax --description="$(cksum <train.sh)" --uid="$(id -un)" --working-directory="$PWD" \
  --property=Restart=on-failure --property=RestartSec=15 --property=RestartPreventExitStatus=2 \
  --property=StartLimitIntervalSec=1d --property=StartLimitBurst=20 \
  --property=RemainAfterExit=yes --property=LimitMEMLOCK=infinity \
  --property=Wants=network-online.target --property=After=network-online.target \
  bash launch/tpu_start.sh
