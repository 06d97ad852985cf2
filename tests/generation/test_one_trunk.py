"""A reward model that is a head on the reference is read from the reference's own forward pass, to the same rollout."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.generation import RolloutSpec, SamplingSpec, sample_rollout
from rlhf_jax.models import EnsembleSpec
from rlhf_jax.types import PromptBatch
from tests.programs import traced

PAD, EOS, SLOTS, MEMBERS = 0, 1, 6, 3


@pytest.fixture(scope="module")
def rolling(spec):
    """Episodes of fixed length that are read up to the first token 4: what is read is less than what there is."""
    return RolloutSpec(
        policy=spec,
        reward=spec,
        reward_bounded=True,
        max_response=SLOTS,
        eos_id=EOS,
        pad_id=PAD,
        sampling=SamplingSpec(temperature=0.7),
        missing_eos_score=None,
        ensemble=EnsembleSpec(MEMBERS, "heads"),
        fixed=True,
        stop_id=4,
    )


@pytest.fixture(scope="module")
def networks(make_params):
    """(policy, value model, reference, heads): rewards of members that lie apart."""
    heads = {"kernel": jnp.asarray(np.random.default_rng(5).normal(size=(MEMBERS, 16)) * 0.3, jnp.float32)}
    value = {"decoder": make_params(1), "head": {"kernel": heads["kernel"][0], "bias": jnp.array(0.1)}}
    return make_params(0), value, make_params(2), heads


@pytest.fixture(scope="module")
def batch(prompts):
    ids, mask = prompts
    return PromptBatch(ids=ids, mask=mask, index=jnp.arange(4), row=jnp.arange(4))


def programs(rolling, networks, batch):
    """The rollout by separate passes and by one, and their arguments."""
    policy, value, reference, heads = networks
    rest = (batch, jax.random.key(0))
    for one, reward in ((False, {"decoder": reference, "head": heads}), (True, {"head": heads})):
        run = partial(
            sample_rollout,
            dataclasses.replace(rolling, one_trunk=one),
            reward_bias=jnp.array(0.0),
            reward_gain=jnp.array(1.0),
        )
        yield run, (policy, value, reference, reward, *rest)


def test_one_pass_gives_the_same_rollout(rolling, networks, batch):
    apart, together = (jax.device_get(jax.jit(run)(*args)) for run, args in programs(rolling, networks, batch))
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), together, apart)
    read = apart.read_mask.sum(axis=1)
    assert read.min() < SLOTS, "some row must be read to less than its end, or the test says little"
    assert len(set(read)) > 1
    assert apart.spread.min() > 1e-3
    assert np.ptp(apart.raw_scores) > 1e-3


def test_the_layers_are_run_once_less(rolling, networks, batch):
    """Of two layers the first is a scan of length 1: prompts, reference, value model and, if another, reward model."""
    counts = [
        sum(
            one.primitive.name == "scan" and one.params["length"] == 1 and one.params["num_carry"]
            for one in traced(run, *args)
        )
        for run, args in programs(rolling, networks, batch)
    ]
    assert counts == [4, 3]
