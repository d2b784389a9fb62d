#!/usr/bin/env bash
# What the service on a TPU worker runs at each of its starts: train.sh, once the chips can be had.
#
# libtpu leaves a lock file behind when its process is killed, perhaps one of another user, and then no process gets the
# chips. It is removed where no process has it open.
set -euo pipefail

lock=${TMPDIR:-/tmp}/libtpu_lockfile
if [[ -e $lock ]]; then
  holders=$(sudo find /proc -mindepth 3 -maxdepth 3 -path '/proc/[0-9]*/fd/*' -lname "$lock" 2>/dev/null || true)
  if [[ -n $holders ]]; then
    echo "tpu_start.sh: $lock is held by ${holders//$'\n'/, }; another process uses the chips" >&2
  else
    sudo rm -f "$lock"
  fi
fi
exec bash train.sh
