#!/usr/bin/env bash
# Runs the program with N host devices on the CPU of this machine, in one process or in PROCESSES of N devices each:
#   launch/local.sh 8 --config=configs/sft.py --workdir=runs/a --config.parallel.mode=pmap
#   PROCESSES=2 launch/local.sh 4 --config=configs/sft.py --workdir=runs/b
set -euo pipefail

processes="${PROCESSES:-1}"
if [[ ! "${1:-}" =~ ^[1-9][0-9]*$ || ! "$processes" =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: [PROCESSES=P] $0 NUMBER_OF_DEVICES [arguments of rlhf_jax ...]" >&2
  exit 2
fi
devices="$1"
shift

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="${PYTHON:-$root/.venv/bin/python}"
command -v "$python" >/dev/null || python=python3

export JAX_PLATFORMS=cpu
export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$devices"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
if ((processes == 1)); then
  exec "$python" -m rlhf_jax "$@"
fi

export RLHF_JAX_COORDINATOR="localhost:${PORT:-8476}" RLHF_JAX_PROCESSES="$processes"
children=()
for ((number = 0; number < processes; number++)); do
  RLHF_JAX_PROCESS_ID="$number" "$python" -m rlhf_jax "$@" &
  children+=($!)
done
trap 'kill -TERM "${children[@]}" 2>/dev/null || true' TERM INT

# The smallest code but 0 says most: 1 and 2 rather than 75, and 75 rather than that of a process that was killed.
worst=0
for child in "${children[@]}"; do
  code=0
  wait "$child" || code=$?
  while kill -0 "$child" 2>/dev/null; do # a signal ended the wait, not the process
    code=0
    wait "$child" || code=$?
  done
  if ((code != 0 && (worst == 0 || code < worst))); then worst="$code"; fi
done
exit "$worst"
