"""Fine-grained reward models beside ordinary ones, and PPO on dense rewards beside PPO on one score."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.learners import ppo, reward, segments
from rlhf_jax.models import init_token_heads
from rlhf_jax.types import Rollout, SegmentBatch
from tests.learners import tiny

SPEC = segments.SegmentSpec(tiny.decoder_spec(), ("a", "b"))


def segment_batch(seed: int) -> SegmentBatch:
    """Eight rows of 3 to 12 tokens, labels of two aspects at random places; row 5 has none, row 7 is padding."""
    random = np.random.default_rng(seed)
    lengths = random.integers(3, tiny.LENGTH + 1, tiny.ROWS) * (np.arange(tiny.ROWS) != 7)
    mask = np.arange(tiny.LENGTH) < lengths[:, None]
    ids = np.where(mask, random.integers(2, tiny.VOCAB, mask.shape), tiny.PAD).astype(np.int32)
    marked = mask[..., None] & (random.random((*mask.shape, 2)) < 0.4) & (np.arange(tiny.ROWS) != 5)[:, None, None]
    labels = np.where(marked, random.integers(0, 2, marked.shape), np.nan).astype(np.float32)
    return SegmentBatch(ids=jnp.asarray(ids), mask=jnp.asarray(mask), labels=jnp.asarray(labels))


def params_of(seed: int) -> dict:
    heads = init_token_heads(tiny.decoder_spec(), jax.random.key(seed), 2)
    return {"decoder": tiny.decoder_params("float32", seed), "heads": {**heads, "bias": jnp.array([0.5, -0.5])}}


def test_the_loss_counts_each_aspect_of_each_response_once() -> None:
    batch, params = segment_batch(0), params_of(1)
    sums = jax.jit(partial(segments.loss_sums, SPEC))(params, batch)
    logits = np.asarray(segments.token_logits(SPEC, params, batch), np.float64)
    labels = np.asarray(batch.labels)
    total, counted, right, parts = 0.0, 0, [0, 0], [0, 0]
    for row in range(tiny.ROWS):
        for aspect in range(2):
            places = np.flatnonzero(~np.isnan(labels[row, :, aspect]))
            if not len(places):
                continue
            x, y = logits[row, places, aspect], labels[row, places, aspect]
            total += float(np.mean(np.where(y == 1, np.logaddexp(0, -x), np.logaddexp(0, x))))
            counted += 1
            right[aspect] += int(((x >= 0) == (y == 1)).sum())
            parts[aspect] += len(places)
    assert float(sums.numerator) == pytest.approx(total, rel=1e-5)
    assert int(sums.weight) == counted > 8
    for name, hits, count in zip("ab", right, parts, strict=True):
        assert [float(x) for x in sums.metrics[f"accuracy.{name}"]] == [hits, count]
    assert float(sum(sums.metrics[f"loss.{name}"][0] for name in "ab")) == pytest.approx(total, rel=1e-5)


def test_halves_of_a_batch_add_up_and_padding_counts_for_nothing() -> None:
    batch, params = segment_batch(3), params_of(1)
    sums = jax.jit(partial(segments.loss_sums, SPEC))
    whole = sums(params, batch)
    halves = [sums(params, jax.tree.map(lambda x, s=s: x[s], batch)) for s in (np.s_[:3], np.s_[3:])]
    assert float(whole.numerator) == pytest.approx(sum(float(half.numerator) for half in halves), rel=1e-5)
    assert int(whole.weight) == sum(int(half.weight) for half in halves)
    gradient = jax.jit(jax.grad(lambda p: segments.loss_sums(SPEC, p, batch).numerator))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_a_model_of_the_whole_is_an_ordinary_reward_model_of_labels() -> None:
    """One aspect, one segment, ending where a reward model reads: the loss and its gradient are those of the label."""
    ranked = tiny.rank_batch(0)
    whole, real = (leaf[:, 0] for leaf in tiny.rows_of(ranked))
    random = np.random.default_rng(5)
    labels = np.where(ranked.response_mask, random.random(ranked.response_mask.shape), np.nan).astype(np.float32)
    single = {
        field.name: getattr(ranked, field.name)[:, :1] for field in dataclasses.fields(ranked) if field.name in
        ("ids", "mask", "ranks", "response_mask", "scores")
    }  # fmt: skip
    ranked = dataclasses.replace(
        ranked, **single, labels=labels[:, :1], better=ranked.better[:, :1, :1], tied=ranked.tied[:, :1, :1]
    )
    feedback = reward.FeedbackSpec(ranks=0.0, labels=1.0)
    ordinary = reward.RewardSpec(tiny.decoder_spec(), bounded=False, utilities=(), feedback=feedback)
    params = tiny.scored_params("float32", 1)

    at_ends = np.full((*whole.shape, 1), np.nan, np.float32)
    for row, mask in enumerate(real):
        if mask.any():
            at_ends[row, np.flatnonzero(mask)[-1], 0] = ranked.labels[row, 0]
    batch = SegmentBatch(*map(jnp.asarray, (whole, real, at_ends)))
    ranked = jax.tree.map(jnp.asarray, ranked)
    spec = segments.SegmentSpec(tiny.decoder_spec(), ("all",))

    def own(kernel: jax.Array, decoder: dict) -> jax.Array:
        heads = {"kernel": kernel[:, None], "bias": jnp.zeros(1)}
        sums = segments.loss_sums(spec, {"decoder": decoder, "heads": heads}, batch)
        return sums.numerator / sums.weight

    def theirs(kernel: jax.Array, decoder: dict) -> jax.Array:
        sums = reward.loss_sums(ordinary, {"decoder": decoder, "head": {"kernel": kernel}}, ranked)
        return sums.numerator / sums.weight

    arguments = (params["head"]["kernel"], params["decoder"])
    (one, one_gradient), (other, other_gradient) = (
        jax.jit(jax.value_and_grad(f, (0, 1)))(*arguments) for f in (own, theirs)
    )
    assert float(one) == pytest.approx(float(other), rel=1e-6)
    assert one > 0.1
    for a, b in zip(jax.tree.leaves(one_gradient), jax.tree.leaves(other_gradient), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def at_last_token(rollout: Rollout) -> Rollout:
    """The same rewards, paid as dense ones."""
    mask = np.asarray(rollout.response_mask)
    dense = np.zeros(mask.shape, np.float32)
    dense[np.arange(len(mask)), mask.sum(axis=1) - 1] = rollout.scores
    return dataclasses.replace(rollout, scores=jnp.zeros_like(rollout.scores), dense=jnp.asarray(dense))


def test_dense_rewards_at_the_last_token_alone_are_todays_ppo_to_the_bit() -> None:
    spec, optimizer = tiny.ppo_spec(), tiny.ppo_optimizer()
    update = jax.jit(partial(ppo.update, spec, optimizer, tiny.EOS))
    rollout = tiny.fixed_rollout(0)
    state, metrics = update(tiny.ppo_state(optimizer), rollout)
    other, other_metrics = update(tiny.ppo_state(optimizer), at_last_token(rollout))
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(other.params), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    for name in ("loss", "policy_loss", "value_loss", "explained_variance", "grad_norm"):
        assert float(metrics[name]) == float(other_metrics[name])


@pytest.mark.parametrize(("gamma", "lambda_"), [(1.0, 0.95), (0.9, 0.7)])
def test_targets_of_token_rewards_are_those_of_the_definitions(gamma: float, lambda_: float) -> None:
    """r_t = dense_t - beta log ratio, the score on top at the end; A_t as an explicit double sum, in float64."""
    spec = tiny.ppo_spec(whiten_advantages=False, gamma=gamma, lambda_=lambda_)
    random = np.random.default_rng(0)
    rollout = tiny.fixed_rollout(1)
    dense = random.standard_normal(rollout.values.shape).astype(np.float32)  # off the mask too: it must not count
    found = jax.jit(partial(ppo.targets, spec))(
        dataclasses.replace(rollout, dense=jnp.asarray(dense)), jnp.float32(0.3)
    )
    data = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), rollout)
    for row in range(tiny.EPISODES):
        length = int(data.response_mask[row].sum())
        rewards = dense[row] - 0.3 * (data.logprobs[row] - data.ref_logprobs[row])
        rewards[length - 1] += data.scores[row]
        values = [*data.values[row, :length], 0.0]
        deltas = [rewards[t] + gamma * values[t + 1] - values[t] for t in range(length)]
        for t in range(tiny.RESPONSE):
            wanted = sum((gamma * lambda_) ** (k - t) * deltas[k] for k in range(t, length))
            assert float(found.advantages[row, t]) == pytest.approx(wanted, abs=2e-5)
            assert float(found.returns[row, t]) == pytest.approx(wanted + values[t] if t < length else 0.0, abs=2e-5)
