"""SFT, reward model and PPO of a Qwen2-shaped model with random weights: how much of a device each of them uses.

    python -m benchmarks.accelerator [--width=1536 --depth=28 --heads=12 --kv_heads=2 --mlp_width=8960]
        [--vocabulary=151936] [--dtype=bfloat16] [--rounds=5] [--stages=sft,reward,ppo] [--config.KEY=VALUE ...]

The defaults are 1.5 billion parameters, for one GPU of 80 GB and more. The programs are those that a run compiles
(rlhf_jax.build.ahead); weights and ids are random, all rows are full. Of each program the median of the rounds after
the first: tokens a second, the share of the device's peak that the mathematics makes use of (model-FLOPs utilisation),
the peak of memory, and, of a rollout, sampled tokens a second beside what reading policy and cache at every token would
allow. Prints one JSON line and a table; nothing is asserted.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from rlhf_jax.build import inherit_model
from rlhf_jax.build.ahead import Planned, plan_context, planned
from rlhf_jax.build.devices import flops_of
from rlhf_jax.config import default_config, lock, validate
from rlhf_jax.flags import override
from rlhf_jax.types import PreferenceBatch, PromptBatch, RankBatch, TokenBatch

# Dense bfloat16 FLOP/s and bytes of memory a second, as their maker publishes them, where rlhf_jax has no use for them.
PEAKS = {
    "NVIDIA H100 80GB HBM3": (989e12, 3.35e12),
    "NVIDIA H200": (989e12, 4.8e12),
    "NVIDIA A100-SXM4-80GB": (312e12, 2.039e12),
}


def configuration(folder: Path, args: argparse.Namespace) -> ConfigDict:
    """Stages of a model whose config.json is put into ``folder``; it has no weights."""
    shape = {name: getattr(args, name) for name in ("width", "depth", "heads", "kv_heads", "mlp_width")}
    (folder / "config.json").write_text(json.dumps(qwen2(vocabulary=args.vocabulary, **shape)))
    config = default_config()
    config.stages = tuple(args.stages.split(","))
    config.model.path, config.model.dtype, config.model.remat = str(folder), args.dtype, "full"
    config.tokenizer.kind = "pretrained"
    config.data.max_prompt = config.data.max_response = 512
    config.sft.row_length, config.sft.batch_size = 2048, 8
    config.reward.batch_size = 2
    config.ppo.prompts_per_iteration, config.ppo.samples_per_prompt = 32, 1
    config.ppo.epochs, config.ppo.minibatches = 1, 4
    for word in args.settings:
        key, _, text = word.removeprefix("--config.").partition("=")
        override(config, key, text)
    validate(lock(config))
    inherit_model(config)
    return config


def qwen2(vocabulary: int, width: int, depth: int, heads: int, kv_heads: int, mlp_width: int) -> dict[str, Any]:
    """The config.json of a Qwen2 of these sizes."""
    return {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": mlp_width,
        "tie_word_embeddings": True,
        "max_position_embeddings": 32768,
        "rope_theta": 1e6,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "eos_token_id": vocabulary - 1,
    }


# ------------------------------------------------------------------------- arguments


def made(tree: Any, vocabulary: int) -> Any:
    """Arrays of the shapes and places of ``tree``: parameters random, moments 0, full rows of random ids."""
    numbers = iter(jax.random.split(jax.random.key(0), 10_000))

    def one(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        key, shape = next(numbers), leaf.shape

        def value() -> jax.Array:
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                return jax.random.key(1)
            if leaf.dtype == jnp.bool_:
                return jnp.ones(shape, bool) if "better" not in name else jnp.triu(jnp.ones(shape, bool), 1)
            if name.endswith("ids"):
                return jax.random.randint(key, shape, 0, vocabulary - 1, leaf.dtype)
            if name.rpartition("/")[2] in ("positions", "ranks", "row", "index"):
                return jnp.broadcast_to(jnp.arange(shape[-1], dtype=leaf.dtype), shape)
            if name.endswith(("segments", "weight", "reward_gain")):
                return jnp.ones(shape, leaf.dtype)
            if "scale" in name.rpartition("/")[2]:  # of a norm
                return jnp.ones(shape, leaf.dtype)
            if jnp.issubdtype(leaf.dtype, jnp.floating) and "opt_state" not in name and len(shape) > 1:
                return 0.02 * jax.random.normal(key, shape, leaf.dtype)
            return jnp.zeros(shape, leaf.dtype)

        return jax.jit(value, out_shardings=leaf.sharding)()

    return jax.tree_util.tree_map_with_path(one, tree)


def tokens_of(batch: Any) -> int:
    """Tokens that a program reads, or for prompts none."""
    if isinstance(batch, PromptBatch):
        return 0
    if isinstance(batch, TokenBatch):
        return math.prod(batch.ids.shape)
    if isinstance(batch, PreferenceBatch | RankBatch):
        lists = batch.lists if isinstance(batch, PreferenceBatch) else batch
        return math.prod(lists.prompt_ids.shape) + math.prod(lists.ids.shape)
    rollout = batch[0]
    return rollout.prompt_ids.shape[0] * (rollout.prompt_ids.shape[1] + rollout.response_ids.shape[1])


# ------------------------------------------------------------------------- measuring


def measure(one: Planned, executor: Any, vocabulary: int, rounds: int) -> dict[str, Any]:
    """Of one program."""
    arguments = list(made(one.arguments, vocabulary))
    start = time.perf_counter()
    run = one.program.compile(executor)
    seconds = []
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        out = run(*arguments)
        jax.block_until_ready(out)
        seconds.append(time.perf_counter() - begun)
        if one.program.gives_up_state:
            arguments[0] = out[0]
    device, middle = jax.devices()[0], statistics.median(seconds[1:])
    peak, bandwidth = next((v for k, v in PEAKS.items() if device.device_kind.startswith(k)), (flops_of(device), None))
    stats = device.memory_stats() or {}
    found = {
        "program": one.program.name,
        "first_seconds": seconds[0],
        "seconds": middle,
        "seconds_range": [min(seconds[1:]), max(seconds[1:])],
        "tokens_per_second": tokens_of(one.resident["batch"]) / middle or None,
        "model_flops_utilisation": peak and one.work / middle / peak / len(jax.devices()),
        "largest_peak_GiB_so_far": stats.get("peak_bytes_in_use", 0) / 2**30 or None,
        "total_seconds": time.perf_counter() - start,
    }
    if one.cache is not None:
        found |= sampling(one, middle, bandwidth, executor.row_shards)
    return found


def sampling(one: Planned, seconds: float, bandwidth: float | None, replicas: int) -> dict[str, Any]:
    """Tokens sampled a second, scoring included, and what the memory's bandwidth allows if nothing else took time.

    Each of ``replicas`` groups of devices has rows of its own and reads the whole policy.
    """
    prompts, cache, policy = one.resident["batch"], one.cache, one.arguments[0]
    rows, slots = prompts.ids.shape[0], cache.shape[2]
    read = replicas * sum(leaf.size for leaf in jax.tree.leaves(policy)) * cache.dtype.itemsize
    layers = policy["layers"]["attention_norm"]["scale"].shape[0]
    read += 2 * layers * cache.size * cache.dtype.itemsize
    sampled = rows * (slots - prompts.ids.shape[1])
    return {
        "sampled_tokens_per_second": sampled / seconds,
        "bandwidth_allows": bandwidth and rows * bandwidth * len(jax.devices()) / read,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"width": 1536, "depth": 28, "heads": 12, "kv_heads": 2, "mlp_width": 8960, "vocabulary": 151_936}
    for name, default in (sizes | {"rounds": 5}).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--stages", default="sft,reward,ppo")
    args, args.settings = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        config = configuration(Path(folder), args)
        context = plan_context(config, jax.devices())
        rows = [
            measure(one, context.executor, args.vocabulary, args.rounds)
            for stage in config.stages
            for one in planned(context, stage)
        ]
    print(json.dumps({**vars(args), "device": jax.devices()[0].device_kind, "measured": rows}))
    names = ("seconds", "tokens_per_second", "model_flops_utilisation", "largest_peak_GiB_so_far")
    for row in rows:
        told = {name: row.get(name) for name in (*names, "sampled_tokens_per_second", "bandwidth_allows")}
        print(f"{row['program']:16}" + "  ".join(f"{name} {value:,.3g}" for name, value in told.items() if value))


if __name__ == "__main__":
    main()
