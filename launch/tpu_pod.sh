#!/usr/bin/env bash
# A run on a Cloud TPU pod slice: asks for one as a queued resource, installs this tree on every worker, runs the program
# on all of them, and asks for another slice whenever this one is taken away:
#   NAME=a ZONE=us-east5-b NFS=10.0.0.2:/runs launch/tpu_pod.sh --config=configs/quickstart.py --workdir=/mnt/runs/a
# ACCELERATOR (v6e-16), RUNTIME (v2-alpha-tpuv6e), SPOT (1: cheaper, may be taken away). NFS is mounted on /mnt/runs.
set -euo pipefail

name="${NAME:?the name of the slice}"
zone="${ZONE:?its zone}"
nfs="${NFS:?HOST:/PATH of an NFS share that holds the run directory}"
accelerator="${ACCELERATOR:-v6e-16}"
runtime="${RUNTIME:-v2-alpha-tpuv6e}"
spot=()
[[ "${SPOT:-1}" == 1 ]] && spot=(--spot)
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

state() { gcloud compute tpus queued-resources describe "$name" --zone="$zone" --format='value(state.state)' 2>/dev/null; }
on_all() { gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"; }

get_slice() {
  while [[ "$(state || true)" != ACTIVE ]]; do
    case "$(state || true)" in
      "")
        gcloud compute tpus queued-resources create "$name" --node-id="$name" --zone="$zone" \
          --accelerator-type="$accelerator" --runtime-version="$runtime" "${spot[@]}"
        ;;
      FAILED | SUSPENDED)
        gcloud compute tpus queued-resources delete "$name" --zone="$zone" --force --quiet
        ;;
      *) sleep "${POLL:-30}" ;;
    esac
  done
}

# By &&: in a condition, where this is called, set -e does nothing.
install() {
  git -C "$root" archive --format=tar.gz --output="$root/.cache/tree.tar.gz" HEAD &&
    gcloud compute tpus tpu-vm scp "$root/.cache/tree.tar.gz" "$name:tree.tar.gz" --zone="$zone" --worker=all &&
    on_all "set -e
    mkdir -p rlhf_jax && tar xzf tree.tar.gz -C rlhf_jax
    python3 -m venv rlhf_jax/.venv
    rlhf_jax/.venv/bin/pip install --quiet --require-hashes -r rlhf_jax/requirements/base.txt
    rlhf_jax/.venv/bin/pip install --quiet --no-build-isolation -e 'rlhf_jax[tpu]'
    sudo mkdir -p /mnt/runs
    mountpoint -q /mnt/runs || sudo mount -t nfs $(printf '%q' "$nfs") /mnt/runs"
}

mkdir -p "$root/.cache"
while true; do
  get_slice
  # Each worker starts again by itself after a 75, and then meets the others again.
  if install && on_all "cd rlhf_jax && RLHF_JAX_COORDINATOR=auto launch/until_done.sh \
      .venv/bin/python -m rlhf_jax $(printf '%q ' "$@")"; then
    exit 0
  fi
  if [[ "$(state || true)" == ACTIVE ]]; then
    echo "tpu_pod: the run failed, and the slice is still there: gcloud compute tpus queued-resources delete $name" >&2
    exit 1
  fi
done
