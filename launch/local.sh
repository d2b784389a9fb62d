#!/usr/bin/env bash
# Trains in several processes on this machine's CPU, by the same code as on the hosts of a pod.
#
#   launch/local.sh [--num_processes=2] [--devices=1] [--max_restarts=3] [--dry_run] -- TRAINING_FLAGS...
#
#   --num_processes=N  how many processes
#   --devices=N        how many devices each has
#   --max_restarts=N   how often all of them start again after one died, or saved and stopped
#   --dry_run          prints the commands instead
#
# It ends with 0 when the training is done; with 143, 130 or 129 when SIGTERM, Ctrl-C or SIGHUP stopped it, after it was
# saved; with 2, at once, when its input is wrong; and with 1 when it died once too often. The same command then goes on
# from the newest checkpoint.
set -euo pipefail

GRACE=10 # seconds that the others have once one died; they cannot go on without it

tell() { echo "local.sh: $*" >&2; }

die() {
  tell "$*"
  exit 2
}

num_processes=2
devices=1
max_restarts=3
dry_run=
while (($#)); do
  case "$1" in
    --num_processes=*) num_processes=${1#*=} ;;
    --devices=*) devices=${1#*=} ;;
    --max_restarts=*) max_restarts=${1#*=} ;;
    --dry_run) dry_run=yes ;;
    --help)
      sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
      exit 0
      ;;
    --) break ;;
    *) die "$1 is not a flag of this script; see --help, and put the training's flags behind --." ;;
  esac
  shift
done
[[ $num_processes =~ ^[1-9][0-9]*$ ]] || die "--num_processes=$num_processes is not a number of processes; write 1 or more."
[[ $devices =~ ^[1-9][0-9]*$ ]] || die "--devices=$devices is not a number of devices; write 1 or more."
[[ $max_restarts =~ ^[0-9]+$ ]] || die "--max_restarts=$max_restarts is not a number; write 0 or more."
(($# > 1)) || die "there are no training flags; write -- --config=configs/pretrain.py:tiny, say."
shift

pids=()
stopping=
# shellcheck disable=SC2329 # trap calls it
stop() { # stop CODE
  stopping=$1
  ((${#pids[@]} == 0)) || kill -TERM "${pids[@]}" 2>/dev/null || true
}
trap 'stop 143' TERM
trap 'stop 130' INT
trap 'stop 129' HUP

start() { # start TRAINING_FLAGS...: all processes, or their commands on standard output
  local port number command
  port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])')
  pids=()
  for ((number = 0; number < num_processes; number++)); do
    command=(env JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES="$devices" python3 -m gpt1_jax.main "$@"
      --coordinator="localhost:$port" --num_processes="$num_processes" --process_id="$number")
    if [[ -n $dry_run ]]; then
      printf '%q ' "${command[@]}"
      echo "&"
    else
      "${command[@]}" &
      pids+=("$!")
    fi
  done
  [[ -z $stopping ]] || stop "$stopping" # the signal came before they were there
}

finish() { # sets `outcome` when all have ended: 0, 2 if any ended with 2, else 1, else 143 if they were stopped
  local number code deadline='' codes=()
  while ((${#codes[@]} < num_processes)); do
    for number in "${!pids[@]}"; do
      if [[ -n ${codes[number]:-} ]] || kill -0 "${pids[number]}" 2>/dev/null; then continue; fi
      code=0
      wait "${pids[number]}" || code=$?
      codes[number]=$code
      if ((code != 0)); then
        tell "process $number ended with $code"
        deadline=${deadline:-$((SECONDS + GRACE))}
      fi
    done
    if [[ -n $deadline ]] && ((SECONDS > deadline)); then
      kill -KILL "${pids[@]}" 2>/dev/null || true
    fi
    sleep 0.2 || true # Ctrl-C ends it early
  done
  outcome=0
  for code in "${codes[@]}"; do
    case "$code" in
      0) ;;
      2) outcome=2 ;;
      129 | 130 | 143) ((outcome != 0)) || outcome=143 ;;
      *) [[ $outcome == 2 ]] || outcome=1 ;;
    esac
  done
}

for ((restart = 0; ; restart++)); do
  start "$@"
  [[ -z $dry_run ]] || exit 0
  finish
  [[ $outcome != 143 || -z $stopping ]] || exit "$stopping"
  [[ $outcome != [02] && -z $stopping ]] || exit "$outcome"
  ((restart < max_restarts)) || break
  tell "all start again, from the newest checkpoint ($((restart + 1)) of $max_restarts)"
done
tell "gives up; the same command goes on from the newest checkpoint"
exit 1
