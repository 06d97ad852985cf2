"""SFT, reward models from rankings and PPO, by the project's own learners, on worlds that take seconds.

A world has prompts of one length and responses of at most ``horizon`` tokens, of which ``END`` is the last; whatever it
means and pays is the experiment's own. Each stage is one compiled program, its steps one ``scan``.
"""

import dataclasses
import functools
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.generation import RolloutSpec, SamplingSpec, complete, response_logprobs
from rlhf_jax.learners import ensemble, ppo, reward, sft
from rlhf_jax.learners.optimizer import OptimizerSpec, make_optimizer
from rlhf_jax.learners.step import init_state, train_step
from rlhf_jax.models import (
    DecoderSpec,
    EnsembleSpec,
    apply_reward_members,
    apply_value_model,
    init_decoder,
    init_reward_model,
    silent_value_head,
)
from rlhf_jax.objectives.aggregation import worst
from rlhf_jax.objectives.utilities import LogSigmoid
from rlhf_jax.types import Params, PromptBatch, RankBatch, Rollout, TokenBatch, TrainState

END = 0
SFT_BATCH, REWARD_BATCH = 64, 16  # responses, lists
# (parameters, ids (N, T), mask (N, T)) -> the score of each prompt with its response
Score: TypeAlias = Callable[[Any, Array, Array], Array]


@dataclasses.dataclass(frozen=True)
class Form:
    """The decoder of every network of a world; tokens of a prompt, and of a response at most."""

    model: DecoderSpec
    prompt: int
    horizon: int


def make_form(vocab: int, prompt: int, horizon: int, depth: int = 1) -> Form:
    """Layers of width 32. Positions are learned: rotary ones cannot count equal tokens."""
    model = DecoderSpec(
        vocab,
        width=32,
        depth=depth,
        heads=4,
        kv_heads=4,
        mlp_width=64,
        positions="learned",
        max_positions=prompt + horizon,
    )
    return Form(model, prompt, horizon)


def mask_of(responses: Int[np.ndarray, "*S R"]) -> Bool[np.ndarray, "*S R"]:
    """The tokens up to and including the first END."""
    ended = np.cumsum(responses == END, axis=-1)
    return (ended == 0) | ((ended == 1) & (responses == END))


def rows(
    prompts: Int[np.ndarray, "*S P"], responses: Int[np.ndarray, "*S R"]
) -> tuple[Int[np.ndarray, "*S T"], Bool[np.ndarray, "*S T"]]:
    """(ids, mask) of prompts with their responses."""
    mask = np.concatenate([np.ones(prompts.shape, bool), mask_of(responses)], axis=-1)
    return np.concatenate([prompts, responses], axis=-1).astype(np.int32), mask


def _scan(step: Any, state: TrainState, data: Any, count: int, batch: int, steps: int) -> TrainState:
    """``steps`` steps, each on ``batch`` of the ``count`` rows of ``data``, drawn with replacement."""

    def one(state: TrainState, number: Array) -> tuple[TrainState, None]:
        drawn = jax.random.randint(jax.random.fold_in(state.key, number), (batch,), 0, count)
        return step(state, jax.tree.map(lambda leaf: leaf[drawn], data))[0], None

    return jax.lax.scan(one, state, jnp.arange(steps))[0]


@functools.cache
def _sft_program(form: Form, steps: int, rate: float) -> Any:
    optimizer = make_optimizer(OptimizerSpec(rate, steps, warmup=steps // 20))

    @jax.jit
    def run(data: TokenBatch, key: jax.Array) -> Params:
        state = init_state(init_decoder(form.model, key), optimizer, key)
        step = partial(train_step, partial(sft.loss_sums, form.model), optimizer)
        return _scan(step, state, data, len(data.ids), SFT_BATCH, steps).params

    return run


def fine_tune(
    form: Form, prompts: Int[np.ndarray, "N P"], responses: Int[np.ndarray, "N R"], seed: int, steps: int, rate: float
) -> Params:
    """A policy by supervised fine-tuning on N demonstrations, from scratch."""
    ids, mask = rows(prompts, responses)
    data = TokenBatch(
        ids=ids,
        positions=np.broadcast_to(np.arange(ids.shape[1], dtype=np.int32), ids.shape),
        segments=mask.astype(np.int32),
        loss_mask=mask & (np.arange(ids.shape[1]) >= form.prompt),
    )
    return _sft_program(form, steps, rate)(jax.tree.map(jnp.asarray, data), jax.random.key(seed))


@functools.cache
def _reward_program(form: Form, members: int, steps: int, rate: float) -> Any:
    spec = reward.RewardSpec(form.model, bounded=False, utilities=(LogSigmoid(),))
    made = EnsembleSpec(members)
    single = make_optimizer(OptimizerSpec(rate, steps, warmup=steps // 20))
    optimizer = single if members == 1 else ensemble.per_member(single)
    rewards_of = partial(reward.member_rewards, spec, made)
    loss = partial(ensemble.loss_sums, rewards_of, partial(reward.loss_of_rewards, spec), None)

    @jax.jit
    def run(data: RankBatch, key: jax.Array) -> Params:
        state = init_state(init_reward_model(form.model, key, made), optimizer, key)
        return _scan(partial(train_step, loss, optimizer), state, data, len(data.ids), REWARD_BATCH, steps).params

    return run


def train_reward(
    form: Form,
    prompts: Int[np.ndarray, "N P"],
    responses: Int[np.ndarray, "N K R"],
    ranks: Int[np.ndarray, "N K"],
    seed: int,
    steps: int,
    rate: float,
    members: int = 1,
) -> Params:
    """Reward models from N ranked lists (0 is best, equal ranks are not compared), Bradley-Terry, from scratch."""
    size, length = ranks.shape
    nothing = np.full(ranks.shape, np.nan, np.float32)
    data = RankBatch(
        prompt_ids=prompts.astype(np.int32),
        prompt_mask=np.ones(prompts.shape, bool),
        ids=responses.astype(np.int32),
        mask=mask_of(responses),
        ranks=ranks.astype(np.int32),
        response_mask=np.ones(ranks.shape, bool),
        utility=np.zeros(size, np.int32),
        better=ranks[:, :, None] < ranks[:, None, :],
        tied=(ranks[:, :, None] == ranks[:, None, :]) & ~np.eye(length, dtype=bool),
        margin=np.zeros(size, np.float32),
        weight=np.ones(size, np.float32),
        labels=nothing,
        scores=nothing,
        index=np.arange(size, dtype=np.int32),
    )
    return _reward_program(form, members, steps, rate)(jax.tree.map(jnp.asarray, data), jax.random.key(seed))


@partial(jax.jit, static_argnums=(0, 1))
def member_rewards(
    form: Form, members: int, params: Params, ids: Int[Array, "N T"], mask: Bool[Array, "N T"]
) -> Float[Array, "M N"]:
    """The reward of each row by each reward model."""
    return apply_reward_members(form.model, EnsembleSpec(members), params, ids, mask, bounded=False)


@partial(jax.jit, static_argnums=0)
def log_probabilities(
    form: Form, policy: Params, ids: Int[Array, "N T"], mask: Bool[Array, "N T"]
) -> Float[Array, "N"]:
    """log of the probability of each row's response given its prompt, in nats."""
    found = response_logprobs(form.model, policy, ids, mask, response_length=form.horizon, temperature=1.0)
    return jnp.sum(jnp.where(mask[:, form.prompt :], found, 0.0), axis=1)


@functools.cache  # the same function each time, so that one program of PPO serves all reward models
def reward_score(form: Form, members: int) -> Score:
    """The score by the worst of so many reward models: (reward - bias) x gain, their parameters being ``scaled``."""

    def score(params: Any, ids: Array, mask: Array) -> Array:
        found = apply_reward_members(form.model, EnsembleSpec(members), params["models"], ids, mask, bounded=False)
        return params["gain"] * (worst(found) - params["bias"])

    return score


def scaled(params: Params, rewards: Float[np.ndarray, "*S"], law: Float[np.ndarray, "*S"]) -> dict[str, Any]:
    """Parameters of ``reward_score`` by which ``rewards`` have mean 0 and deviation 1 under ``law``."""
    mean = np.sum(law * rewards) / law.sum()
    deviation = np.sqrt(np.sum(law * (rewards - mean) ** 2) / law.sum())
    return {"models": params, "gain": jnp.float32(1.0 / deviation), "bias": jnp.float32(mean)}


def roll(
    form: Form,
    episodes: int,
    score: Score,
    prompts: Int[Array, "N P"],
    shares: Float[Array, "N"],
    reference: Params,
    judge: Any,
    state: TrainState,
) -> Rollout:
    """A rollout on prompts drawn by their ``shares``; ``judge`` is what ``score`` takes as its parameters."""
    sampling = RolloutSpec(form.model, form.model, False, form.horizon, END, END, SamplingSpec(), None)
    key = ppo.step_keys(state)[0]
    asked = jax.random.categorical(jax.random.fold_in(key, 1), jnp.log(shares), shape=(episodes,))
    row = jnp.arange(episodes, dtype=jnp.int32)
    batch = PromptBatch(
        ids=prompts[asked], mask=jnp.ones((episodes, form.prompt), bool), index=asked.astype(jnp.int32), row=row
    )
    answer = complete(sampling, state.params["policy"], batch, key)
    ids = jnp.concatenate([batch.ids, answer.ids], axis=1)
    mask = jnp.concatenate([batch.mask, answer.mask], axis=1)
    logprobs = response_logprobs(form.model, reference, ids, mask, response_length=form.horizon, temperature=1.0)
    values = apply_value_model(form.model, state.params["value"], ids, mask)[:, -form.horizon - 1 : -1]
    scores = score(judge, ids, mask)
    return Rollout(
        prompt_ids=batch.ids,
        prompt_mask=batch.mask,
        response_ids=answer.ids,
        response_mask=answer.mask,
        logprobs=answer.logprobs,
        ref_logprobs=jnp.where(answer.mask, logprobs, 0.0),
        values=jnp.where(answer.mask, values, 0.0),
        scores=scores,
        raw_scores=scores,
        index=batch.index,
    )


@dataclasses.dataclass(frozen=True)
class Course:
    """How PPO is run: ``records`` times ``every`` iterations of so many episodes."""

    records: int
    every: int
    episodes: int = 256
    rate: float = 2e-3


@functools.cache
def _ppo_program(form: Form, course: Course, score: Score) -> tuple[Any, Any]:
    """``every`` iterations compiled, and their optimizer."""
    spec = ppo.PPOSpec(policy=form.model, value=form.model, minibatches=2)
    updates = course.records * course.every * spec.epochs * spec.minibatches
    rate = OptimizerSpec(course.rate, updates, warmup=updates // 20)
    optimizer = ppo.make_ppo_optimizer(rate, rate)

    @jax.jit
    def iterate(prompts: Array, shares: Array, reference: Params, judge: Any, state: TrainState) -> TrainState:
        def one(state: TrainState, _: None) -> tuple[TrainState, None]:
            rollout = roll(form, course.episodes, score, prompts, shares, reference, judge, state)
            return ppo.update(spec, optimizer, END, state, rollout)[0], None

        return jax.lax.scan(one, state, length=course.every)[0]

    return iterate, optimizer


def optimise(
    form: Form,
    course: Course,
    score: Score,
    judge: Any,
    prompts: Int[np.ndarray, "N P"],
    shares: Float[np.ndarray, "N"],
    reference: Params,
    beta: float,
    seed: int,
) -> list[Params]:
    """PPO from ``reference`` at ``beta`` reward per nat: the policy before any iteration, then after each record."""
    iterate, optimizer = _ppo_program(form, course, score)
    params = {"policy": reference, "value": {"decoder": reference, "head": silent_value_head(form.model)}}
    state = init_state(params, optimizer, jax.random.key(seed), {"kl_coefficient": jnp.float32(beta)})
    asked, weights = jnp.asarray(prompts, jnp.int32), jnp.asarray(shares, jnp.float32)
    found = [reference]
    for _ in range(course.records):
        state = iterate(asked, weights, reference, judge, state)
        found.append(state.params["policy"])
    return found
