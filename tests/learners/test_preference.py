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
from rlhf_jax.models import apply_decoder, causal_mask, output_logits, positions_of
from tests.learners import tiny

SPEC = preference.PreferenceSpec(tiny.decoder_spec())
BATCH = jax.tree.map(jnp.asarray, tiny.preference_batch(0))


@functools.cache
def logprobs():
    return jax.jit(partial(preference.response_logprobs, SPEC))(tiny.decoder_params("float32", 0), BATCH)


def test_a_response_has_the_sum_of_its_tokens_log_probabilities():
    """One row by itself, token by token."""
    row, column = 2, 1
    ids, mask = BATCH.lists.ids[row, column][None], BATCH.lists.mask[row, column][None]
    params = tiny.decoder_params("float32", 0)
    hidden, _ = apply_decoder(SPEC.decoder, params, ids, positions_of(mask), causal_mask(mask))
    table = jax.nn.log_softmax(output_logits(SPEC.decoder, params, hidden)[0])
    own = sum(float(table[t - 1, ids[0, t]]) for t in range(2, int(mask.sum())))
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
    length = float(batch.targets[1, 1].sum())
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
