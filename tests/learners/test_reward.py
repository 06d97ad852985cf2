"""Ranked lists: each response encoded once, the utility of the list's own type, ties and padding left out."""

import dataclasses
import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.data.examples import ListExample
from rlhf_jax.data.lists import sizes_of
from rlhf_jax.data.loader import rank_batches
from rlhf_jax.learners import reward
from rlhf_jax.models import apply_reward_model, lists
from rlhf_jax.objectives.utilities import LogSigmoid, Power
from rlhf_jax.types import Params, RankBatch
from tests.learners import tiny

SPEC = reward.RewardSpec(tiny.decoder_spec(), bounded=True, utilities=(LogSigmoid(), Power(gamma=0.5)))
BATCH = tiny.rank_batch(0)
loss_sums = jax.jit(partial(reward.loss_sums, SPEC))
list_rewards = jax.jit(partial(reward.list_rewards, SPEC))
gradient = jax.jit(jax.grad(lambda params, batch: reward.loss_sums(SPEC, params, batch).numerator))


def params() -> dict:
    return tiny.scored_params("float32", 1)


def utility(index: int, gap: float) -> float:
    """log sigmoid, or the square root with its tangent at 0.1 below."""
    if index == 0:
        return -math.log1p(math.exp(-gap))
    return math.sqrt(gap) if gap >= 0.1 else math.sqrt(0.1) + (gap - 0.1) * 0.5 / math.sqrt(0.1)


def test_loss_is_the_ranked_utility_of_the_rewards() -> None:
    found = np.asarray(list_rewards(params(), BATCH), np.float64)
    losses, right, gaps, pairs = [], 0.0, 0.0, 0
    for row in range(len(found)):
        own = []
        for better, worse in itertools.permutations(range(tiny.LIST_SIZE), 2):
            both = BATCH.response_mask[row, better] and BATCH.response_mask[row, worse]
            if both and BATCH.ranks[row, better] < BATCH.ranks[row, worse]:
                gap = found[row, better] - found[row, worse]
                own.append(utility(BATCH.utility[row], gap))
                right, gaps, pairs = right + (gap > 0), gaps + gap, pairs + 1
        if own:
            losses.append(-np.mean(own))
    sums = loss_sums(params(), BATCH)
    assert sums.weight == len(losses) == 12
    assert sums.numerator == pytest.approx(sum(losses), rel=1e-5)
    assert sums.metrics["pair_accuracy"] == (pytest.approx(right), pairs)
    assert sums.metrics["gap_mean"] == (pytest.approx(gaps, abs=1e-5), pairs)
    assert sums.metrics["reward_mean"] == (
        pytest.approx(found[BATCH.response_mask].sum(), rel=1e-5),
        BATCH.response_mask.sum(),
    )
    assert 0 < right < pairs


def test_each_prompt_and_each_response_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = []

    def counting(spec, params, ids, *rest, **how):
        tokens.append(ids.size)
        return read(spec, params, ids, *rest, **how)

    read = lists.read
    monkeypatch.setattr(lists, "read", counting)
    jax.eval_shape(partial(reward.loss_sums, SPEC), params(), BATCH)
    assert tokens == [BATCH.prompt_ids.size + BATCH.ids.size]


def test_a_step_is_compiled_once_for_each_size_of_its_batches() -> None:
    """Over lists of all lengths, two or three responses each."""
    random, traced = np.random.default_rng(0), []
    every = [
        ListExample(
            random.integers(2, tiny.VOCAB, random.integers(1, 21)).astype(np.int32),
            tuple(np.full(random.integers(1, 9), 2, np.int32) for _ in range(size)),
            tuple(range(size)),
            "",
            number,
        )
        for number, size in enumerate(random.integers(2, 4, 60))
    ]
    sizes = sizes_of(every, 4, groups=1)

    @jax.jit
    def step(params: Params, batch: RankBatch) -> jax.Array:
        traced.append((batch.prompt_ids.shape, batch.ids.shape))
        return reward.loss_sums(SPEC, params, batch).numerator

    stream, seen = rank_batches(every, {}, 2, sizes, 0, tiny.PAD), []
    for _ in range(40):
        batch = next(stream)
        seen.append((batch.prompt_ids.shape, batch.ids.shape))
        step(params(), batch)
    assert len(traced) == len(set(traced)) == len(set(seen)) == step._cache_size()
    assert 3 < len(traced) <= 6  # 16 or 20 tokens of a prompt, 4, 5 or 6 slots


def test_a_reward_is_that_of_the_response_behind_its_prompt() -> None:
    ids, mask = (leaf.reshape(-1, leaf.shape[2]) for leaf in tiny.rows_of(BATCH))
    read = jax.jit(partial(apply_reward_model, SPEC.decoder, bounded=True))
    alone = read(params(), ids, mask).reshape(BATCH.ranks.shape)
    found = jax.jit(partial(reward.list_rewards, SPEC))(params(), BATCH)
    np.testing.assert_allclose(found[BATCH.response_mask], alone[BATCH.response_mask], atol=1e-6)


def test_a_list_without_comparable_responses_contributes_nothing() -> None:
    """Neither to the loss nor to its gradient: lists 5 (all tied) and 7 (no response) may hold anything."""
    other = BATCH.ids.copy()
    mask = BATCH.mask.copy()
    other[[5, 7, 13, 15]] = 9
    mask[[7, 15]] = True
    changed = dataclasses.replace(BATCH, ids=other, mask=mask)
    a, b = loss_sums(params(), BATCH), loss_sums(params(), changed)
    assert a.weight == b.weight
    assert a.numerator == pytest.approx(float(b.numerator), rel=1e-6)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), gradient(params(), BATCH), gradient(params(), changed)
    )


def test_a_missing_response_contributes_nothing() -> None:
    """The fourth response of a list of three may hold anything."""
    other = BATCH.ids.copy()
    other[2, 3], other[1, 2:] = 9, 11
    sums = loss_sums(params(), dataclasses.replace(BATCH, ids=other))
    assert sums.numerator == pytest.approx(float(loss_sums(params(), BATCH).numerator), rel=1e-6)


def test_an_empty_batch_has_no_loss_and_a_zero_gradient() -> None:
    names = ("mask", "response_mask", "better", "tied")
    empty = dataclasses.replace(BATCH, **{name: getattr(BATCH, name) & False for name in names})
    sums = loss_sums(params(), empty)
    assert (float(sums.numerator), int(sums.weight)) == (0.0, 0)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient(params(), empty)))


def test_a_pair_under_log_sigmoid_is_bradley_terry() -> None:
    pair = jax.tree.map(lambda leaf: jnp.asarray(leaf[4:5, :2] if leaf.ndim > 1 else leaf[4:5]), BATCH)
    pair = dataclasses.replace(pair, better=pair.better[:, :, :2], tied=pair.tied[:, :, :2])
    free = dataclasses.replace(SPEC, bounded=False)
    better, worse = np.asarray(jax.jit(partial(reward.list_rewards, free))(params(), pair))[0]
    assert (pair.ranks[0].tolist(), pair.utility[0]) == ([0, 1], 0)
    sums = jax.jit(partial(reward.loss_sums, free))(params(), pair)
    assert sums.numerator == pytest.approx(np.log1p(np.exp(worse - better)), rel=1e-5)


def test_weights_multiply_the_lists_of_their_utility() -> None:
    """The losses are linear in the weights, and their number is not touched."""
    one, two, both = (
        jax.jit(partial(reward.loss_sums, dataclasses.replace(SPEC, weights=weights)))(params(), BATCH)
        for weights in ((1.0, 0.0), (0.0, 1.0), (0.25, 4.0))
    )
    assert one.weight == both.weight == 12
    assert one.numerator + two.numerator == pytest.approx(float(loss_sums(params(), BATCH).numerator), rel=1e-5)
    assert both.numerator == pytest.approx(float(0.25 * one.numerator + 4.0 * two.numerator), rel=1e-5)
