#!/usr/bin/env bash
# Runs the program with N host devices in one process on the CPU of this machine:
#   launch/local.sh 8 --config=configs/sft.py --workdir=runs/a --config.parallel.mode=pmap
set -euo pipefail

if [[ ! "${1:-}" =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: $0 NUMBER_OF_DEVICES [arguments of rlhf_jax ...]" >&2
  exit 2
fi
devices="$1"
shift

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="$root/.venv/bin/python"
[[ -x "$python" ]] || python=python3

export JAX_PLATFORMS=cpu
export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$devices"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -m rlhf_jax "$@"
