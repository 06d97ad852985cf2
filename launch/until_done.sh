#!/usr/bin/env bash
# Runs a command, and again as long as it ends with 75 (interrupted; the same command goes on):
#   launch/until_done.sh python3 -m rlhf_jax --config=configs/sft.py --workdir=runs/a
# At most RESTARTS times (20), PAUSE seconds (5) apart. A signal to this script is handed on, and is the end.
set -uo pipefail

restarts="${RESTARTS:-20}"
pause="${PAUSE:-5}"
asked=0
child=
trap 'asked=1; kill -TERM "$child" 2>/dev/null' TERM INT

for ((run = 0; ; run++)); do
  "$@" &
  child=$!
  wait "$child"
  code=$?
  if ((asked)); then # the signal has ended the first wait
    wait "$child"
    code=$?
  fi
  if ((code != 75 || asked || run >= restarts)); then
    exit "$code"
  fi
  echo "until_done: interrupted; going on in $pause s (restart $((run + 1)) of at most $restarts)" >&2
  sleep "$pause" & # a trap would wait for one in the foreground
  child=$!
  wait "$child"
  ((asked)) && exit "$code"
done
