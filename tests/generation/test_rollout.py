import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, log_softmax

from rlhf_jax.generation import (
    Completions,
    RolloutSpec,
    Sampled,
    SamplingSpec,
    complete,
    ended,
    sample_judged,
    sample_rollout,
    score,
)
from rlhf_jax.generation.rollout import cut, read_part, response_divergences
from rlhf_jax.models import (
    DecoderSpec,
    apply_decoder,
    apply_reward_model,
    apply_value_model,
    init_decoder,
    positions_of,
)
from rlhf_jax.objectives.divergences import ReverseKL
from rlhf_jax.types import PromptBatch
from rlhf_jax.unpadding import ALL, Room

PAD, EOS, VOCAB, SLOTS = 0, 1, 11, 8
ONE, ZERO = jnp.array(1.0), jnp.array(0.0)


@pytest.fixture(scope="module")
def rollout_spec(spec):
    return RolloutSpec(
        policy=spec,
        reward=spec,
        reward_bounded=True,
        max_response=SLOTS,
        eos_id=EOS,
        pad_id=PAD,
        sampling=SamplingSpec(temperature=0.7),
        missing_eos_score=None,
    )


@pytest.fixture(scope="module")
def batch(prompts):
    ids, mask = prompts
    return PromptBatch(ids=ids, mask=mask, index=jnp.array([7, 3, 5, 4]), row=jnp.arange(4))


@pytest.fixture(scope="module")
def scorer(make_params):
    """``scorer(seed)``: a decoder of its own with a scalar head."""

    def make(seed):
        kernel = jnp.asarray(np.random.default_rng(seed).normal(size=16) * 0.3, jnp.float32)
        return {"decoder": make_params(seed), "head": {"kernel": kernel, "bias": jnp.array(0.1)}}

    return make


run = jax.jit(sample_rollout, static_argnums=0)
decode = jax.jit(apply_decoder, static_argnums=0)


def roll(spec, policy, value, reference, reward, batch, bias=ZERO, gain=ONE):
    out = run(spec, policy, value, reference, reward, batch, jax.random.key(0), reward_bias=bias, reward_gain=gain)
    return jax.tree.map(np.asarray, out)


@pytest.fixture(scope="module")
def rollout(rollout_spec, policy, make_params, scorer, batch):
    """Four networks of different parameters, ragged prompts, some rows ended."""
    out = roll(rollout_spec, policy, scorer(1), make_params(2), scorer(3), batch)
    lengths = out.response_mask.sum(axis=1)
    assert lengths.min() < SLOTS
    assert len(set(lengths)) > 1
    return out


def test_each_episode_from_scratch(rollout, spec, policy, make_params, scorer):
    # Every episode in one piece, prompt and answer side by side from slot 0 on.
    ids, mask = np.full((4, 4 + SLOTS), PAD, np.int32), np.zeros((4, 4 + SLOTS), bool)
    starts = rollout.prompt_mask.sum(axis=1)
    lengths = rollout.response_mask.sum(axis=1)
    for row, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        ids[row, :start] = rollout.prompt_ids[row][rollout.prompt_mask[row]]
        ids[row, start : start + length] = rollout.response_ids[row, :length]
        mask[row, : start + length] = True
    positions, causal = positions_of(jnp.asarray(mask)), jnp.asarray(mask)

    def hidden(params):
        return np.asarray(decode(spec, params, jnp.asarray(ids), positions, causal), np.float64)

    def scalar(params):
        return hidden(params["decoder"]) @ np.asarray(params["head"]["kernel"], np.float64) + 0.1

    logprobs = {
        name: log_softmax(hidden(params) @ np.asarray(params["output"], np.float64) / 0.7, axis=-1)
        for name, params in (("logprobs", policy), ("ref_logprobs", make_params(2)))
    }
    values, rewards = scalar(scorer(1)), expit(scalar(scorer(3)))
    for row, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        before = np.arange(start - 1, start + length - 1)  # the token that slot t is predicted from
        for name, everything in logprobs.items():
            chosen = everything[row, before, rollout.response_ids[row, :length]]
            np.testing.assert_allclose(getattr(rollout, name)[row, :length], chosen, atol=2e-5)
        np.testing.assert_allclose(rollout.values[row, :length], values[row, before], atol=2e-5)
        # The reward is read at the end, EOS included.
        assert rollout.raw_scores[row] == pytest.approx(rewards[row, start + length - 1], abs=1e-5)
    np.testing.assert_array_equal(rollout.scores, rollout.raw_scores)
    assert np.ptp(rollout.raw_scores) > 1e-2


def test_values_stand_one_token_before(rollout, spec, scorer):
    # Episode 1, three prompt tokens: slot 0's value is read at the third of them, slot 1's at the first answer token.
    length = int(rollout.response_mask[1].sum())
    tokens = np.concatenate([rollout.prompt_ids[1, 1:], rollout.response_ids[1, :length]])[None]
    values = jax.jit(apply_value_model, static_argnums=0)(
        spec, scorer(1), jnp.asarray(tokens), jnp.ones(tokens.shape, bool)
    )
    np.testing.assert_allclose(rollout.values[1, :length], values[0, 2:-1], atol=1e-5)


def test_nothing_is_left_past_the_end(rollout):
    past = ~rollout.response_mask
    assert past.any()
    for name in ("logprobs", "ref_logprobs", "values"):
        np.testing.assert_array_equal(getattr(rollout, name)[past], 0.0)
    np.testing.assert_array_equal(rollout.response_ids[past], PAD)


def test_the_prompts_come_back_as_they_were(rollout, batch):
    np.testing.assert_array_equal(rollout.prompt_ids, batch.ids)
    np.testing.assert_array_equal(rollout.prompt_mask, batch.mask)
    np.testing.assert_array_equal(rollout.index, (7, 3, 5, 4))


def test_a_policy_that_is_its_own_reference_has_moved_by_nothing(rollout_spec, policy, scorer, batch):
    same = roll(rollout_spec, policy, scorer(1), policy, scorer(3), batch)
    np.testing.assert_allclose(same.ref_logprobs, same.logprobs, atol=1e-5)
    assert same.logprobs.min() < -0.1


def constant_score(scorer, value):
    """A reward model that gives every text the same bounded reward."""
    head = {"kernel": jnp.zeros(16), "bias": jnp.array(np.log(value / (1 - value)), jnp.float32)}
    return scorer(3) | {"head": head}


def ends(out):
    """Which responses hold an EOS of their own; the tests below need both kinds."""
    ended = np.any((out.response_ids == EOS) & out.response_mask, axis=1)
    assert ended.any()
    assert not ended.all()
    return ended


def test_scores_stay_fractional(rollout_spec, policy, scorer, batch):
    out = roll(rollout_spec, policy, scorer(1), policy, constant_score(scorer, 0.73), batch)
    ends(out)
    assert out.scores.dtype == np.float32
    np.testing.assert_allclose(out.raw_scores, 0.73, rtol=1e-5)
    np.testing.assert_allclose(out.scores, 0.73, rtol=1e-5)


def test_gain_and_bias_then_the_missing_end(rollout_spec, policy, scorer, batch):
    # 2 * .73 - 1 = .46; the replacement is in the units of the score and is left as it is. Padding and end
    # of sequence share an id here.
    spec = dataclasses.replace(rollout_spec, missing_eos_score=-0.25, pad_id=EOS)
    reward = constant_score(scorer, 0.73)
    out = roll(spec, policy, scorer(1), policy, reward, batch, bias=jnp.array(-1.0), gain=jnp.array(2.0))
    np.testing.assert_allclose(out.raw_scores, 0.73, rtol=1e-5)
    np.testing.assert_allclose(out.scores, np.where(ends(out), 0.46, -0.25), rtol=1e-5)


def test_an_unbounded_reward_of_a_model_of_another_shape(rollout_spec, policy, batch):
    shape = DecoderSpec(vocab_size=VOCAB, width=8, depth=1, heads=2, kv_heads=1, mlp_width=8)
    shapes = jax.eval_shape(partial(init_decoder, shape), jax.random.key(0))
    decoder = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes)
    small = {"decoder": decoder, "head": {"kernel": jnp.zeros(8), "bias": jnp.array(2.5)}}
    spec = dataclasses.replace(rollout_spec, reward=shape, reward_bounded=False)
    out = roll(spec, policy, small, policy, small, batch)
    np.testing.assert_allclose(out.scores, 2.5, rtol=1e-6)
    np.testing.assert_allclose(out.values[out.response_mask], 2.5, rtol=1e-6)


def test_a_row_number_is_a_random_stream(rollout_spec, policy, batch):
    run = jax.jit(partial(complete, rollout_spec))
    key = jax.random.key(4)
    together = run(policy, batch, key)
    order = jnp.array([3, 1, 0, 2])
    moved = run(policy, jax.tree.map(lambda leaf: leaf[order], batch), key)
    np.testing.assert_array_equal(moved.ids, together.ids[order])
    other = run(policy, dataclasses.replace(batch, row=batch.row + 4), key)
    assert np.any(np.asarray(other.ids) != np.asarray(together.ids))
    assert np.any(np.asarray(run(policy, batch, jax.random.key(5)).ids) != np.asarray(together.ids))


def test_a_response_is_read_up_to_its_stop(rollout_spec):
    """Token 4 at or after slot 2, wherever the policy itself ended; without one all of it is read."""
    random = np.random.default_rng(0)
    mask = np.arange(SLOTS) < random.integers(1, SLOTS + 1, 64)[:, None]
    ids = np.where(mask, random.integers(2, 7, mask.shape), PAD)
    sampled = Completions(jnp.asarray(ids), jnp.asarray(mask), jnp.where(mask, -1.0, 0.0))
    read, finished = read_part(dataclasses.replace(rollout_spec, stop_id=4, stop_after=2), sampled)
    for row in range(64):
        places = [slot for slot in range(2, SLOTS) if mask[row, slot] and ids[row, slot] == 4]
        assert finished[row] == bool(places)
        assert read[row].sum() == (places[0] + 1 if places else mask[row].sum())
    np.testing.assert_array_equal(np.sort(read, axis=1)[:, ::-1], read)
    kept = cut(sampled, read, PAD)
    np.testing.assert_array_equal(kept.ids, np.where(read, ids, PAD))
    np.testing.assert_array_equal(kept.logprobs, np.where(read, -1.0, 0.0))


def test_a_fixed_episode_goes_on_past_what_is_read(rollout_spec, policy, scorer, batch):
    """All its tokens are the policy's, the reward is that of what is read."""
    spec = dataclasses.replace(rollout_spec, fixed=True, missing_eos_score=-1.0, value_after=True)
    out = roll(spec, policy, scorer(1), policy, scorer(3), batch)
    assert out.response_mask.all()
    assert np.all(out.logprobs < 0)
    assert np.all(out.values != 0)
    ended = np.any(out.response_ids == EOS, axis=1)
    assert ended.any()
    np.testing.assert_array_equal(out.finished, ended)
    np.testing.assert_array_equal(out.scores == -1.0, ~ended)
    lengths = np.where(ended, np.argmax(out.response_ids == EOS, axis=1) + 1, SLOTS)
    np.testing.assert_array_equal(out.read_mask, np.arange(SLOTS) < lengths[:, None])
    assert lengths.min() < SLOTS
    ids = np.concatenate([out.prompt_ids, out.response_ids], axis=1)
    mask = np.concatenate([out.prompt_mask, out.read_mask], axis=1)
    read = partial(apply_reward_model, spec.reward, bounded=True)
    rewards = jax.jit(read)(scorer(3), jnp.asarray(np.where(mask, ids, 2)), jnp.asarray(mask))
    np.testing.assert_allclose(out.raw_scores, rewards, atol=1e-5)


@pytest.mark.parametrize("rule", [{"fixed": True}, {"stop_id": 4, "stop_after": 2}])
def test_what_is_read_of_an_answer_does_not_depend_on_there_being_a_judge(rollout_spec, policy, scorer, batch, rule):
    spec = dataclasses.replace(rollout_spec, **rule)
    judge = jax.jit(sample_judged, static_argnums=0)
    with_one, without = (judge(spec, policy, policy, reward, batch, jax.random.key(0)) for reward in (scorer(3), None))
    for name in ("response_ids", "response_mask", "read_mask", "finished", "logprobs", "ref_logprobs"):
        np.testing.assert_array_equal(getattr(without, name), getattr(with_one, name), err_msg=name)
    assert np.isnan(without.scores).all()
    np.testing.assert_array_equal(ended(without, EOS), without.finished)
    assert without.finished.any()
    assert not np.array_equal(without.finished, np.any(without.response_ids == EOS, axis=1)) or spec.fixed


def test_one_network_may_be_policy_and_value_model(rollout_spec, policy, scorer, make_params, batch):
    head = scorer(1)["head"]
    shared = dataclasses.replace(rollout_spec, shared=True)
    one, two = (
        roll(spec, policy, value, make_params(2), scorer(3), batch).values
        for spec, value in ((shared, {"head": head}), (rollout_spec, {"decoder": policy, "head": head}))
    )
    np.testing.assert_array_equal(one, two)
    assert np.ptp(one) > 0


def test_the_exact_divergence_before_each_token(rollout_spec, policy, make_params, rollout):
    """Of the whole softmax at the sampling temperature, by NumPy."""
    ids = jnp.concatenate([rollout.prompt_ids, rollout.response_ids], axis=1)
    mask = jnp.concatenate([rollout.prompt_mask, rollout.response_mask], axis=1)
    spec, other = dataclasses.replace(rollout_spec, divergence=ReverseKL()), make_params(2)
    view = positions_of(mask), mask
    own_hidden, ref_hidden = (decode(spec.policy, params, ids, *view) for params in (policy, other))
    found = jax.jit(partial(response_divergences, spec))(policy, other, own_hidden, ref_hidden)
    logs = [
        log_softmax(np.asarray(hidden, np.float64) @ np.asarray(params["output"], np.float64) / 0.7, axis=-1)
        for hidden, params in ((own_hidden[:, -SLOTS - 1 : -1], policy), (ref_hidden[:, -SLOTS - 1 : -1], other))
    ]
    expected = np.sum(np.exp(logs[0]) * (logs[0] - logs[1]), axis=-1)
    kept = np.asarray(rollout.response_mask)
    np.testing.assert_allclose(np.asarray(found)[kept], expected[kept], atol=2e-5)
    assert expected[kept].min() > 0


def test_scores_by_tokens_alone_are_those_by_all_slots(rollout_spec, policy, make_params, scorer, batch, rollout):
    spec = dataclasses.replace(rollout_spec, divergence=ReverseKL(), value_after=True)
    read = jnp.asarray(rollout.response_mask)
    completions = Completions(jnp.asarray(rollout.response_ids), read, jnp.asarray(rollout.logprobs))
    models = policy, scorer(1), make_params(2), scorer(3)
    given = batch, Sampled(completions, read, jnp.ones(len(read), bool))
    tokens, responses = int(batch.mask.sum() + read.sum()), int(read.sum())
    assert tokens < batch.mask.size + read.size
    found, expected = (
        jax.jit(partial(score, spec, reward_bias=ZERO, reward_gain=ONE, room=room))(*models, *given)
        for room in (Room(tokens + 1, responses), ALL)
    )
    slots = np.arange(SLOTS) <= rollout.response_mask.sum(axis=1)[:, None]  # those with a value
    assert np.all(np.asarray(expected.values)[slots] != 0)
    for name in ("ref_logprobs", "values", "raw_scores", "scores"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-5, err_msg=name)
    np.testing.assert_allclose(
        np.asarray(found.divergences)[rollout.response_mask],
        np.asarray(expected.divergences)[rollout.response_mask],
        atol=1e-5,
    )
