"""The project's PPO with a tiny decoder, many runs (prices, seeds) at once; the reward is a table over responses.

What a proxy is made of is no matter here, so that one compiled program serves them all.
"""

import dataclasses
import functools
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from experiments.overoptimisation.world import EOS, HORIZON, LAWS, PROMPT, VOCAB, number
from rlhf_jax.generation import RolloutSpec, SamplingSpec, complete, response_logprobs
from rlhf_jax.learners import ppo
from rlhf_jax.learners.optimizer import OptimizerSpec
from rlhf_jax.learners.step import init_state
from rlhf_jax.models import DecoderSpec, apply_value_model, init_decoder, silent_value_head
from rlhf_jax.types import Params, PromptBatch, Rollout, TrainState

ITERATIONS, EPISODES = 120, 128
LEARNING_RATE = 1.5e-3
LANES = 12  # runs at once; less would compile anew
AUDIT = 32  # responses of an iteration whose gold is asked for, for the audit
FINAL = 4096  # responses of the end
MODEL = DecoderSpec(
    vocab_size=VOCAB,
    width=16,
    depth=1,
    heads=1,
    kv_heads=1,
    mlp_width=32,
    norm="layer",
    positions="learned",
    activation="gelu",
    tied=False,
    max_positions=1 + HORIZON,
)
VALUE = dataclasses.replace(MODEL, width=8, mlp_width=16)
# With lambda = 0.95 the errors of the value model leave the policy 1 % short of the closed form's KL.
SPEC = ppo.PPOSpec(policy=MODEL, value=VALUE, epochs=1, minibatches=4, lambda_=1.0)
SAMPLER = RolloutSpec(MODEL, MODEL, False, HORIZON, EOS, EOS, SamplingSpec(), None)


class Tables(NamedTuple):
    """What each response is worth, over all of them; each row a proxy, as trained from one seed."""

    proxy: Float[Array, "*rows S"]
    gold: Float[Array, "*rows S"]
    spread: Float[Array, "*rows S"]  # deviation over the members of an ensemble


def init_policy(form: str, key: jax.Array) -> Params:
    """A decoder with the very law of the reference: its logits come from one channel, which is constant at first."""
    params = init_decoder(MODEL, key)
    norm = params["final_norm"]
    norm = {"scale": norm["scale"].at[0].set(0.0), "bias": norm["bias"].at[0].set(1.0)}
    logits = jnp.log(jnp.maximum(jnp.asarray(LAWS[form]), 1e-13))
    return {**params, "final_norm": norm, "output": jnp.zeros_like(params["output"]).at[0].set(logits)}


def _optimizer() -> Any:
    updates = ITERATIONS * SPEC.epochs * SPEC.minibatches
    rate = OptimizerSpec(LEARNING_RATE, updates, warmup=updates // 20)
    return ppo.make_ppo_optimizer(rate, rate)


def _start(reference: Params, key: jax.Array, beta: Float[Array, ""]) -> TrainState:
    value = {"decoder": init_decoder(VALUE, key), "head": silent_value_head(VALUE)}
    return init_state({"policy": reference, "value": value}, _optimizer(), key, {"kl_coefficient": beta})


def _roll(
    params: Params, reference: Params, proxy: Float[Array, "S"], key: jax.Array, episodes: int
) -> tuple[Rollout, Int[Array, "N"]]:
    """Responses of the policy as PPO needs them, and their numbers."""
    row = jnp.arange(episodes, dtype=jnp.int32)
    start = jnp.full((episodes, 1), PROMPT, jnp.int32)
    prompts = PromptBatch(ids=start, mask=jnp.ones_like(start, bool), index=row, row=row)
    answer = complete(SAMPLER, params["policy"], prompts, key)
    ids = jnp.concatenate([start, answer.ids], axis=1)
    mask = jnp.concatenate([prompts.mask, answer.mask], axis=1)
    before = response_logprobs(MODEL, reference, ids, mask, response_length=HORIZON, temperature=1.0)
    values = apply_value_model(VALUE, params["value"], ids, mask)[:, -HORIZON - 1 : -1]
    which = number(answer.ids, jnp.sum(answer.mask & (answer.ids != EOS), axis=1))
    scores = proxy[which]
    rollout = Rollout(
        prompt_ids=start,
        prompt_mask=prompts.mask,
        response_ids=answer.ids,
        response_mask=answer.mask,
        logprobs=answer.logprobs,
        ref_logprobs=jnp.where(answer.mask, before, 0.0),
        values=jnp.where(answer.mask, values, 0.0),
        scores=scores,
        raw_scores=scores,
        index=row,
    )
    return rollout, which


def _figures(rollout: Rollout, which: Int[Array, "N"], tables: Tables) -> dict[str, Float[Array, ""]]:
    """What a run would log of these responses; ``audit`` figures are those of the first few."""
    tokens = rollout.response_mask
    return {
        "kl": jnp.mean(jnp.sum(rollout.logprobs - rollout.ref_logprobs, axis=1)),
        "length": jnp.mean(jnp.sum(tokens, axis=1)),
        "entropy": -jnp.sum(rollout.logprobs) / jnp.sum(tokens),
        "proxy": jnp.mean(tables.proxy[which]),
        "gold": jnp.mean(tables.gold[which]),
        "spread": jnp.mean(tables.spread[which]),
        "audit.proxy": jnp.mean(tables.proxy[which[:AUDIT]]),
        "audit.gold": jnp.mean(tables.gold[which[:AUDIT]]),
    }


@functools.cache
def _program() -> Any:
    """All iterations of ``LANES`` runs, compiled."""
    optimizer = _optimizer()

    def one_run(
        seed: Int[Array, ""], beta: Float[Array, ""], row: Int[Array, ""], reference: Params, tables: Tables
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        key, own = jax.random.key(seed), jax.tree.map(lambda leaf: leaf[row], tables)

        def iteration(state: TrainState, _: None) -> tuple[TrainState, dict[str, Array]]:
            rollout, which = _roll(state.params, reference, own.proxy, ppo.step_keys(state)[0], EPISODES)
            return ppo.update(SPEC, optimizer, EOS, state, rollout)[0], _figures(rollout, which, own)

        state, curves = jax.lax.scan(iteration, _start(reference, key, beta), length=ITERATIONS)
        rollout, which = _roll(state.params, reference, own.proxy, jax.random.fold_in(key, ITERATIONS), FINAL)
        return curves, _figures(rollout, which, own)

    return jax.jit(jax.vmap(one_run, in_axes=(0, 0, 0, 0, None)))


def train(
    form: str, tables: Tables, runs: list[tuple[float, int, int]]
) -> tuple[dict[str, Float[np.ndarray, "N I"]], dict[str, Float[np.ndarray, "N"]]]:
    """(curves over iterations, figures of the end) of runs, each a price, a seed and the row of its tables."""
    made = jax.jit(jax.vmap(partial(init_policy, form)))
    found = []
    for first in range(0, len(runs), LANES):
        part = runs[first : first + LANES]
        padded = part + part[:1] * (LANES - len(part))
        betas, seeds, rows = (np.array(column) for column in zip(*padded, strict=True))
        references = made(jax.vmap(jax.random.key)(jnp.asarray(1000 + seeds)))
        out = _program()(jnp.asarray(seeds), jnp.float32(betas), jnp.asarray(rows), references, tables)
        found.append(jax.tree.map(lambda leaf: np.asarray(leaf, float), out))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(runs)], *found)
