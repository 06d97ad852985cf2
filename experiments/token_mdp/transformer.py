"""The project's own PPO on the same tasks: a tiny decoder as the policy, another as the value model, nothing tabular.

The reference is what the policy starts as, read off as a table; what is then exact is exact for that reference.
"""

import dataclasses
import functools
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from experiments.token_mdp.episodes import Game, first_states, make_game
from experiments.token_mdp.world import BETA, EOS, PROMPTS, TASKS, VOCAB, make_process, prefixes
from rlhf_jax.generation import RolloutSpec, SamplingSpec, complete, response_logprobs
from rlhf_jax.learners import ppo
from rlhf_jax.learners.optimizer import OptimizerSpec
from rlhf_jax.learners.step import init_state
from rlhf_jax.models import (
    DecoderSpec,
    apply_decoder,
    apply_value_model,
    init_decoder,
    init_scalar_head,
    output_logits,
    positions_of,
)
from rlhf_jax.theory.soft_control import Process
from rlhf_jax.types import Params, PromptBatch, Rollout, TrainState

HORIZON = 3
EPISODES = 256
LEARNING_RATE = 3e-3
SPREAD = 10.0  # of the embeddings: logits of about unit size, so that the reference is not nearly uniform


@dataclasses.dataclass(frozen=True)
class Run:
    """Tables after each record: policy and values of the network, and the process whose reference is its start."""

    process: Process
    policy: Float[np.ndarray, "records S V"]
    value: Float[np.ndarray, "records S"]


def make_model(positions: Literal["learned", "rotary"]) -> DecoderSpec:
    """One layer of width 32."""
    return DecoderSpec(
        vocab_size=VOCAB,
        width=32,
        depth=1,
        heads=4,
        kv_heads=2,
        mlp_width=128,
        positions=positions,
        max_positions=1 + HORIZON,
    )


def init_policy(model: DecoderSpec, seed: int) -> Params:
    """Parameters of the reference."""
    params = jax.jit(partial(init_decoder, model))(jax.random.key(seed))
    return {**params, "embedding": SPREAD * params["embedding"]}


def init_value(model: DecoderSpec, seed: int) -> Params:
    """A value model of its own that says 0."""
    decoder = init_policy(model, seed + 1000)
    head = jax.tree.map(jnp.zeros_like, init_scalar_head(model, jax.random.key(seed)))
    return {"decoder": decoder, "head": head}


@partial(jax.jit, static_argnums=0)
def tables(model: DecoderSpec, params: dict[str, Params]) -> tuple[Float[Array, "S V"], Float[Array, "S"]]:
    """Next-token probabilities and value in every state, each read as a left-padded row."""
    rows = prefixes(HORIZON)
    ids = jnp.asarray([(HORIZON - len(row)) * (EOS,) + row for row in rows], jnp.int32)
    mask = jnp.asarray([(HORIZON - len(row)) * (False,) + len(row) * (True,) for row in rows])
    hidden = apply_decoder(model, params["policy"], ids, positions_of(mask), mask)
    logits = output_logits(model, params["policy"], hidden[:, -1:])[:, 0]
    return jax.nn.softmax(logits), apply_value_model(model, params["value"], ids, mask)[:, -1]


def pay(game: Game, first: Int[Array, "N"], tokens: Int[Array, "N R"]) -> Float[Array, "N R"]:
    """The task's reward of each token of a response; what follows its end is paid 0."""

    def turn(state: Array, token: Array) -> tuple[Array, Array]:
        ended = state < 0
        return jnp.where(ended, -1, game.following[state, token]), jnp.where(ended, 0.0, game.rewards[state, token])

    return jax.lax.scan(turn, first, tokens.T)[1].T


def roll(model: DecoderSpec, every: bool, game: Game, reference: Params, state: TrainState) -> Rollout:
    """A rollout; a task that pays every token pays by ``dense``, one that pays responses by their score."""
    sampling = RolloutSpec(model, model, False, HORIZON, EOS, EOS, SamplingSpec(), None)
    first = first_states(game, jax.random.fold_in(ppo.step_keys(state)[0], 1), EPISODES)
    row = jnp.arange(EPISODES, dtype=jnp.int32)
    prompts = PromptBatch(
        ids=jnp.asarray(PROMPTS, jnp.int32)[first][:, None], mask=jnp.ones((EPISODES, 1), bool), index=row, row=row
    )
    answer = complete(sampling, state.params["policy"], prompts, ppo.step_keys(state)[0])
    ids = jnp.concatenate([prompts.ids, answer.ids], axis=1)
    mask = jnp.concatenate([prompts.mask, answer.mask], axis=1)
    reference_logprobs = response_logprobs(model, reference, ids, mask, response_length=HORIZON, temperature=1.0)
    values = apply_value_model(model, state.params["value"], ids, mask)[:, -HORIZON - 1 : -1]
    rewards = jnp.where(answer.mask, pay(game, first, answer.ids), 0.0)
    total = rewards.sum(axis=1)
    return Rollout(
        prompt_ids=prompts.ids,
        prompt_mask=prompts.mask,
        response_ids=answer.ids,
        response_mask=answer.mask,
        logprobs=answer.logprobs,
        ref_logprobs=jnp.where(answer.mask, reference_logprobs, 0.0),
        values=jnp.where(answer.mask, values, 0.0),
        scores=jnp.zeros_like(total) if every else total,
        raw_scores=total,
        index=row,
        dense=rewards if every else None,
    )


@functools.cache
def _program(model: DecoderSpec, pays_every: bool, gamma: float, records: int, every: int) -> tuple[Any, Any]:
    """``every`` iterations compiled, and their optimizer."""
    spec = ppo.PPOSpec(policy=model, value=model, gamma=gamma, minibatches=2, kl=ppo.KLSpec(coefficient=BETA))
    updates = records * every * spec.epochs * spec.minibatches
    rate = OptimizerSpec(LEARNING_RATE, updates, warmup=updates // 50)
    optimizer = ppo.make_ppo_optimizer(rate, rate)

    @jax.jit
    def iterate(game: Game, reference: Params, state: TrainState) -> TrainState:
        def one(state: TrainState, _: None) -> tuple[TrainState, None]:
            rollout = roll(model, pays_every, game, reference, state)
            return ppo.update(spec, optimizer, EOS, state, rollout)[0], None

        return jax.lax.scan(one, state, length=every)[0]

    return iterate, optimizer


def train(task: str, model: DecoderSpec, seed: int, records: int, every: int) -> Run:
    """PPO of ``records`` times ``every`` iterations on a task."""
    iterate, optimizer = _program(model, *TASKS[task], records, every)
    reference = init_policy(model, seed)
    params = {"policy": reference, "value": init_value(model, seed)}
    law, value = tables(model, params)
    process = make_process(task, _normalised(law), HORIZON)
    game = make_game(process)
    state = init_state(params, optimizer, jax.random.key(seed), {"kl_coefficient": jnp.float32(BETA)})
    found = [(law, value)]
    for _ in range(records):
        state = iterate(game, reference, state)
        found.append(tables(model, state.params))
    laws, values = zip(*found, strict=True)
    return Run(process, np.stack([_normalised(law) for law in laws]), np.asarray(values, float))


def _normalised(law: Float[Array, "S V"]) -> Float[np.ndarray, "S V"]:
    exact = np.asarray(law, np.float64)
    return exact / exact.sum(axis=1, keepdims=True)
