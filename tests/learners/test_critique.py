"""Critique, then score: the loss against NumPy, what the reward depends on, and generation against teacher forcing."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.learners import critique
from rlhf_jax.learners.critique import Critiques
from rlhf_jax.learners.optimizer import make_optimizer
from rlhf_jax.learners.step import init_state
from rlhf_jax.models import apply_decoder, output_logits, positions_of
from rlhf_jax.objectives.utilities import LogSigmoid, Power
from rlhf_jax.types import CritiqueBatch
from tests.learners import tiny

ROOM = 5
SPEC = critique.CritiqueSpec(
    decoder=tiny.decoder_spec(),
    bounded=True,
    utilities=(LogSigmoid(), Power(gamma=0.5)),
    max_critique=ROOM,
    eos_id=tiny.EOS,
    pad_id=tiny.PAD,
    lm_weight=0.5,
)
OWN = dataclasses.replace(SPEC, own=0.5, first_steps=2)


def critique_batch(seed: int) -> CritiqueBatch:
    """The lists of ``tiny`` with critiques of 1 to 5 tokens; response 1 of list 0 and all of list 2 have none."""
    lists = tiny.rank_batch(seed)
    random = np.random.default_rng([seed, 1])
    shape = (*lists.response_mask.shape, ROOM)
    exists = lists.response_mask.copy()
    exists[0, 1] = exists[2] = False
    mask = (np.arange(ROOM) < random.integers(1, ROOM + 1, shape[:2])[..., None]) & exists[..., None]
    ids = np.where(mask, random.integers(2, tiny.VOCAB, shape), tiny.PAD).astype(np.int32)
    return CritiqueBatch(lists=lists, ids=ids, mask=mask)


BATCH = critique_batch(0)
GIVEN = Critiques(BATCH.ids, BATCH.mask)
PARAMS = tiny.scored_params("float32", 1)
loss_sums = jax.jit(partial(critique.loss_sums, SPEC))
list_rewards = jax.jit(partial(critique.list_rewards, SPEC))
write = jax.jit(partial(critique.write_critiques, SPEC), static_argnums=3)
gradient = jax.jit(jax.grad(lambda params, batch: critique.loss_sums(SPEC, params, batch).numerator))


@jax.jit
def forward(tokens: Any) -> tuple[jax.Array, jax.Array]:
    """Hidden states and logits of one row of real tokens."""
    real = jnp.ones(tokens.shape, bool)
    spec = SPEC.decoder
    hidden = apply_decoder(spec, PARAMS["decoder"], tokens, positions_of(real), real)
    return hidden, output_logits(spec, PARAMS["decoder"], hidden)


def one_row(row: int, column: int, ids: Any, mask: Any) -> tuple[np.ndarray, np.ndarray, int]:
    """(hidden states, log-probabilities) of one row without any padding, and the length of its context."""
    whole, real = tiny.rows_of(BATCH.lists)
    context = whole[row, column][real[row, column]]
    tokens = np.concatenate([context, np.asarray(ids[row, column])[np.asarray(mask[row, column])]])[None]
    hidden, logits = forward(tokens)
    logits = np.asarray(logits[0], np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    logp = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    chosen = logp[np.arange(len(context) - 1, tokens.shape[1] - 1), tokens[0, len(context) :]]
    return np.asarray(hidden[0], np.float64), chosen, len(context)


def utility(index: int, gap: float) -> float:
    if index == 0:
        return -np.log1p(np.exp(-gap))
    return np.sqrt(gap) if gap >= 0.1 else np.sqrt(0.1) + (gap - 0.1) * 0.5 / np.sqrt(0.1)


def test_the_loss_is_that_of_numpy_row_by_row_without_padding() -> None:
    kernel = np.asarray(PARAMS["head"]["kernel"], np.float64)
    total, counted, nll, tokens, pairs = 0.0, 0, 0.0, 0, 0
    for row in range(len(BATCH.ids)):
        rewards, own = {}, []
        for column in range(tiny.LIST_SIZE):
            if not BATCH.mask[row, column].any():
                continue
            hidden, chosen, _ = one_row(row, column, BATCH.ids, BATCH.mask)
            rewards[column] = 1 / (1 + np.exp(-hidden[-1] @ kernel))
            own += list(-chosen)
        gaps = [
            rewards[i] - rewards[j]
            for i in rewards
            for j in rewards
            if BATCH.lists.ranks[row, i] < BATCH.lists.ranks[row, j]
        ]
        if gaps:
            total -= np.mean([utility(BATCH.lists.utility[row], gap) for gap in gaps])
        if own:
            total += 0.5 * np.mean(own)
        counted += bool(gaps or own)
        nll, tokens, pairs = nll + sum(own), tokens + len(own), pairs + len(gaps)
    sums = loss_sums(PARAMS, BATCH)
    assert sums.weight == counted == 13  # of 16: two lists are padding, one has no critique
    assert sums.numerator == pytest.approx(total, rel=1e-5)
    assert sums.metrics["critique_loss"] == (pytest.approx(nll, rel=1e-5), tokens)
    assert sums.metrics["pair_accuracy"][1] == pairs > 20
    assert BATCH.lists.better.sum() > pairs  # comparisons with a response that was not criticised are left out


def test_the_reward_is_read_at_the_end_of_the_critique() -> None:
    found = np.asarray(list_rewards(PARAMS, BATCH.lists, GIVEN))
    kernel = np.asarray(PARAMS["head"]["kernel"], np.float64)
    hidden, _, _ = one_row(3, 2, BATCH.ids, BATCH.mask)
    assert found[3, 2] == pytest.approx(1 / (1 + np.exp(-hidden[-1] @ kernel)), rel=1e-5)

    other = BATCH.ids.copy()
    first = np.zeros_like(BATCH.mask)
    first[..., 0] = True
    other[first & BATCH.mask] = 2 + (other[first & BATCH.mask] - 1) % (tiny.VOCAB - 2)
    changed = np.asarray(list_rewards(PARAMS, BATCH.lists, Critiques(other, BATCH.mask)))
    criticised = BATCH.mask.any(axis=2)
    assert np.all(changed[criticised] != found[criticised])
    # What stands behind the end of a critique is padding, whatever it holds.
    behind = np.where(BATCH.mask, BATCH.ids, 9).astype(np.int32)
    after = np.asarray(list_rewards(PARAMS, BATCH.lists, Critiques(behind, BATCH.mask)))
    np.testing.assert_array_equal(after[BATCH.lists.response_mask], found[BATCH.lists.response_mask])


def test_padding_and_missing_responses_touch_neither_loss_nor_gradient() -> None:
    lists = BATCH.lists
    ids = np.where(lists.mask, lists.ids, 7).astype(np.int32)
    changed = dataclasses.replace(
        BATCH,
        lists=dataclasses.replace(lists, ids=ids),
        ids=np.where(BATCH.mask, BATCH.ids, 11).astype(np.int32),
    )
    a, b = loss_sums(PARAMS, BATCH), loss_sums(PARAMS, changed)
    assert a.numerator == pytest.approx(float(b.numerator), rel=1e-6)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=2e-6), gradient(PARAMS, BATCH), gradient(PARAMS, changed)
    )


def test_prompt_and_response_are_read_not_imitated() -> None:
    """The likelihood alone, by its gradient with respect to each target: with one critique token it is that token's."""
    first = np.zeros_like(BATCH.mask)
    first[1, 0, 0] = True
    one = dataclasses.replace(BATCH, mask=first)
    _, chosen, _ = one_row(1, 0, BATCH.ids, first)
    sums = loss_sums(PARAMS, one)
    assert sums.metrics["critique_loss"] == (pytest.approx(-chosen[0], rel=1e-5), 1)
    assert sums.numerator == pytest.approx(-0.5 * chosen[0], rel=1e-5)  # no pair is left


def test_rewards_may_be_read_after_other_critiques_than_those_imitated() -> None:
    written = write(PARAMS, BATCH.lists, jax.random.key(0), 1.0)
    sums = jax.jit(partial(critique.loss_sums, SPEC))(PARAMS, BATCH, written)
    given = loss_sums(PARAMS, BATCH)
    assert sums.metrics["critique_loss"][0] == pytest.approx(float(given.metrics["critique_loss"][0]))
    assert sums.metrics["pair_accuracy"][1] == BATCH.lists.better.sum()  # the model criticises every response
    rewards = np.asarray(list_rewards(PARAMS, BATCH.lists, written))
    real = BATCH.lists.response_mask
    assert sums.metrics["reward_mean"] == (pytest.approx(rewards[real].sum(), rel=1e-5), real.sum())
    assert not np.allclose(rewards, list_rewards(PARAMS, BATCH.lists, GIVEN))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_generation_is_teacher_forcing_on_the_same_tokens(temperature: float) -> None:
    """Greedy tokens are those that the forced model finds likeliest, and rewards are equal, row by row and unpadded."""
    written = write(PARAMS, BATCH.lists, jax.random.key(5), temperature)
    ids, mask = np.asarray(written.ids), np.asarray(written.mask)
    assert np.array_equal(mask.any(axis=2), BATCH.lists.response_mask)
    assert mask.sum(axis=2).max() == ROOM
    rewards = np.asarray(list_rewards(PARAMS, BATCH.lists, written))
    kernel = np.asarray(PARAMS["head"]["kernel"], np.float64)
    for row, column in np.argwhere(BATCH.lists.response_mask):
        hidden, _, length = one_row(row, column, ids, mask)
        assert rewards[row, column] == pytest.approx(1 / (1 + np.exp(-hidden[-1] @ kernel)), abs=1e-5)
        if temperature == 0:
            logits = output_logits(SPEC.decoder, PARAMS["decoder"], jnp.asarray(hidden, jnp.float32))
            own = ids[row, column][mask[row, column]]
            assert np.array_equal(np.argmax(logits[length - 1 : -1], axis=1), own)
            assert tiny.EOS not in own[:-1]


def test_a_judgement_is_greedy_or_the_mean_over_samples() -> None:
    judge = jax.jit(partial(critique.judge, SPEC), static_argnames="samples")
    key = jax.random.key(3)
    one = judge(PARAMS, BATCH.lists, key, samples=1)
    greedy = write(PARAMS, BATCH.lists, key, 0.0)
    assert np.array_equal(one.first.ids, greedy.ids)
    np.testing.assert_allclose(one.rewards, list_rewards(PARAMS, BATCH.lists, greedy), atol=1e-6)

    three = judge(PARAMS, BATCH.lists, key, samples=3)
    drawn = [write(PARAMS, BATCH.lists, each, 1.0) for each in jax.random.split(key, 3)]
    assert not np.array_equal(drawn[0].ids, drawn[1].ids)
    each = [np.asarray(list_rewards(PARAMS, BATCH.lists, critiques)) for critiques in drawn]
    np.testing.assert_allclose(three.rewards, np.mean(each, axis=0), atol=1e-6)
    assert np.array_equal(three.first.ids, drawn[0].ids)


def test_own_critiques_come_after_the_first_steps_and_depend_on_the_step_alone() -> None:
    optimizer = make_optimizer(tiny.OPTIMIZER)
    state = jax.jit(partial(init_state, optimizer=optimizer))(PARAMS, key=jax.random.key(7))
    update = {
        name: jax.jit(partial(critique.update, spec, optimizer)) for name, spec in (("given", SPEC), ("own", OWN))
    }
    states, metrics = {}, {}
    for name, step in update.items():
        states[name], metrics[name] = [state], []
        for _ in range(4):
            after, found = step(states[name][-1], BATCH)
            states[name].append(after)
            metrics[name].append(found)
    for place in range(2):
        assert metrics["own"][place]["loss"] == pytest.approx(float(metrics["given"][place]["loss"]), rel=1e-6)
    assert metrics["own"][2]["pair_accuracy"] != metrics["given"][2]["pair_accuracy"]
    again, found = update["own"](states["own"][3], BATCH)
    assert found["loss"] == metrics["own"][3]["loss"]
    jax.tree.map(np.testing.assert_array_equal, again.params, states["own"][4].params)
    # At the very step: half of the rewards, about, are read after given critiques.
    longer = metrics["own"][2]["critique_length"] - metrics["given"][2]["critique_length"]
    assert 0 < longer < ROOM
