"""What ``rlhf-jax plan`` foretells against what a run takes: bytes of arrays on a device, and memory of a step.

    python -m benchmarks.plan

Each stage in a process of its own, on host devices: the arrays of a placed state and batch are counted on every device,
and what the process holds at most during a step, beyond what it held before, is compared with all devices' temporaries
and results.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

DEVICES = 4
WORDS = (
    "--config=configs/sft.py",
    "--config.model.width=512",
    "--config.model.depth=6",
    "--config.model.heads=8",
    "--config.model.kv_heads=4",
    "--config.model.mlp_width=1536",
    "--config.parallel.fsdp=2",
    "--config.parallel.tensor=2",
    "--config.sft.batch_size=32",
    "--config.sft.row_length=256",
    "--config.reward.init=scratch",
    "--config.reward.batch_size=32",
)


def measure(stage: str) -> None:
    """Print one stage's figures as JSON."""
    import jax

    from rlhf_jax import flags
    from rlhf_jax.build import make_context, make_task
    from rlhf_jax.build.ahead import plan_context, planned
    from rlhf_jax.build.needs import needs_of

    config = flags.parse([*WORDS, f"--config.stages={stage}", "--dry_run"]).config
    context = plan_context(config, jax.devices())
    told = needs_of(next(planned(context, stage)), context.executor)
    del context
    with tempfile.TemporaryDirectory() as folder:
        task = make_task(make_context(config, pathlib.Path(folder)), stage)
        batch = next(task.batches)
        arrays = jax.tree.leaves(task.state)
        held = [sum(_on(device, leaf) for leaf in arrays) for device in jax.devices()]
        state, out = task.step(task.state, batch)  # compiles
        jax.block_until_ready(state)
        del state, out
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # from here on the peak counts anew
        before = _resident("VmRSS")
        state, _ = task.step(task.state, batch)
        jax.block_until_ready(state)
        peak = _resident("VmHWM")
    memory = told.memory
    if memory is None:
        raise SystemExit(f"{stage}: the compiler found no room")
    print(
        json.dumps(
            {
                "stage": stage,
                "state.told": memory.parameters + memory.optimizer + memory.frozen,
                "state.most": max(held),
                "step.told": DEVICES * (memory.temporaries + memory.results + memory.batch),
                "step.measured": peak - before,
            }
        )
    )


def _on(device: object, leaf: object) -> int:
    import jax

    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return sum(shard.data.nbytes for shard in leaf.addressable_shards if shard.device == device)


def _resident(name: str) -> int:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def main() -> None:
    """Measure every stage and print a table."""
    flags = f"--xla_force_host_platform_device_count={DEVICES}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    print("| stage | state on a device: told, MiB | counted | ratio | a step on all: told, MiB | measured | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for stage in ("sft", "reward"):
        command = [sys.executable, "-m", "benchmarks.plan", stage]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        a, b, c, d = (found[name] / 2**20 for name in ("state.told", "state.most", "step.told", "step.measured"))
        print(f"| {stage} | {a:.2f} | {b:.2f} | {a / b:.4f} | {c:.0f} | {d:.0f} | {c / d:.2f} |", flush=True)


if __name__ == "__main__":
    measure(sys.argv[1]) if len(sys.argv) > 1 else main()
