#!/usr/bin/env bash
# Runs one process of a training and tells by its exit code how it ended.
#
#   launch/worker.sh COMMAND...
#
# The code is the command's own, but for one: gpt1_jax ends with 0 when SIGTERM stopped it and its state is saved, and
# this ends with 143 then. So Kubernetes, Slurm and systemd, which read nothing but exit codes, tell "stopped, run it
# again" from "done".
set -uo pipefail

child=
stopped=
signalled=
# shellcheck disable=SC2329 # trap calls it
stop() {
  stopped=yes
  signalled=yes
  [[ -z $child ]] || kill -TERM "$child" 2>/dev/null
}
trap stop TERM

"$@" &
child=$!
[[ -z $stopped ]] || kill -TERM "$child" 2>/dev/null # the signal came before there was a child

signalled=yes
while [[ -n $signalled ]]; do # a signal ends `wait` before the child ends
  signalled=
  wait "$child"
  code=$?
done
[[ -n $stopped && $code == 0 ]] && code=143
exit "$code"
