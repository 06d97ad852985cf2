"""Best-of-n: candidates that depend on prompt and sample alone, scores of every member, the best of them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.generation import RolloutSpec, SamplingSpec
from rlhf_jax.generation.best_of_n import Candidates, best, sample_candidates, sample_scored
from rlhf_jax.models import EnsembleSpec, apply_reward_model
from rlhf_jax.types import PromptBatch

PAD, EOS, VOCAB, SLOTS, MEMBERS = 0, 1, 11, 6, 3


@pytest.fixture(scope="module")
def parts(spec, policy, make_params, prompts):
    """(spec, reward members, prompts as NumPy, sampler)."""
    rolling = RolloutSpec(
        policy=spec,
        reward=spec,
        reward_bounded=True,
        max_response=SLOTS,
        eos_id=EOS,
        pad_id=PAD,
        sampling=SamplingSpec(),
        missing_eos_score=None,
        ensemble=EnsembleSpec(MEMBERS, "models"),
    )
    members = [
        {
            "decoder": make_params(seed),
            "head": {"kernel": jnp.asarray(np.random.default_rng(seed).normal(size=16) * 0.3, jnp.float32)},
        }
        for seed in range(1, MEMBERS + 1)
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    ids, mask = (np.asarray(leaf) for leaf in prompts)
    batch = PromptBatch(ids=ids, mask=mask, index=np.arange(4, dtype=np.int32), row=np.arange(4, dtype=np.int32))

    @partial(jax.jit, static_argnums=1)
    def run(rows, together):
        return sample_scored(rolling, policy, stacked, rows, jax.random.key(3), together=together)

    return spec, members, batch, lambda rows, together=1: run(jax.tree.map(jnp.asarray, rows), together)


def test_candidates_do_not_depend_on_n_or_on_the_rows_at_once(parts):
    _, _, batch, sampler = parts
    many = sample_candidates(sampler, batch, n=5, rows=8)
    assert many.ids.shape == (4, 5, SLOTS)
    assert many.members.shape == (4, 5, MEMBERS)
    few = sample_candidates(sampler, batch, n=2, rows=3)
    np.testing.assert_array_equal(few.ids, many.ids[:, :2])
    np.testing.assert_array_equal(few.mask, many.mask[:, :2])
    np.testing.assert_allclose(few.members, many.members[:, :2], atol=1e-6)
    side = sample_candidates(partial(sampler, together=2), batch, n=4, rows=12, together=2)  # 16 rows in two batches
    np.testing.assert_array_equal(side.ids, many.ids[:, :4])
    np.testing.assert_allclose(side.members, many.members[:, :4], atol=1e-6)
    assert len({tuple(row) for row in many.ids.reshape(20, SLOTS)}) > 15, "every candidate has a stream of its own"


def test_every_candidate_has_the_reward_of_every_member(parts):
    spec, members, batch, sampler = parts
    found = sample_candidates(sampler, batch, n=3, rows=12)
    score = jax.jit(apply_reward_model, static_argnums=0, static_argnames="bounded")
    for place in range(4):
        ids = np.concatenate([np.repeat(batch.ids[place][None], 3, axis=0), found.ids[place]], axis=1)
        mask = np.concatenate([np.repeat(batch.mask[place][None], 3, axis=0), found.mask[place]], axis=1)
        for number, member in enumerate(members):
            wanted = score(spec, member, jnp.asarray(ids), jnp.asarray(mask), bounded=True)
            np.testing.assert_allclose(found.members[place, :, number], wanted, atol=1e-5)


def test_the_best_by_each_aggregate_and_the_first_of_equals():
    members = np.array([[[0.9, 0.1], [0.45, 0.45], [0.45, 0.45]]])
    nothing = np.zeros((1, 3, 2))
    found = Candidates(nothing.astype(np.int32), nothing.astype(bool), members)
    assert best(found.scores()).tolist() == [0]
    assert best(found.scores("worst")).tolist() == [1]
    assert best(found.scores("lower", 0.2)).tolist() == [1]
    assert best(found.scores("lower", 0.1)).tolist() == [0]  # 0.5 - 0.1 x 0.4 = 0.46
