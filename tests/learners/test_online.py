"""Lists of a policy's own answers: how they are ranked, and on a bandit what is imitated and where the policy goes."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.generation import RolloutSpec, SamplingSpec, sample_judged
from rlhf_jax.learners import online
from rlhf_jax.learners.optimizer import OptimizerSpec, make_optimizer
from rlhf_jax.learners.preference import PreferenceSpec
from rlhf_jax.learners.step import init_state
from rlhf_jax.models import apply_decoder, output_logits, positions_of
from rlhf_jax.types import PromptBatch
from tests.learners import tiny

SPEC = online.OnlineSpec(PreferenceSpec(tiny.decoder_spec()), samples=4)


def test_answers_are_compared_within_their_prompt_and_equal_scores_are_ties():
    rollout = tiny.fixed_rollout(0)
    scores = jnp.array([0.3, 0.9, 0.3, -1.0, *[0.5] * 4, *range(8)], jnp.float32)
    index = rollout.index.at[12:].set(-1)  # the last list is padding
    batch = online.ranked_lists(SPEC, dataclasses.replace(rollout, scores=scores, index=index))
    np.testing.assert_array_equal(batch.lists.ranks[0], [1, 0, 1, 3])
    expected = np.zeros((4, 4), bool)
    for i, j in ((0, 3), (1, 0), (1, 2), (1, 3), (2, 3)):
        expected[i, j] = True
    np.testing.assert_array_equal(batch.lists.better[0], expected)
    assert not batch.lists.better[1].any()
    assert batch.lists.tied[1].sum() == 12
    assert batch.lists.better[2].sum() == 6
    assert not batch.lists.better[3].any()
    np.testing.assert_array_equal(batch.lists.mask.sum(axis=2).ravel(), rollout.response_mask.sum(axis=1))
    own = np.where(rollout.response_mask, rollout.ref_logprobs, 0.0).sum(axis=1)
    np.testing.assert_allclose(batch.ref_logprobs.ravel(), own, rtol=1e-5)
    free = online.ranked_lists(dataclasses.replace(SPEC, referenced=False), rollout)
    assert not free.ref_logprobs.any()


def test_the_best_answer_stands_alone():
    rollout = tiny.fixed_rollout(0)
    scores = jnp.array([0.3, 0.9, 0.3, -1.0, *[0.5] * 4, *range(8)], jnp.float32)
    lists = online.ranked_lists(SPEC, dataclasses.replace(rollout, scores=scores))
    best = online.best_answers(lists)
    for row, column in enumerate((1, 0, 3, 3)):
        for name in ("ids", "mask", "response_mask"):
            np.testing.assert_array_equal(getattr(best.lists, name)[row, 0], getattr(lists.lists, name)[row, column])
        assert best.ref_logprobs[row, 0] == lists.ref_logprobs[row, column]


def test_answers_end_by_the_rule_of_the_rollout_or_by_the_end_of_sequence():
    rollout = tiny.fixed_rollout(0)
    lists = online.ranked_lists(SPEC, rollout)
    by_eos = np.any(np.asarray(rollout.response_ids) == tiny.EOS, axis=1)
    assert 0 < by_eos.mean() < 1
    assert online.rollout_metrics(lists, rollout, tiny.EOS)["eos_fraction"] == by_eos.mean()
    told = dataclasses.replace(rollout, finished=jnp.arange(len(by_eos)) < 2)
    assert online.rollout_metrics(lists, told, tiny.EOS)["eos_fraction"] == 2 / len(by_eos)


# --------------------------------------------------- one prompt, one token: a bandit with as many arms as words

PROMPTS, ANSWERS = 128, 4
ROLLOUT = RolloutSpec(
    policy=tiny.decoder_spec(),
    reward=tiny.decoder_spec(),
    reward_bounded=False,
    max_response=1,
    eos_id=tiny.EOS,
    pad_id=tiny.PAD,
    sampling=SamplingSpec(),
    missing_eos_score=None,
)
WORTH = jnp.asarray(np.random.default_rng(3).permutation(tiny.VOCAB) / tiny.VOCAB, jnp.float32)  # all different


def prompts(count):
    ids = np.full((count * ANSWERS, 2), 5, np.int32)
    row = np.arange(count * ANSWERS, dtype=np.int32)
    batch = PromptBatch(ids=ids, mask=np.ones_like(ids, bool), index=row // ANSWERS, row=row)
    return jax.tree.map(jnp.asarray, batch)


def start():
    return jax.tree.map(lambda x: x * 0.8, tiny.decoder_params("float32", 0))


@partial(jax.jit, static_argnums=2)
def sampled(params, key, count=PROMPTS):
    rollout = sample_judged(ROLLOUT, params, start(), None, prompts(count), key)
    worth = WORTH[rollout.response_ids[:, 0]]
    return dataclasses.replace(rollout, scores=worth, raw_scores=worth)


@jax.jit
def policy(params):
    ids = jnp.full((1, 2), 5)
    mask = jnp.ones((1, 2), bool)
    hidden = apply_decoder(ROLLOUT.policy, params, ids, positions_of(mask), mask)
    return jax.nn.log_softmax(output_logits(ROLLOUT.policy, params, hidden)[0, -1])


def test_what_expert_iteration_first_imitates_is_the_best_of_n_policy():
    """F(y)^n - F(y^-)^n, F the distribution of the reward under the policy; rewards are all different."""
    count = 4096
    rollout = sampled(start(), jax.random.key(1), count)
    best = online.best_answers(online.ranked_lists(SPEC, rollout))
    tokens = np.asarray(best.lists.ids[:, 0, 0])
    p = np.exp(np.asarray(policy(start()), np.float64))
    order = np.argsort(WORTH)
    below = np.concatenate([[0.0], np.cumsum(p[order])])
    exact = np.zeros(tiny.VOCAB)
    exact[order] = np.diff(below**ANSWERS)
    found = np.bincount(tokens, minlength=tiny.VOCAB) / count
    error = np.sqrt(exact * (1 - exact) / count)
    assert np.all(np.abs(found - exact) < 4.5 * error + 1e-3)
    assert np.abs(exact - p).max() > 0.1  # it is another policy
    np.testing.assert_allclose(np.exp(rollout.logprobs[:64, 0]), p[np.asarray(rollout.response_ids[:64, 0])], rtol=1e-3)


@pytest.mark.parametrize("method", ["preference", "expert"])
def test_the_policy_goes_where_its_method_leads(method):
    """Online DPO towards ref e^(r / beta) / Z; expert iteration towards better answers."""
    beta = 0.2
    preference = PreferenceSpec(tiny.decoder_spec(), beta=beta)
    spec = online.OnlineSpec(preference, samples=ANSWERS, method=method, epochs=2, minibatches=2)
    optimizer = make_optimizer(OptimizerSpec(learning_rate=2e-3, steps=40, warmup=0, schedule="constant"))
    state = init_state(start(), optimizer, jax.random.key(2))
    update = jax.jit(partial(online.update, spec, optimizer, tiny.EOS))
    tilted = jax.nn.log_softmax(policy(start()) + WORTH / beta)

    def away(params):
        own = policy(params)
        return float(jnp.sum(jnp.exp(own) * (own - tilted)))

    first, worth = away(state.params), []
    for _ in range(6):
        state, metrics = update(state, sampled(state.params, online.step_keys(state)[0]))
        worth.append(float(metrics["reward.mean"]))
    assert worth[-1] > worth[0] + 0.03
    assert metrics["reward.best"] > metrics["reward.mean"]
    if method == "preference":
        assert away(state.params) < 0.8 * first
    assert int(state.step) == 6


def test_every_other_iteration_the_policy_becomes_the_reference():
    spec = dataclasses.replace(SPEC, reference_every=2)
    optimizer = make_optimizer(tiny.OPTIMIZER)
    state = init_state(start(), optimizer, jax.random.key(2), {"reference": start()})
    update = jax.jit(partial(online.update, spec, optimizer, tiny.EOS))
    references = []
    for _ in range(3):
        state, _ = update(state, tiny.fixed_rollout(0))
        references.append((state.extra["reference"]["embedding"], state.params["embedding"]))
    np.testing.assert_array_equal(references[0][0], start()["embedding"])
    np.testing.assert_array_equal(references[1][0], references[1][1])
    np.testing.assert_array_equal(references[2][0], references[1][1])
    assert np.abs(references[2][0] - references[2][1]).max() > 0
