"""Every kind of feedback in one batch: each list's loss is the weighted sum of its kinds, and nothing else counts."""

import dataclasses
import itertools
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from rlhf_jax.learners import reward
from rlhf_jax.learners.reward import FeedbackSpec
from rlhf_jax.objectives.utilities import LogSigmoid
from rlhf_jax.parallel import MeshExecutor, PmapExecutor
from rlhf_jax.types import RankBatch
from tests.learners import tiny

NAN = math.nan
SPEC = reward.RewardSpec(tiny.decoder_spec(), bounded=False, utilities=(LogSigmoid(),))


def mixed_batch(seed: int) -> RankBatch:
    """The ragged lists of ``tiny`` with verdicts on some responses, scores on some, a list of verdicts alone (1), one
    of scores alone (9), a partial order (3), margins, and three sorts of annotators.
    """
    batch = tiny.rank_batch(seed)
    random = np.random.default_rng(seed)
    shape, exists = batch.response_mask.shape, batch.response_mask
    labels = np.where(random.random(shape) < 0.5, np.round(random.random(shape), 2), NAN).astype(np.float32)
    scores = np.where(random.random(shape) < 0.5, random.normal(3.0, 1.0, shape), NAN).astype(np.float32)
    better, tied = batch.better.copy(), batch.tied.copy()
    for row in (1, 9):
        better[row] = tied[row] = False
    labels[1], scores[1] = [1.0, 0.25, NAN, NAN], NAN
    labels[9], scores[9] = NAN, [2.0, 4.0, NAN, NAN]
    better[3], tied[3] = False, False
    better[3, 1, 0] = better[3, 3, 2] = True
    return dataclasses.replace(
        batch,
        better=better,
        tied=tied,
        labels=np.where(exists, labels, 0.5).astype(np.float32),  # what is no response has no verdict either
        scores=np.where(exists, scores, 9.0).astype(np.float32),
        margin=random.integers(0, 4, len(exists)).astype(np.float32) / 3,
        weight=np.resize([1.0, 0.5, 2.0], len(exists)).astype(np.float32),
        utility=np.zeros(len(exists), np.int32),
    )


BATCH = mixed_batch(0)
alone = pytest.mark.usefixtures("rewards_alone")


@pytest.fixture
def rewards_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parameters of the model are its rewards: all but the encoding, which is tested elsewhere."""
    monkeypatch.setattr(reward, "list_rewards", lambda spec, params, batch: params["rewards"])


def params(batch: RankBatch = BATCH, scale: float = 1.0) -> dict:
    rewards = scale * np.random.default_rng(5).normal(0.0, 1.0, batch.response_mask.shape)
    return {"rewards": jnp.asarray(np.where(batch.response_mask, rewards, NAN), jnp.float32)}


def spec_of(**feedback: Any) -> reward.RewardSpec:
    bounded = feedback.pop("bounded", False)
    return dataclasses.replace(SPEC, bounded=bounded, feedback=FeedbackSpec(**feedback))


def sums_of(batch: RankBatch = BATCH, rewards: dict | None = None, **feedback: Any) -> Any:
    return jax.jit(partial(reward.loss_sums, spec_of(**feedback)))(rewards or params(batch), batch)


def slopes_of(rewards: dict, spec: reward.RewardSpec) -> tuple[float, np.ndarray]:
    """(sum of the lists' losses, its derivative by each reward)."""
    value, slopes = jax.jit(jax.value_and_grad(lambda p, batch: reward.loss_sums(spec, p, batch).numerator))(
        rewards, BATCH
    )
    return float(value), np.asarray(slopes["rewards"])


def rewards_of(batch: RankBatch = BATCH) -> np.ndarray:
    return np.asarray(params(batch)["rewards"], np.float64)


def ranking(row: int, r: np.ndarray, batch: RankBatch, loss: str, tie: float, margin: float) -> list[float]:
    """The loss of each judgement (utility and ties), or choice (Plackett-Luce), of a list."""
    better, tied = batch.better[row], batch.tied[row]
    found = []
    if loss == "plackett_luce":
        for i in range(len(r)):
            if better[i].any():
                found.append(math.log(math.exp(r[i]) + sum(math.exp(r[j]) for j in np.flatnonzero(better[i]))) - r[i])
        return found
    for i, j in itertools.permutations(range(len(r)), 2):
        gap = r[i] - r[j]
        if better[i, j] and loss == "utility":
            found.append(-math.log(expit(gap - margin * batch.margin[row])))
        if loss == "rao_kupper" and better[i, j]:
            found.append(-math.log(expit(gap - tie)))
        if loss == "rao_kupper" and tied[i, j] and i < j:
            found.append(-math.log(1 - expit(gap - tie) - expit(-gap - tie)))
        total = math.exp(gap / 2) + math.exp(-gap / 2) + tie
        if loss == "davidson" and better[i, j]:
            found.append(-math.log(math.exp(gap / 2) / total))
        if loss == "davidson" and tied[i, j] and i < j:
            found.append(-math.log(tie / total))
    return found


def by_hand(batch: RankBatch = BATCH, **feedback: Any) -> tuple[float, float]:
    """(sum of the lists' weighted losses, sum of the weights of the lists that have one), in plain loops."""
    spec = FeedbackSpec(**feedback)
    rewards = rewards_of(batch)
    numerator = weight = 0.0
    for row, r in enumerate(rewards):
        exists = batch.response_mask[row]
        parts: list[tuple[float, list[float]]] = []
        if spec.ranks:
            parts.append((spec.ranks, ranking(row, r, batch, spec.loss, spec.tie, spec.margin)))
        if spec.labels:
            pairs = [(r[k], float(batch.labels[row, k])) for k in np.flatnonzero(exists)]
            parts.append(
                (spec.labels, [-y * math.log(expit(x)) - (1 - y) * math.log(expit(-x)) for x, y in pairs if y == y])
            )
        if spec.scores:
            given = [
                (r[k], (float(batch.scores[row, k]) - spec.low) / (spec.high - spec.low))
                for k in np.flatnonzero(exists)
            ]
            parts.append((spec.scores, [(x - y) ** 2 / 2 for x, y in given if y == y]))
        if any(each for _, each in parts):
            own = sum(much * float(np.mean(each)) for much, each in parts if each)
            own += spec.centering * (2 * r[exists].mean()) ** 2
            numerator += own * float(batch.weight[row])
            weight += float(batch.weight[row])
    return numerator, weight


MIXES = {
    "pairs": {"labels": 0.0},
    "pairs with margins": {"labels": 0.0, "margin": 0.8},
    "choices": {"loss": "plackett_luce", "labels": 0.0},
    "Rao-Kupper": {"loss": "rao_kupper", "tie": 0.4, "labels": 0.0},
    "Davidson": {"loss": "davidson", "tie": 0.7, "labels": 0.0},
    "labels": {"ranks": 0.0},
    "scores": {"ranks": 0.0, "labels": 0.0, "scores": 1.0, "low": 1.0, "high": 5.0},
    "all": {
        "loss": "davidson",
        "tie": 0.7,
        "ranks": 0.5,
        "labels": 2.0,
        "scores": 3.0,
        "low": 1.0,
        "high": 5.0,
        "centering": 0.1,
    },
}


@alone
@pytest.mark.parametrize("name", MIXES)
def test_a_mixed_batch_is_the_weighted_sum_of_its_kinds(name: str) -> None:
    found, (numerator, weight) = sums_of(**MIXES[name]), by_hand(**MIXES[name])
    assert float(found.weight) == pytest.approx(weight, rel=1e-6)
    assert float(found.numerator) == pytest.approx(numerator, rel=1e-4)
    assert weight < BATCH.weight.sum()  # some list has nothing of this kind


@alone
def test_kinds_add_up() -> None:
    """In a list that has all kinds, apart and together."""
    row = next(
        row
        for row in range(len(BATCH.weight))
        if BATCH.better[row].any()
        and (~np.isnan(BATCH.labels[row]) & BATCH.response_mask[row]).any()
        and (~np.isnan(BATCH.scores[row]) & BATCH.response_mask[row]).any()
    )
    one = jax.tree.map(lambda leaf: leaf[row : row + 1], BATCH)
    nothing = {"ranks": 0.0, "labels": 0.0, "scores": 0.0}
    apart = [float(sums_of(one, **{**nothing, kind: 1.0}).numerator) for kind in nothing]
    assert all(part > 0 for part in apart)
    together = sums_of(one, ranks=0.5, labels=2.0, scores=3.0)
    expected = 0.5 * apart[0] + 2.0 * apart[1] + 3.0 * apart[2]
    assert float(together.numerator) == pytest.approx(expected, rel=1e-5)
    assert float(together.weight) == BATCH.weight[row]


@alone
def test_annotators_count_by_their_weights() -> None:
    """Half the weight of every list changes neither mean nor step; a weight of 0 takes a list out."""
    halves = dataclasses.replace(BATCH, weight=BATCH.weight / 2)
    whole, half = sums_of(), sums_of(halves)
    assert float(half.numerator / half.weight) == pytest.approx(float(whole.numerator / whole.weight), rel=1e-6)
    keep = np.arange(len(BATCH.weight)) % 3 != 1
    silent = dataclasses.replace(BATCH, weight=np.where(keep, BATCH.weight, 0).astype(np.float32))
    expected, weight = by_hand(silent)
    assert float(sums_of(silent).numerator) == pytest.approx(expected, rel=1e-4)
    assert float(sums_of(silent).weight) == pytest.approx(weight, rel=1e-6)
    assert weight < float(whole.weight)


def test_a_batch_of_little_weight_makes_the_step_of_a_batch_of_full_weight() -> None:
    loss = partial(reward.loss_sums, SPEC)
    executor = MeshExecutor(jax.devices()[:1])
    little = dataclasses.replace(BATCH, weight=np.full(len(BATCH.weight), 0.01, np.float32))
    full = dataclasses.replace(BATCH, weight=np.ones(len(BATCH.weight), np.float32))
    norms = [
        float(next(tiny.gradient_steps(executor, loss, tiny.scored_params("float32", 1), [batch]))[1]["grad_norm"])
        for batch in (little, full)
    ]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


@alone
def test_lists_with_nothing_to_train_on_contribute_nothing() -> None:
    """Verdicts alone where only comparisons count: neither loss, nor weight, nor, by the centre, a pull."""
    spec = spec_of(labels=0.0, centering=5.0)
    _, slope = slopes_of(params(), spec)
    nothing = [row for row in range(len(BATCH.weight)) if not BATCH.better[row].any()]
    assert {1, 5, 7, 9} <= set(nothing)
    assert not np.any(slope[nothing])
    assert float(sums_of(labels=0.0, centering=5.0).weight) == by_hand(labels=0.0)[1]


@alone
@pytest.mark.parametrize("name", MIXES)
def test_verdicts_that_are_not_there_leave_no_nan_in_the_gradient(name: str) -> None:
    spec = spec_of(**MIXES[name])
    _, slopes = slopes_of(params(), spec)
    assert np.all(np.isfinite(slopes))
    assert np.any(slopes != 0)
    assert not np.any(slopes[~BATCH.response_mask])


@alone
def test_longer_lists_of_padding_change_nothing() -> None:
    """Two more columns without a response."""

    def longer(leaf: np.ndarray, axes: int) -> np.ndarray:
        return np.pad(leaf, [(0, 2 if 1 <= axis <= axes else 0) for axis in range(leaf.ndim)])

    names = {"ids": 1, "mask": 1, "ranks": 1, "response_mask": 1, "labels": 1, "scores": 1, "better": 2, "tied": 2}
    padded = dataclasses.replace(BATCH, **{name: longer(getattr(BATCH, name), axes) for name, axes in names.items()})
    wider = np.pad(rewards_of(), ((0, 0), (0, 2)), constant_values=NAN)
    for mix in (MIXES["all"], MIXES["choices"]):
        found = sums_of(padded, {"rewards": jnp.asarray(wider, jnp.float32)}, **mix)
        assert float(found.numerator) == pytest.approx(float(sums_of(**mix).numerator), rel=1e-5)


@alone
@pytest.mark.parametrize("name", MIXES)
def test_wild_rewards_have_finite_losses(name: str) -> None:
    spec = spec_of(**MIXES[name])
    value, slope = slopes_of(params(scale=1e5), spec)
    assert np.isfinite(value)
    assert np.all(np.isfinite(slope))


@alone
def test_smoothing_and_bounds_reach_the_loss() -> None:
    plain, smooth = sums_of(labels=0.0), sums_of(labels=0.0, label_smoothing=0.2)
    assert float(smooth.numerator) != float(plain.numerator)
    numerator = 0.0
    for row, r in enumerate(rewards_of()):
        pairs = [(i, j) for i, j in itertools.permutations(range(4), 2) if BATCH.better[row, i, j]]
        each = [-0.8 * math.log(expit(r[i] - r[j])) - 0.2 * math.log(expit(r[j] - r[i])) for i, j in pairs]
        numerator += float(BATCH.weight[row]) * float(np.mean(each)) if each else 0.0
    assert float(smooth.numerator) == pytest.approx(numerator, rel=1e-4)
    # A bounded reward is the probability of a good verdict, whose logit the unbounded one is.
    likely = {"rewards": jax.nn.sigmoid(params()["rewards"])}
    bounded = sums_of(rewards=likely, ranks=0.0, bounded=True)
    assert float(bounded.numerator) == pytest.approx(float(sums_of(ranks=0.0).numerator), rel=1e-4)


def test_eight_devices_train_on_all_kinds_as_one_does() -> None:
    loss = partial(reward.loss_sums, spec_of(**MIXES["all"]))
    batches = [mixed_batch(seed) for seed in range(3)]
    runs = [
        list(tiny.gradient_steps(one, loss, tiny.scored_params("float32", 1), batches))
        for one in (MeshExecutor(jax.devices()[:1]), PmapExecutor(jax.devices()))
    ]
    for (_, a), (_, b) in zip(*runs, strict=True):
        for name in a:
            assert float(a[name]) == pytest.approx(float(b[name]), rel=1e-4, abs=1e-5), name
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-4),
        jax.device_get(runs[0][-1][0].params),
        jax.device_get(runs[1][-1][0].params),
    )


def test_the_lists_are_what_the_tests_need() -> None:
    judged = (~np.isnan(BATCH.labels) & BATCH.response_mask).any(axis=1)
    assert judged.any()
    assert not judged.all()
    assert (jnp.unique(jnp.asarray(BATCH.weight)).tolist()) == [0.5, 1.0, 2.0]
