"""Every learner on tiny, fixed, ragged inputs, under any executor: what the tests of several rooms stand on."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.generation import RolloutSpec, SamplingSpec, response_logprobs, sample_rollout
from rlhf_jax.learners import ppo, reward, sft
from rlhf_jax.learners.optimizer import OptimizerSpec, make_optimizer
from rlhf_jax.learners.step import init_state, train_step
from rlhf_jax.models import DecoderSpec, init_decoder, init_scalar_head
from rlhf_jax.objectives.utilities import LogSigmoid, Power
from rlhf_jax.parallel import Executor
from rlhf_jax.types import ListTokens, Params, PreferenceBatch, PromptBatch, RankBatch, Rollout, TokenBatch, TrainState

VOCAB, EOS, PAD = 33, 1, 0
ROWS, LENGTH, LIST_SIZE = 8, 12, 4
LIST_PROMPT = 3
EPISODES, PROMPT, RESPONSE = 16, 5, 6
OPTIMIZER = OptimizerSpec(learning_rate=3e-3, steps=8, warmup=2, weight_decay=0.01)
Steps: TypeAlias = Iterator[tuple[TrainState, dict[str, jax.Array]]]


def decoder_spec(dtype: str = "float32") -> DecoderSpec:
    return DecoderSpec(vocab_size=VOCAB, width=16, depth=2, heads=4, kv_heads=2, mlp_width=24, dtype=dtype)


@functools.cache
def decoder_params(dtype: str, seed: int) -> Params:
    """Embeddings of unit size: tokens are then far from equally likely, and hidden states far from alike."""
    params = jax.jit(partial(init_decoder, decoder_spec(dtype)))(jax.random.key(seed))
    return {**params, "embedding": 25.0 * params["embedding"]}


@functools.cache
def scored_params(dtype: str, seed: int) -> Params:
    head = jax.jit(partial(init_scalar_head, decoder_spec(dtype)))(jax.random.key(seed + 1))
    return {"decoder": decoder_params(dtype, seed), "head": head}


def token_batch(seed: int) -> TokenBatch:
    """Packed rows of 1 to 3 examples, as ragged as can be: row 0 is nearly all targets, row 7 is only padding."""
    random = np.random.default_rng(seed)
    ids = random.integers(2, VOCAB, (ROWS, LENGTH), dtype=np.int32)
    positions, segments = np.zeros_like(ids), np.zeros_like(ids)
    loss_mask = np.zeros(ids.shape, bool)
    shapes = [[(1, 11)], [(3, 2), (2, 3)], [(1, 1), (1, 2), (4, 1)], [(6, 1)], [(2, 8)], [(1, 4), (1, 4)], [(9, 1)], []]
    for row, examples in enumerate(shapes):
        start = 0
        for number, (prompt, response) in enumerate(examples, start=1):
            end = start + prompt + response
            segments[row, start:end] = number
            positions[row, start:end] = np.arange(prompt + response)
            loss_mask[row, start + prompt : end] = True
            start = end
        ids[row, start:] = PAD
    return TokenBatch(ids=ids, positions=positions, segments=segments, loss_mask=loss_mask)


def rank_batch(seed: int) -> RankBatch:
    """Twice eight lists of 0 to 4 responses with ties; list 5 is all tied (no pair), 7 is padding; two utilities.

    Sharing them out evenly, eight devices get one or two lists that count.
    """
    random = np.random.default_rng(seed)
    ids = random.integers(2, VOCAB, (2 * ROWS, LIST_SIZE, LENGTH), dtype=np.int32)
    lengths = random.integers(3, LENGTH + 1, (2 * ROWS, LIST_SIZE))
    exists = np.arange(LIST_SIZE) < np.array(2 * [4, 2, 3, 4, 2, 3, 4, 0])[:, None]
    mask = (np.arange(LENGTH) < lengths[..., None]) & exists[..., None]
    asked = np.random.default_rng(seed + 1000)
    prompts = asked.integers(2, VOCAB, (2 * ROWS, LIST_PROMPT))
    told = asked.integers(1, LIST_PROMPT + 1, 2 * ROWS) * exists.any(axis=1)
    prompt_mask = np.arange(LIST_PROMPT) >= LIST_PROMPT - told[:, None]
    ranks = [[0, 1, 2, 3], [1, 0, 0, 0], [0, 1, 1, 0], [2, 0, 1, 0], [0, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1], [0] * 4]
    rank = np.array(2 * ranks, np.int32)
    both = exists[:, :, None] & exists[:, None, :]
    none = np.full(exists.shape, np.nan, np.float32)
    return RankBatch(
        prompt_ids=np.where(prompt_mask, prompts, PAD).astype(np.int32),
        prompt_mask=prompt_mask,
        ids=np.where(mask, ids, PAD).astype(np.int32),
        mask=mask,
        ranks=rank,
        response_mask=exists,
        utility=np.array(2 * [0, 1, 1, 0, 0, 1, 1, 0], np.int32),
        better=both & (rank[:, :, None] < rank[:, None, :]),
        tied=both & (rank[:, :, None] == rank[:, None, :]) & ~np.eye(LIST_SIZE, dtype=bool),
        margin=np.zeros(2 * ROWS, np.float32),
        weight=np.ones(2 * ROWS, np.float32),
        labels=none,
        scores=none,
        index=np.arange(2 * ROWS, dtype=np.int32),
    )


def rows_of(lists: ListTokens) -> tuple[np.ndarray, np.ndarray]:
    """(ids, mask) (B, K, T): every response behind a copy of its prompt, as if each stood alone."""
    found = []
    for prompts, responses in ((lists.prompt_ids, lists.ids), (lists.prompt_mask, lists.mask)):
        copies = np.repeat(np.asarray(prompts)[:, None], responses.shape[1], axis=1)
        found.append(np.concatenate([copies, responses], axis=2))
    return found[0], found[1] & np.asarray(lists.mask).any(axis=2, keepdims=True)


def preference_batch(seed: int, mismatched: bool = False) -> PreferenceBatch:
    """The same lists; ``mismatched``: the last response of each is to another prompt, and nobody judged it."""
    lists = rank_batch(seed)
    if mismatched:
        kept = np.arange(LIST_SIZE) < LIST_SIZE - 1
        exists = lists.mask.any(axis=(1, 2))
        mask = lists.mask | ((np.arange(LENGTH) < 5) & ~kept[:, None] & exists[:, None, None])
        pairs = kept[:, None] & kept[None, :]
        lists = dataclasses.replace(
            lists,
            mask=mask,
            ids=np.where(mask, np.maximum(lists.ids, 2), PAD).astype(np.int32),
            response_mask=lists.response_mask & kept,
            better=lists.better & pairs,
            tied=lists.tied & pairs,
        )
    reference = -np.random.default_rng(seed).uniform(5.0, 30.0, (2 * ROWS, LIST_SIZE)).astype(np.float32)
    if mismatched:  # far enough for the policy to be away from it: KTO's baseline is not 0
        reference[:, -1] -= 30.0
    return PreferenceBatch(lists=lists, ref_logprobs=reference)


def prompt_batch(seed: int) -> PromptBatch:
    """Left-padded prompts of 1 to 5 tokens."""
    random = np.random.default_rng(seed)
    lengths = random.integers(1, PROMPT + 1, EPISODES)
    mask = np.arange(PROMPT) >= PROMPT - lengths[:, None]
    ids = np.where(mask, random.integers(2, VOCAB, mask.shape), PAD).astype(np.int32)
    index = np.arange(EPISODES, dtype=np.int32)
    return PromptBatch(ids=ids, mask=mask, index=index, row=index)


def gradient_steps(
    executor: Executor,
    loss_sums: Callable[..., Any],
    params: Params,
    batches: Sequence[Any],
    donate: Sequence[int] = (),
    microbatches: int = 1,
) -> Steps:
    """The state and the metrics after each batch."""
    optimizer = make_optimizer(OPTIMIZER)
    state = executor.place(jax.jit(partial(init_state, optimizer=optimizer))(params, key=jax.random.key(7)), "state")
    step = executor.compile(
        partial(train_step, loss_sums, optimizer, microbatches=microbatches),
        ("state", "rows"),
        ("state", "replicated"),
        donate,
    )
    for batch in batches:
        state, metrics = step(state, executor.place(batch, "rows"))
        yield state, metrics


def sft_parts(dtype: str = "float32") -> tuple[Callable[..., Any], Params, list[TokenBatch]]:
    spec = decoder_spec(dtype)
    return partial(sft.loss_sums, spec), decoder_params(dtype, 0), [token_batch(i) for i in range(5)]


def reward_parts(dtype: str = "float32") -> tuple[Callable[..., Any], Params, list[RankBatch]]:
    spec = reward.RewardSpec(decoder_spec(dtype), bounded=True, utilities=(LogSigmoid(), Power(gamma=0.5)))
    return partial(reward.loss_sums, spec), scored_params(dtype, 1), [rank_batch(i) for i in range(5)]


def rollout_spec(dtype: str = "float32") -> RolloutSpec:
    spec = decoder_spec(dtype)
    return RolloutSpec(
        policy=spec,
        reward=spec,
        reward_bounded=True,
        max_response=RESPONSE,
        eos_id=EOS,
        pad_id=PAD,
        sampling=SamplingSpec(temperature=0.8),
        missing_eos_score=-1.0,
    )


def ppo_spec(dtype: str = "float32", **changes: Any) -> ppo.PPOSpec:
    spec = ppo.PPOSpec(
        policy=decoder_spec(dtype),
        value=decoder_spec(dtype),
        temperature=0.8,
        epochs=2,
        minibatches=2,
        gamma=0.99,
        kl=ppo.KLSpec(coefficient=0.1, controller="adaptive", target=0.5, horizon=100.0),
    )
    return dataclasses.replace(spec, **changes)


def actors(dtype: str = "float32") -> Params:
    return {"policy": decoder_params(dtype, 2), "value": scored_params(dtype, 3)}


def ppo_state(optimizer: Any, dtype: str = "float32", coefficient: float = 0.1) -> TrainState:
    init = jax.jit(partial(init_state, optimizer=optimizer))
    return init(actors(dtype), key=jax.random.key(11), extra={"kl_coefficient": jnp.float32(coefficient)})


def compile_roll(executor: Executor, dtype: str = "float32") -> Callable[..., Rollout]:
    """``roll(params, prompts, key)``: a compiled rollout against a reference that differs from the policy."""
    spec = rollout_spec(dtype)

    def roll(policy: Params, value: Params, reference: Params, reward: Params, prompts: Any, rest: Any, axis_name: Any):
        key, bias, gain = rest
        arrays = sample_rollout(
            spec, policy, value, reference, reward, prompts, key, reward_bias=bias, reward_gain=gain
        )
        return (arrays,)

    compiled = executor.compile(roll, ("state",) * 4 + ("rows", "replicated"), ("rows",))
    reference = executor.place(jax.tree.map(lambda x: x * 0.9, decoder_params(dtype, 2)), "state")
    reward_model = executor.place(scored_params(dtype, 4), "state")
    bias, gain = jnp.float32(0.25), jnp.float32(2.0)

    def run(params: Params, prompts: PromptBatch, key: jax.Array) -> Rollout:
        rows = executor.place(prompts, "rows")
        return compiled(params["policy"], params["value"], reference, reward_model, rows, (key, bias, gain))[0]

    return run


@functools.cache
def fixed_rollout(seed: int, dtype: str = "float32") -> Rollout:
    """Random responses of 1 to 6 tokens, some without an end, by a policy slightly off that of ``actors``."""
    random = np.random.default_rng(seed)
    prompts = prompt_batch(seed)
    lengths = random.integers(1, RESPONSE + 1, EPISODES)
    mask = np.arange(RESPONSE) < lengths[:, None]
    ids = np.where(mask, random.integers(2, VOCAB, mask.shape), PAD).astype(np.int32)
    ended = random.random(EPISODES) < 0.7
    ids[ended, lengths[ended] - 1] = EOS
    exact = jax.jit(partial(response_logprobs, decoder_spec(dtype), response_length=RESPONSE, temperature=0.8))(
        decoder_params(dtype, 2),
        np.concatenate([prompts.ids, ids], axis=1),
        np.concatenate([prompts.mask, mask], axis=1),
    )

    def noisy(x: Any, size: float) -> np.ndarray:
        return np.where(mask, x + size * random.standard_normal(mask.shape), 0.0).astype(dtype)

    rollout = Rollout(
        prompt_ids=prompts.ids,
        prompt_mask=prompts.mask,
        response_ids=ids,
        response_mask=mask,
        logprobs=noisy(exact, 0.1),
        ref_logprobs=noisy(exact, 0.3),
        values=noisy(0.0, 0.5),
        scores=random.standard_normal(EPISODES).astype(dtype),
        raw_scores=random.standard_normal(EPISODES).astype(dtype),
        index=prompts.index,
    )
    return jax.tree.map(jnp.asarray, rollout)


def ppo_optimizer() -> Any:
    return ppo.make_ppo_optimizer(OPTIMIZER, dataclasses.replace(OPTIMIZER, learning_rate=1e-3))


def ppo_steps(executor: Executor, dtype: str = "float32", donate: Sequence[int] = (), microbatches: int = 1) -> Steps:
    """Two updates, that is eight optimizer steps of each network."""
    optimizer = ppo_optimizer()
    state = executor.place(ppo_state(optimizer, dtype), "state")
    update = executor.compile(
        partial(ppo.update, ppo_spec(dtype, microbatches=microbatches), optimizer, EOS),
        ("state", "rows"),
        ("state", "replicated"),
        donate,
    )
    for rollout in [fixed_rollout(seed, dtype) for seed in range(2)]:
        state, metrics = update(state, executor.place(rollout, "rows"))
        yield state, metrics


def steps(
    name: str, executor: Executor, dtype: str = "float32", donate: Sequence[int] = (), microbatches: int = 1
) -> Steps:
    """A learner by name, step by step."""
    if name == "ppo":
        return ppo_steps(executor, dtype, donate, microbatches)
    parts = {"sft": sft_parts, "reward": reward_parts}[name](dtype)
    return gradient_steps(executor, *parts, donate, microbatches)


LEARNERS = ("sft", "reward", "ppo")
