from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from rlhf_jax.generation import SamplingSpec, decode, generate, response_logprobs
from rlhf_jax.generation import prompts as reading
from rlhf_jax.models import apply_decoder, extend_cache, fill_cache, output_logits, positions_of

PAD, EOS, VOCAB, SLOTS = 0, 1, 11, 8
WARM = SamplingSpec(temperature=0.7)
GREEDY = SamplingSpec(temperature=0.0)


@pytest.fixture(scope="module")
def many_prompts(prompts):
    return tuple(jnp.tile(x, (16, 1)) for x in prompts)


def keys(rows, seed=0):
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(rows))


run = jax.jit(generate, static_argnums=0, static_argnames=("max_new_tokens", "sampling", "eos_id", "pad_id"))


def sample(spec, params, prompts, row_keys=None, sampling=WARM, slots=SLOTS, run=run):
    ids, mask = prompts
    row_keys = keys(len(ids)) if row_keys is None else row_keys
    out = run(spec, params, ids, mask, row_keys, max_new_tokens=slots, sampling=sampling, eos_id=EOS, pad_id=PAD)
    return jax.tree.map(np.asarray, out)


recomputed = jax.jit(response_logprobs, static_argnums=0, static_argnames=("response_length", "temperature"))


def whole_rows(prompts, out):
    ids, mask = prompts
    return jnp.concatenate([ids, out.ids], axis=1), jnp.concatenate([mask, out.mask], axis=1)


@pytest.mark.parametrize("sampling", [WARM, SamplingSpec(1.3, top_k=6, top_p=0.8), GREEDY], ids=repr)
def test_logprobs_while_sampling_are_those_of_training(spec, policy, prompts, sampling):
    out = sample(spec, policy, prompts, sampling=sampling)
    ids, mask = whole_rows(prompts, out)
    again = recomputed(spec, policy, ids, mask, response_length=SLOTS, temperature=sampling.temperature or 1.0)
    assert out.mask.sum() > 8
    np.testing.assert_allclose(out.logprobs[out.mask], np.asarray(again)[out.mask], atol=1e-5, rtol=1e-5)
    np.testing.assert_array_equal(out.logprobs[~out.mask], 0.0)
    assert np.all(out.logprobs[out.mask] < 0)
    assert np.ptp(out.logprobs[out.mask]) > 0.1


def test_logprobs_of_a_known_distribution(constant_spec, constant_policy, many_prompts):
    logits = np.linspace(-1.0, 1.0, VOCAB)
    out = sample(constant_spec, constant_policy(logits), many_prompts)
    expected = log_softmax(logits / 0.7)[out.ids]
    np.testing.assert_allclose(out.logprobs[out.mask], expected[out.mask], rtol=1e-5)


def test_greedy_is_the_loop_without_a_cache(spec, policy, prompts):
    out = sample(spec, policy, prompts, sampling=GREEDY)
    ids, mask = (np.asarray(x) for x in prompts)
    length = ids.shape[1] + SLOTS

    @jax.jit
    def next_logits(row, count):
        """From scratch, one row, right-padded: causality keeps the padding out."""
        mask = (jnp.arange(length) < count)[None]
        hidden = apply_decoder(spec, policy, row[None], positions_of(mask), mask)
        return output_logits(spec, policy, hidden[0, count - 1])

    for row in range(len(ids)):
        tokens = ids[row][mask[row]].tolist()
        answer = []
        while len(answer) < SLOTS and EOS not in answer:
            padded = np.full(length, PAD, np.int32)
            padded[: len(tokens)] = tokens
            answer.append(int(np.argmax(next_logits(padded, len(tokens)))))
            tokens.append(answer[-1])
        assert out.ids[row][out.mask[row]].tolist() == answer


def test_a_row_depends_on_nothing_but_itself_and_its_key(spec, policy, prompts):
    ids, mask = prompts
    together = sample(spec, policy, prompts)
    order = np.array([2, 0, 3, 1])
    moved = sample(spec, policy, (ids[order], mask[order]), row_keys=keys(4)[order])
    for name in ("ids", "mask"):
        np.testing.assert_array_equal(getattr(moved, name), getattr(together, name)[order])
    np.testing.assert_allclose(moved.logprobs, together.logprobs[order], atol=1e-5)
    # Alone, and with more padding before it.
    for row in (0, 1, 3):
        one = jnp.pad(ids[row : row + 1], ((0, 0), (3, 0))), jnp.pad(mask[row : row + 1], ((0, 0), (3, 0)))
        alone = sample(spec, policy, one, row_keys=keys(4)[row : row + 1])
        np.testing.assert_array_equal(alone.ids[0], together.ids[row])


def test_the_same_prompt_under_other_keys_is_answered_otherwise(spec, policy, prompts):
    ids, mask = (jnp.repeat(x[:1], 4, axis=0) for x in prompts)
    out = sample(spec, policy, (ids, mask))
    assert len({tuple(row) for row in out.ids.tolist()}) > 1


def test_an_answer_ends_with_its_first_eos(constant_spec, constant_policy, many_prompts):
    # At the temperature EOS has a quarter of the mass: lengths are geometric, and (3/4)^8 = .1 of 64 rows do not end in
    # 8 tokens.
    logits = np.full(VOCAB, np.log(0.75 / (VOCAB - 1)))
    logits[EOS] = np.log(0.25)
    out = sample(constant_spec, constant_policy(0.7 * logits), many_prompts)
    ended = 0
    for row, kept in zip(out.ids.tolist(), out.mask.tolist(), strict=True):
        length = row.index(EOS) + 1 if EOS in row else SLOTS
        ended += EOS in row
        assert kept == [True] * length + [False] * (SLOTS - length)
        assert row[length:] == [PAD] * (SLOTS - length)
    assert 40 < ended < 64
    # 64 draws of mean (1 - .75^8) / .25 = 3.6 and deviation < 3
    assert out.mask.sum(axis=1).mean() == pytest.approx(3.6, abs=1.2)


def test_the_token_is_drawn_anew_at_every_slot(constant_spec, constant_policy, many_prompts):
    logits = np.zeros(VOCAB)
    logits[EOS] = -1e9
    out = sample(constant_spec, constant_policy(logits), many_prompts)
    assert out.mask.all()
    assert min(len(set(row)) for row in out.ids.tolist()) > 2


def test_decoding_stops_when_every_row_has_ended(constant_spec, constant_policy, prompts, monkeypatch):
    calls = []

    def counted(function, *args, **kwargs):
        jax.debug.callback(lambda: calls.append(1))
        return function(*args, **kwargs)

    for room, function in ((reading, fill_cache), (decode, extend_cache)):
        monkeypatch.setattr(room, function.__name__, partial(counted, function))
    # A program of its own: the other tests' has no counter in it.
    names = ("max_new_tokens", "sampling", "eos_id", "pad_id")
    counting = jax.jit(lambda *args, **kwargs: generate(*args, **kwargs), static_argnums=0, static_argnames=names)
    for eos_logit, forwards in ((100.0, 1), (-100.0, SLOTS)):
        calls.clear()
        logits = np.zeros(VOCAB)
        logits[EOS] = eos_logit
        out = sample(constant_spec, constant_policy(logits), prompts, run=counting)
        jax.effects_barrier()
        assert len(calls) == forwards
        assert out.mask.sum(axis=1).tolist() == [forwards] * 4
        if forwards == 1:
            np.testing.assert_array_equal(out.ids, [[EOS] + [PAD] * (SLOTS - 1)] * 4)


def test_one_slot_and_an_empty_prompt_are_fine(spec, policy, prompts):
    ids, mask = prompts
    out = sample(spec, policy, (ids, mask.at[0].set(False)), slots=1)
    assert out.ids.shape == (4, 1)
    assert out.mask.all()
    assert np.all(np.isfinite(out.logprobs))


def test_of_prompts_the_last_layer_is_worked_on_for_the_token_that_is_drawn_from(spec, policy, prompts):
    """What the compiler counts: beside its keys and values, the layer's products of all other tokens are left out."""
    ids, mask = prompts

    def flops(read):
        return jax.jit(read).lower(policy).compile().cost_analysis()["flops"]

    whole = flops(lambda params: fill_cache(spec, params, ids, positions_of(mask), mask, SLOTS))
    own = flops(lambda params: reading.read_prompts(spec, params, ids, mask, SLOTS, 1))
    matrices = spec.heads * spec.head_dim * spec.width + 3 * spec.width * spec.mlp_width
    assert whole - own > 0.9 * 2 * matrices * (ids.size - len(ids))
