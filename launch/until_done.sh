#!/usr/bin/env bash
# Runs a command, and again as long as it ends with 75 (interrupted; the same command goes on):
#   launch/until_done.sh python3 -m rlhf_jax --config=configs/sft.py --workdir=runs/a
# At most RESTARTS times (20), PAUSE seconds (5) apart. A signal to this script is handed on, and is the end.
set -uo pipefail

restarts="${RESTARTS:-20}"
pause="${PAUSE:-5}"
asked=0 handed=0
child=

hand_on() { # each signal once, and those too that came before there was a child to have them
  while [[ -n $child ]] && ((handed < asked)); do
    handed=$((handed + 1))
    kill -TERM "$child" 2>/dev/null
  done
}
trap 'asked=$((asked + 1)); hand_on' TERM INT

for ((run = 0; ; run++)); do
  child=
  "$@" &
  child=$!
  hand_on
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
  child=
  sleep "$pause" & # a trap would wait for one in the foreground
  child=$!
  hand_on
  wait "$child"
  ((asked)) && exit "$code"
done
