"""Scoring and updating PPO's episodes of all lengths, by all their slots and by their tokens alone.

    python -m benchmarks.unpadding [--rows=16] [--prompt=64] [--response=64] [--model=small] [--rounds=3]

Prompts of a quarter of their slots to all of them, responses of an eighth, evenly. One update of policy and value model
by all rows, float32. CPU seconds of rounds in which every way takes its turn, medians; "the same again" is what the
clock cannot tell apart. Prints one JSON line and a table; nothing is asserted.
"""

import argparse
import json
import statistics
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness.shapes import MODELS
from rlhf_jax.build.rooms import room_for
from rlhf_jax.generation import Completions, RolloutSpec, Sampled, SamplingSpec, score
from rlhf_jax.learners import ppo
from rlhf_jax.learners.optimizer import OptimizerSpec
from rlhf_jax.learners.step import init_state
from rlhf_jax.models import DecoderSpec, init_decoder, value_from_reward
from rlhf_jax.types import PromptBatch
from rlhf_jax.unpadding import ALL


def material(args: argparse.Namespace, spec: DecoderSpec) -> tuple[PromptBatch, Sampled, np.ndarray]:
    """(prompts, responses, tokens and tokens of the response of each row)."""
    random = np.random.default_rng(0)
    prompts = random.integers(args.prompt // 4, args.prompt + 1, args.rows)
    responses = random.integers(args.response // 8, args.response + 1, args.rows)
    prompt_mask = np.arange(args.prompt) >= args.prompt - prompts[:, None]
    mask = np.arange(args.response) < responses[:, None]
    ids = random.integers(2, spec.vocab_size, (args.rows, args.prompt + args.response), dtype=np.int32)
    index = np.arange(args.rows, dtype=np.int32)
    completions = Completions(
        jnp.asarray(ids[:, args.prompt :] * mask),
        jnp.asarray(mask),
        jnp.asarray(np.where(mask, -9.0, 0.0), jnp.float32),
    )
    batch = PromptBatch(jnp.asarray(ids[:, : args.prompt] * prompt_mask), jnp.asarray(prompt_mask), index, index)
    lengths = np.stack([prompts + responses, responses], axis=1)
    return batch, Sampled(completions, completions.mask, jnp.ones(args.rows, bool)), lengths


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """CPU seconds by way: of scoring, of the update."""
    shape = MODELS[args.model]
    spec = DecoderSpec(
        shape.vocabulary,
        width=shape.width,
        depth=shape.depth,
        heads=shape.heads,
        kv_heads=shape.heads,
        mlp_width=shape.mlp_width,
    )
    rolling = RolloutSpec(spec, spec, False, args.response, 1, 0, SamplingSpec(), None)
    updating = ppo.PPOSpec(policy=spec, value=spec, epochs=1, minibatches=1)
    policy, reference, *others = (jax.jit(partial(init_decoder, spec))(jax.random.key(seed)) for seed in range(4))
    head = {"kernel": jnp.full(spec.width, 0.01)}
    reward, value = ({"decoder": decoder, "head": head} for decoder in others)
    rate = OptimizerSpec(learning_rate=1e-5, steps=100)
    optimizer = ppo.make_ppo_optimizer(rate, rate)
    start = {"policy": policy, "value": value_from_reward(value, bounded=False)}
    state = init_state(start, optimizer, jax.random.key(0), {"kl_coefficient": jnp.float32(0.05)})
    prompts, sampled, lengths = material(args, spec)
    slots = args.rows * np.array([args.prompt + args.response, args.response])
    scored = policy, start["value"], reference, reward, prompts, sampled
    units = {"reward_bias": jnp.float32(0.0), "reward_gain": jnp.float32(1.0)}
    programs = {}
    for way, room in {"all slots": ALL, "tokens": room_for(lengths.sum(axis=0), slots)}.items():
        score_by = jax.jit(partial(score, rolling, **units, room=room)).lower(*scored).compile()
        update_by = jax.jit(partial(ppo.update, updating, optimizer, 1, room=room))
        programs[way] = score_by, update_by.lower(state, score_by(*scored)).compile()
    programs["the same again"] = programs["all slots"]
    seconds: dict[str, list[tuple[float, float]]] = {way: [] for way in programs}
    for number in range(args.rounds + 1):
        for way, (score_by, update_by) in programs.items():
            begun = time.process_time()
            rollout = jax.block_until_ready(score_by(*scored))
            between = time.process_time()
            jax.block_until_ready(update_by(state, rollout))
            if number:  # the first warms up
                seconds[way].append((between - begun, time.process_time() - between))
    return {"taken": (lengths.sum(axis=0) / slots).round(3).tolist(), "seconds": seconds}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"rows": 16, "prompt": 64, "response": 64, "rounds": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--model", choices=list(MODELS), default="small")
    args = parser.parse_args()
    found = measure(args)
    print(json.dumps({**vars(args), **found}))
    print(f"slots taken: {found['taken'][0]:.0%} of all, {found['taken'][1]:.0%} of responses")
    whole = [sum(pair) for pair in found["seconds"]["all slots"]]
    for way, pairs in found["seconds"].items():
        ratios = [sum(pair) / all_slots for pair, all_slots in zip(pairs, whole, strict=True)]
        scoring, update = (statistics.median(column) for column in zip(*pairs, strict=True))
        spread = f"{statistics.median(ratios):.2f} of all slots   ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{way:16}scoring {scoring:6.2f} s   update {update:6.2f} s   both {spread}")


if __name__ == "__main__":
    main()
