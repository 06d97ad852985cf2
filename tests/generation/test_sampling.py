from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import chisquare

from rlhf_jax.generation import SamplingSpec, sample_token
from rlhf_jax.generation.sampling import draw_index

DRAWS = 20_000


def draw(spec, logits, seed=0):
    keys = jax.random.split(jax.random.key(seed), DRAWS)
    return np.asarray(jax.jit(jax.vmap(partial(sample_token, spec), (0, None)))(keys, jnp.asarray(logits, jnp.float32)))


def fits(tokens, probabilities):
    """The p-value of Pearson's test over the tokens of positive probability; no other token may have been drawn."""
    counts = np.bincount(tokens, minlength=len(probabilities))
    possible = np.asarray(probabilities) > 0
    assert counts[~possible].sum() == 0
    if possible.sum() == 1:
        return 1.0
    return chisquare(counts[possible], np.asarray(probabilities)[possible] * len(tokens)).pvalue


LOGITS = np.array([0.3, 2.0, -1.0, 1.2, 0.0, 1.9])


def test_temperature_zero_is_the_most_probable_token_whatever_the_key():
    assert set(draw(SamplingSpec(temperature=0.0), LOGITS)) == {1}


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.5])
def test_frequencies_are_the_softmax(temperature):
    tokens = draw(SamplingSpec(temperature=temperature), LOGITS)
    assert fits(tokens, softmax(LOGITS / temperature)) > 1e-3
    # The test has power: another temperature is told apart.
    assert fits(tokens, softmax(LOGITS / (temperature * 1.2))) < 1e-3


def test_top_k_keeps_the_k_most_probable_in_proportion():
    # The three largest are 1, 5 and 3.
    probabilities = np.where(np.isin(np.arange(6), (1, 5, 3)), np.exp(LOGITS), 0.0)
    assert fits(draw(SamplingSpec(top_k=3), LOGITS), probabilities / probabilities.sum()) > 1e-3
    assert set(draw(SamplingSpec(top_k=1), LOGITS)) == {1}
    assert fits(draw(SamplingSpec(top_k=100), LOGITS), softmax(LOGITS)) > 1e-3


@pytest.mark.parametrize(
    ("top_p", "kept"),
    # p = .1 .4 .2 .25 .05; descending .4 .65 .85 .95 1: the smallest set reaching top_p
    [(0.3, [1]), (0.5, [1, 3]), (0.8, [1, 3, 2]), (0.9, [1, 3, 2, 0]), (0.97, [0, 1, 2, 3, 4]), (1.0, [0, 1, 2, 3, 4])],
)
def test_top_p_keeps_the_smallest_nucleus(top_p, kept):
    p = np.array([0.1, 0.4, 0.2, 0.25, 0.05])
    nucleus = np.where(np.isin(np.arange(5), kept), p, 0.0)
    assert fits(draw(SamplingSpec(top_p=top_p), np.log(p)), nucleus / nucleus.sum()) > 1e-3


def test_the_nucleus_is_taken_among_the_top_k_and_at_the_temperature():
    # At temperature 1/2 the weights .1 .4 .2 .25 .05 square: 1 16 4 6.25 .25 / 100; of the top three, 16 6.25 4 of
    # 26.25, .61 of the mass is token 1 and .848 tokens 1 and 3: top_p = .8 keeps these two, 16 to 6.25.
    p = np.array([0.1, 0.4, 0.2, 0.25, 0.05])
    tokens = draw(SamplingSpec(temperature=0.5, top_k=3, top_p=0.8), np.log(p))
    assert fits(tokens, np.array([0.0, 16.0, 0.0, 6.25, 0.0]) / 22.25) > 1e-3


def test_an_index_has_the_share_of_all_pairs_of_numbers_that_its_weight_has():
    """Exact enumeration: of a grid of 1,000 x 1,000 numbers each index is given the part of its weight, to a line."""
    weights = np.array([0.0, 3.0, 0.0, 1.0, 0.5, 0.0, 0.0, 2.0, 7.0, 0.0, 0.25])  # blocks of 4, the last not full
    grid = (np.arange(1000, dtype=np.float32) + 0.5) / 1000
    pairs = jnp.stack(jnp.meshgrid(grid, grid, indexing="ij"), axis=-1).reshape(-1, 2)
    found = np.asarray(jax.vmap(draw_index, (0, None))(pairs, jnp.asarray(weights, jnp.float32)))
    shares = np.bincount(found, minlength=len(weights)) / len(pairs)
    np.testing.assert_allclose(shares, weights / weights.sum(), atol=2e-3)
    np.testing.assert_array_equal(shares[weights == 0], 0.0)


def test_the_ends_of_the_unit_interval_draw_the_first_and_the_last_of_positive_weight():
    weights = jnp.asarray([0.0, 0.0, 3.0, 0.0, 1e-30, 2.0, 1e-6, 0.0, 0.0, 0.0], jnp.float32)
    last = np.nextafter(np.float32(1), np.float32(0))
    assert int(draw_index(jnp.zeros(2), weights)) == 2
    assert int(draw_index(jnp.full(2, last), weights)) in (5, 6)
    assert int(draw_index(jnp.full(2, last), jnp.zeros(10).at[3].set(1e-20))) == 3


def test_frequencies_over_a_vocabulary_of_many_blocks():
    """5,003 tokens in groups of 61 neighbours (and of every 61st), each of which is drawn as often as it should be."""
    logits = 2 * np.random.default_rng(0).normal(size=5003)
    tokens, p = draw(SamplingSpec(), logits), softmax(logits)
    for group in (np.arange(5003) // 61, np.arange(5003) % 61):
        assert fits(group[tokens], np.bincount(group, p)) > 1e-3
    assert fits((np.arange(5003) // 61)[tokens], np.bincount(np.arange(5003) // 61, softmax(1.2 * logits))) < 1e-3


@pytest.mark.parametrize(("top_k", "top_p"), [(40, 1.0), (0, 0.6), (40, 0.6), (1, 0.5), (0, 1e-9)])
def test_no_other_token_is_drawn_than_a_sort_keeps(top_k, top_p):
    logits = np.round(3 * np.random.default_rng(1).normal(size=300), 1)  # with ties
    order = np.argsort(-logits, kind="stable")
    kept = logits >= np.sort(logits)[-top_k or 0]
    p = np.where(kept, np.exp(logits), 0.0) / np.exp(logits)[kept].sum()
    before = np.cumsum(p[order]) - p[order]
    kept &= logits >= logits[order][before < top_p].min()
    p = np.where(kept, p, 0.0)
    assert fits(draw(SamplingSpec(top_k=top_k, top_p=top_p), logits), p / p.sum()) > 1e-3
    assert kept.sum() < 100


@pytest.mark.parametrize("vocabulary", [50, 257])
def test_logits_that_are_no_numbers_give_a_token_of_the_vocabulary(vocabulary: int) -> None:
    """The step is skipped for them, but its tokens are decoded."""
    token = sample_token(SamplingSpec(), jax.random.key(0), jnp.full(vocabulary, jnp.nan))
    assert 0 <= int(token) < vocabulary


def test_a_temperature_may_be_tiny() -> None:
    """Logits over it would overflow; their differences from the largest one say all."""
    logits = jnp.asarray([10.0, 30.0, 20.0])
    assert int(sample_token(SamplingSpec(temperature=2e-38), jax.random.key(0), logits)) == 1


def test_no_draw_is_of_the_very_first_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token of a chance of 1e-30 stands first: a draw of 0 would be it."""
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape, dtype: jnp.zeros(shape, dtype))
    logits = jnp.asarray([-69.0, 0.0, 0.0, 0.0])
    assert int(sample_token(SamplingSpec(), jax.random.key(0), logits)) == 1
