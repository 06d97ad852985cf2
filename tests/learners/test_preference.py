"""The policy's log-probabilities of whole lists, and the figures and gradients that come of them."""

import dataclasses
import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.learners import preference
from rlhf_jax.learners.optimizer import make_optimizer
from rlhf_jax.learners.step import init_state
from rlhf_jax.models import apply_decoder, output_logits, positions_of
from rlhf_jax.objectives.divergences import make_divergence
from tests.learners import tiny

SPEC = preference.PreferenceSpec(tiny.decoder_spec())
BATCH = jax.tree.map(jnp.asarray, tiny.preference_batch(0))


@functools.cache
def logprobs():
    return jax.jit(partial(preference.response_logprobs, SPEC))(tiny.decoder_params("float32", 0), BATCH)


def test_a_response_has_the_sum_of_its_tokens_log_probabilities():
    """One row by itself, token by token."""
    row, column = 2, 1
    ids, mask = (jnp.asarray(leaf[row, column][None]) for leaf in tiny.rows_of(BATCH.lists))
    prompt, end = tiny.LIST_PROMPT, tiny.LIST_PROMPT + int(BATCH.lists.mask[row, column].sum())
    params = tiny.decoder_params("float32", 0)
    hidden = apply_decoder(SPEC.decoder, params, ids, positions_of(mask), mask)
    table = jax.nn.log_softmax(output_logits(SPEC.decoder, params, hidden)[0])
    own = sum(float(table[t - 1, ids[0, t]]) for t in range(prompt, end))
    assert float(logprobs()[row, column]) == pytest.approx(own, rel=1e-5)
    assert own < -5.0
    np.testing.assert_array_equal(logprobs()[~np.asarray(BATCH.lists.mask.any(axis=2))], 0.0)


def test_figures_of_a_batch_by_hand():
    """Two lists of the sixteen: one pair each, one right and one wrong."""
    own = jnp.zeros_like(BATCH.ref_logprobs).at[1, 0].set(-4.0).at[1, 1].set(-3.0)
    batch = dataclasses.replace(BATCH, ref_logprobs=jnp.zeros_like(own).at[1, 0].set(-2.0).at[1, 1].set(-6.0))
    only = jnp.arange(16) == 1
    lists = dataclasses.replace(
        batch.lists,
        better=batch.lists.better & only[:, None, None],
        response_mask=batch.lists.response_mask & only[:, None],
    )
    sums = preference.loss_of_logprobs(SPEC, own, dataclasses.replace(batch, lists=lists))
    found = {name: float(total / weight) for name, (total, weight) in sums.metrics.items()}
    assert float(sums.weight) == 1.0
    # Ranks 1, 0: the second is better. Log-ratios -2 and 3, rewards -.2 and .3.
    length = float(batch.lists.mask[1, 1].sum())
    expected = {
        "pair_accuracy": 1.0,
        "gap_mean": 0.5,
        "nll": 3.0 / length,
        "log_ratio": 0.5,
        "implicit.chosen": 0.3,
        "implicit.rejected": -0.2,
        "logprob.chosen": -3.0,
        "logprob.rejected": -4.0,
    }
    assert found == pytest.approx(expected, rel=1e-5)
    assert float(sums.numerator) == pytest.approx(np.log1p(np.exp(-0.5)), rel=1e-6)

    # Verdicts that say the opposite: pairs are what this loss reads, and verdicts what KTO does.
    labelled = dataclasses.replace(lists, labels=lists.labels.at[1, 0].set(1.0).at[1, 1].set(0.0))
    batch = dataclasses.replace(batch, lists=labelled)
    for spec, chosen in ((SPEC, 0.3), (dataclasses.replace(SPEC, loss="kto"), -0.2)):
        total, weight = preference.loss_of_logprobs(spec, own, batch).metrics["implicit.chosen"]
        assert float(total / weight) == pytest.approx(chosen, rel=1e-5)


def test_lists_without_a_comparison_count_for_nothing_and_others_for_their_weight():
    compared = np.asarray(BATCH.lists.better.any(axis=(1, 2)))
    assert 0 < compared.sum() < 16
    plain = preference.loss_of_logprobs(SPEC, logprobs(), BATCH)
    assert float(plain.weight) == compared.sum()
    weights = jnp.linspace(0.5, 2.0, 16)
    heavy = dataclasses.replace(BATCH, lists=dataclasses.replace(BATCH.lists, weight=weights))
    found = preference.loss_of_logprobs(SPEC, logprobs(), heavy)
    assert float(found.weight) == pytest.approx(float(weights[compared].sum()), rel=1e-6)
    assert float(found.numerator) != pytest.approx(float(plain.numerator), rel=1e-3)


def test_at_the_reference_dpo_does_not_know_better_and_kto_has_no_baseline():
    at_start = dataclasses.replace(BATCH, ref_logprobs=logprobs())
    sums = preference.loss_of_logprobs(SPEC, logprobs(), at_start)
    assert float(sums.numerator / sums.weight) == pytest.approx(np.log(2), rel=1e-6)
    kto = dataclasses.replace(SPEC, loss="kto")
    sums = preference.loss_of_logprobs(kto, logprobs(), at_start)
    assert float(sums.numerator / sums.weight) == pytest.approx(0.5, rel=1e-6)
    assert float(sums.metrics["baseline"][0]) == 0.0


def test_the_baseline_of_kto_is_the_mean_of_responses_to_other_prompts():
    batch = jax.tree.map(jnp.asarray, tiny.preference_batch(0, mismatched=True))
    kto = dataclasses.replace(SPEC, loss="kto")
    exists = np.asarray(batch.lists.mask[:, -1].any(axis=1))
    for shift, expected in ((3.0, 0.3), (-3.0, 0.0)):
        moved = batch.ref_logprobs.at[:, -1].add(shift)
        total, weight = preference.loss_of_logprobs(kto, moved, batch).metrics["baseline"]
        assert float(total / weight) == pytest.approx(expected, abs=1e-5)
    assert 0 < exists.sum() < 16


def test_a_step_makes_the_better_response_likelier_than_before():
    optimizer = make_optimizer(tiny.OPTIMIZER)
    state = init_state(tiny.decoder_params("float32", 0), optimizer, jax.random.key(0))
    step = jax.jit(partial(preference.update, SPEC, optimizer))
    batch = dataclasses.replace(BATCH, ref_logprobs=logprobs())
    gaps = []
    for _ in range(4):
        state, metrics = step(state, batch)
        gaps.append(float(metrics["gap_mean"]))
    assert gaps[0] == pytest.approx(0.0, abs=1e-5)
    assert gaps[-1] > gaps[1] > 0.0


def sigma(x):
    return 1 / (1 + np.exp(-x))


def log_odds(p):
    return np.log(p / (1 - p))


# A loss, the implicit rewards of one list by (l, log-probabilities, lengths), and the loss of a pair by its gap.
LOSSES = {
    "dpo": ({}, lambda x, p, n: 0.1 * x, lambda g: -np.log(sigma(g))),
    "cdpo": (
        {"label_smoothing": 0.2},
        lambda x, p, n: 0.1 * x,
        lambda g: -0.8 * np.log(sigma(g)) - 0.2 * np.log(sigma(-g)),
    ),
    "rdpo": (
        {"loss": "rdpo", "label_smoothing": 0.2},
        lambda x, p, n: 0.1 * x,
        lambda g: (-0.8 * np.log(sigma(g)) + 0.2 * np.log(sigma(-g))) / 0.6,
    ),
    "ipo": ({"loss": "ipo", "beta": 0.25}, lambda x, p, n: x, lambda g: (g - 2.0) ** 2),
    "ipo_mean": ({"loss": "ipo", "length_normalized": True}, lambda x, p, n: x / n, lambda g: (g - 5.0) ** 2),
    "hinge": ({"loss": "hinge"}, lambda x, p, n: 0.1 * x, lambda g: np.maximum(0, 1 - g)),
    "simpo": ({"loss": "simpo", "gamma": 0.3}, lambda x, p, n: 0.1 * p / n, lambda g: -np.log(sigma(g - 0.3))),
    "chi_po": (
        {"loss": "chi_po", "clip": 0.6},
        lambda x, p, n: 0.1 * (np.exp(x) + x),
        lambda g: -np.log(sigma(np.clip(g, -1.2, 1.2))),
    ),
    "hellinger": (
        {"loss": "f_dpo", "divergence": make_divergence("hellinger")},
        lambda x, p, n: 0.1 * (1 - np.exp(-x / 2)),
        lambda g: -np.log(sigma(g)),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_the_mean_over_the_pairs_of_each_list(name):
    changes, rewards_of, term = LOSSES[name]
    random = np.random.default_rng(1)
    own = -random.uniform(5.0, 30.0, (16, 4))
    known = own + random.normal(0.0, 1.5, (16, 4))
    lengths = np.maximum(np.asarray(BATCH.lists.mask.sum(axis=2)), 1)
    rewards = rewards_of(own - known, own, lengths)
    expected = 0.0
    for row in range(16):
        pairs = np.argwhere(BATCH.lists.better[row])
        expected += np.mean([term(rewards[row, i] - rewards[row, j]) for i, j in pairs]) if len(pairs) else 0.0
    batch = dataclasses.replace(BATCH, ref_logprobs=jnp.asarray(known, jnp.float32))
    spec = dataclasses.replace(SPEC, **changes)
    sums = preference.loss_of_logprobs(spec, jnp.asarray(own, jnp.float32), batch)
    assert float(sums.numerator) == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize(("changes", "weight"), [({"nll": 0.3}, 0.3), ({"nll": 0.3, "length_normalized": True}, 0.3)])
def test_likelihood_is_added_of_the_best_answers(changes, weight):
    plain = preference.loss_of_logprobs(dataclasses.replace(SPEC, **{**changes, "nll": 0.0}), logprobs(), BATCH)
    found = preference.loss_of_logprobs(dataclasses.replace(SPEC, **changes), logprobs(), BATCH)
    expected, own = 0.0, np.asarray(logprobs())
    lengths = np.asarray(BATCH.lists.mask.sum(axis=2)) if "length_normalized" in changes else np.ones((16, 4))
    for row in range(16):
        better = np.asarray(BATCH.lists.better[row])
        best = [i for i in range(4) if better[i].any() and not better[:, i].any()]
        expected += np.mean([-own[row, i] / lengths[row, i] for i in best]) if best else 0.0
    assert float(found.numerator - plain.numerator) == pytest.approx(weight * expected, rel=1e-4)


def test_orpo_is_the_likelihood_per_token_and_its_odds():
    spec = dataclasses.replace(SPEC, loss="orpo", lambda_=0.5)
    own = np.asarray(logprobs(), np.float64)
    lengths = np.maximum(np.asarray(BATCH.lists.mask.sum(axis=2)), 1)
    expected = 0.0
    for row in range(16):
        better = np.asarray(BATCH.lists.better[row])
        best = [i for i in range(4) if better[i].any() and not better[:, i].any()]
        if best:
            odds = log_odds(np.exp(np.minimum(own[row] / lengths[row], -1e-6)))
            ratio = np.mean([-np.log(sigma(odds[i] - odds[j])) for i, j in np.argwhere(better)])
            expected += np.mean([-own[row, i] / lengths[row, i] for i in best]) + 0.5 * ratio
    sums = preference.loss_of_logprobs(spec, logprobs(), BATCH)
    assert float(sums.numerator) == pytest.approx(expected, rel=1e-4)
