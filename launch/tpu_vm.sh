#!/usr/bin/env bash
# Trains on a Cloud TPU slice that it asks for as a queued resource.
#
#   launch/tpu_vm.sh train  --zone=ZONE [FLAGS] -- TRAINING_FLAGS...  all of these, until the run is done, despite preemptions
#   launch/tpu_vm.sh create --zone=ZONE [FLAGS]                       asks for the slice
#   launch/tpu_vm.sh run    --zone=ZONE [FLAGS] -- TRAINING_FLAGS...  brings this code to all workers and starts it
#   launch/tpu_vm.sh logs   --zone=ZONE [FLAGS]                       follows what a worker prints
#   launch/tpu_vm.sh delete --zone=ZONE [FLAGS]                       gives the slice back
#
#   --name=NAME        the name of the slice [gpt1-jax]
#   --zone=ZONE        where the slice is, such as us-central1-a
#   --project=ID       the project [that of gcloud]
#   --type=TYPE        the kind and size of the slice, such as v5litepod-16, v5p-32, v6e-8 [v5litepod-16]
#   --runtime=VERSION  the workers' system [the one for the type]
#   --spot             cheaper; may be taken away at any time
#   --setup=COMMAND    runs on every worker, beside configs/, before the training starts, to fetch text, say
#   --worker=I         the worker whose log to follow: a number or all [0]
#   --dry_run          prints the commands instead
#
# On each worker the training is a systemd service. It needs no connection, and it starts again when it crashes (20 times
# a day) but not when its input is wrong (exit code 2). `train` checks on the slice every minute, asks for it again after a
# preemption, and gives it back at the end. It ends with 0 when the run is done, with 2 when its input is wrong, and with 1
# when it gave up. Stop it at any time and start it again: the same command goes on from what it finds. It leaves a slice
# alone whose training has other flags. The slice does not last, so --workdir must be on gs://.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PATIENCE=10 # looks in a row that may fail
ALIVE=(-oConnectTimeout=15 -oServerAliveInterval=30) # for ssh, not to wait for a machine that is gone

tell() { echo "tpu_vm.sh: $*" >&2; }

die() {
  tell "$*"
  exit 2
}

cloud() { # cloud ARGUMENTS...: every call of the cloud
  local command=(gcloud compute tpus "$@" --zone="$zone" --quiet)
  [[ -z $project ]] || command+=(--project="$project")
  if [[ -n $dry_run ]]; then
    printf '%q ' "${command[@]}"
    echo
  else
    "${command[@]}" </dev/null # ssh would read the terminal, and a job in the background stop
  fi
}

on() { # on WORKER COMMAND
  cloud tpu-vm ssh "$name" --worker="$1" "${ALIVE[@]/#/--ssh-flag=}" --command="$2"
}

create() {
  local flags=(--node-id="$name" --accelerator-type="$type" --runtime-version="$runtime")
  [[ -z $spot ]] || flags+=(--spot)
  cloud queued-resources create "$name" "${flags[@]}"
}

delete() { cloud queued-resources delete "$name" --force; }

state() { # of the slice; nothing if there is no slice
  cloud queued-resources list --filter="name~/$name\$" --format="value(state.state)"
}

script() { # script TRAINING_FLAGS...: what starts the training on a worker
  printf '%q ' exec .venv/bin/python -m gpt1_jax.main "$@"
  echo
}

run() ( # run TRAINING_FLAGS...
  umask 077 # what fetches the data may hold secrets
  parcel=$(mktemp -d)
  trap 'rm -rf "$parcel"' EXIT
  script "$@" >"$parcel/train.sh"
  printf '%s\n' "$setup" >"$parcel/setup.sh"
  tar -czf "$parcel/gpt1_jax.tgz" --exclude=__pycache__ -C "$ROOT" \
    configs gpt1_jax launch pyproject.toml README.md LICENSE -C "$parcel" setup.sh train.sh
  [[ -z $dry_run ]] || tail -n +1 "$parcel/setup.sh" "$parcel/train.sh"
  # If an agent holds keys but not this one, gcloud refuses to copy to several workers.
  [[ -n $dry_run ]] || ssh-add -q ~/.ssh/google_compute_engine </dev/null 2>/dev/null || true
  cloud tpu-vm scp "$parcel/gpt1_jax.tgz" "$name:" --worker=all "${ALIVE[@]/#/--scp-flag=}" &&
    on all "mkdir -p gpt1_jax && tar -xzf gpt1_jax.tgz -C gpt1_jax && bash gpt1_jax/launch/tpu_worker.sh"
)

journal() { on "$1" "sudo journalctl --unit=gpt1_jax --output=cat ${*:2}"; } # journal WORKER FLAGS...

progress() { # progress TRAINING_FLAGS...: what all services together are: absent, running, mixed, done, wrong, failed,
  # or "other" if one has other flags; fails if a worker does not answer
  local told line found=' ' mine
  mine=$(script "$@" | cksum)
  told=$(on all "systemctl show gpt1_jax --property=SubState,ExecMainStatus,Description | xargs echo gpt1_jax:" \
    2>"$errors") || return 1
  while read -r line; do
    if [[ $line == gpt1_jax:* && $line != *SubState=dead* && "$line " != *"Description=$mine "* ]]; then
      found+='other '
    fi
    case "$line" in
      gpt1_jax:*SubState=dead*) found+='absent ' ;;
      gpt1_jax:*SubState=exited*) found+='done ' ;;
      gpt1_jax:*SubState=failed*)
        if [[ "$line " == *ExecMainStatus=2\ * ]]; then found+='wrong '; else found+='failed '; fi
        ;;
      gpt1_jax:*) found+='running ' ;;
    esac
  done <<<"$told"
  case "$found" in
    ' ') return 1 ;;
    *' other '*) echo other ;;
    *' wrong '*) echo wrong ;;
    *' failed '*) echo failed ;;
    *' absent '*) if [[ $found == *' running '* || $found == *' done '* ]]; then echo mixed; else echo absent; fi ;;
    *' done '*) if [[ $found == *' running '* ]]; then echo mixed; else echo 'done'; fi ;;
    *) echo running ;;
  esac
}

finish() { # finish CODE WORDS...: gives the slice back and ends
  tell "${*:2}"
  [[ -z $seen ]] || delete ||
    tell "could not give the slice back; see to it: launch/tpu_vm.sh delete --name=$name --zone=$zone"
  exit "$1"
}

trouble() { # trouble WORDS...
  failures=$((failures + 1))
  tell "$* ($failures of $PATIENCE in a row)"
  ((failures < PATIENCE)) || finish 1 "gives up"
}

clear_away() { delete || trouble "could not clear the preempted slice away"; }

attend() { # attend TRAINING_FLAGS...: sees to the services of a slice that is there
  local now
  if ! now=$(progress "$@"); then
    case "$(cloud tpu-vm describe "$name" --format="value(state)" || true)" in
      PREEMPTED | TERMINATED) clear_away ;;
      *)
        tail -n 3 "$errors" >&2
        trouble "the workers do not answer"
        ;;
    esac
    return
  fi
  [[ $now == "$service" ]] || tell "the training is $now"
  if [[ -z $begun && ($now == wrong || $now == failed) ]]; then
    tell "which was before this command; starts it anew"
    now=absent
  fi
  case "$now" in
    done) finish 0 "the run is done" ;;
    other) die "another training is on $name; take --name=OTHER for this one, or end that one with delete." ;;
    wrong | failed)
      journal all --lines=30 --no-pager || true
      [[ $now == failed ]] || finish 2 "its input is wrong; mend it and start again"
      finish 1 "it crashes over and over"
      ;;
    running) failures=0 begun=yes ;;
    *) # a mixture seen once may only be workers that are not equally fast
      if [[ $now == absent || $service == mixed ]]; then
        if run "$@"; then begun=yes; else trouble "could not start the training"; fi
        now=
      fi
      ;;
  esac
  service=$now
}

train() { # train TRAINING_FLAGS...
  if [[ -n $dry_run ]]; then
    create
    run "$@"
    delete
    return
  fi
  local now seen=never
  failures=0
  service=
  begun=
  errors=$(mktemp)
  trap 'rm -f "$errors"' EXIT
  while true; do
    if now=$(state); then
      [[ $now == "$seen" ]] || tell "the slice is ${now:-not there yet}"
      seen=$now
      case "$now" in
        '') create || trouble "could not ask for the slice" ;;
        ACTIVE) attend "$@" ;;
        SUSPENDED) clear_away ;;
        FAILED)
          cloud queued-resources describe "$name" || true
          finish 1 "the slice was refused"
          ;;
        *) failures=0 ;;
      esac
    elif [[ $seen == never ]]; then
      exit 1 # gcloud has said why
    fi
    sleep 60
  done
}

case "${1:-}" in
  create | run | logs | delete | train) action=$1 ;;
  --help | '')
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
  *) die "$1 is not one of train, create, run, logs, delete; see --help." ;;
esac
shift

name=gpt1-jax
zone=
project=
type=v5litepod-16
runtime=
spot=
setup=
worker=0
dry_run=
while (($#)); do
  case "$1" in
    --help) exec bash "$0" --help ;;
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --runtime=*) runtime=${1#*=} ;;
    --spot) spot=yes ;;
    --setup=*) setup=${1#*=} ;;
    --worker=*) worker=${1#*=} ;;
    --dry_run) dry_run=yes ;;
    --) break ;;
    *) die "$1 is not a flag of this script; see --help, and put the training's flags behind --." ;;
  esac
  shift
done
[[ -n $zone ]] || die "--zone is missing; name one that has $type, such as --zone=us-central1-a."
[[ $name =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] || die "--name=$name is not a name; write small letters, digits and hyphens."
if [[ -z $runtime ]]; then
  case "$type" in
    v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v6e-*) runtime=v2-alpha-tpuv6e ;;
    v[234]-*) runtime=tpu-ubuntu2204-base ;;
    *) die "--type=$type is not a kind that is known; write v5litepod-16, v6e-8 or v5p-32, say, or name its --runtime." ;;
  esac
fi
if [[ $action == train || $action == run ]]; then
  (($# > 1)) || die "there are no training flags; write -- --config=configs/pretrain.py --workdir=gs://BUCKET/RUN, say."
  shift
  [[ " $*" == *" --workdir"[=\ ]gs://[a-z0-9]* ]] ||
    die "--workdir must be on gs://, which the workers share and which lasts, and name a bucket."
  for word; do
    config=${word#--config=}
    [[ $config == "$word" || $config == configs/* && -f $ROOT/${config%%:*} ]] ||
      die "$word is not a file that the workers get; name one in configs/."
  done
fi

case "$action" in
  logs) journal "$worker" --lines=100 --follow ;;
  *) "$action" "$@" ;;
esac
