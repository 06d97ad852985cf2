"""An ensemble is so many runs: the same parameters, step by step, and no member feels another."""

import functools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import poisson

from rlhf_jax.learners import ensemble, reward
from rlhf_jax.learners.optimizer import make_optimizer
from rlhf_jax.learners.step import init_state, train_step
from rlhf_jax.models import EnsembleSpec, apply_reward_model, init_reward_model, representative, with_decoder
from rlhf_jax.objectives.utilities import LogSigmoid, Power
from tests.learners import tiny

SPEC = reward.RewardSpec(tiny.decoder_spec(), bounded=True, utilities=(LogSigmoid(), Power(gamma=0.5)))
MEMBERS = 3
init = jax.jit(init_reward_model, static_argnums=(0, 2))
logits_of = jax.jit(partial(apply_reward_model, bounded=False), static_argnums=0)
BATCHES = [jax.tree.map(jnp.asarray, tiny.rank_batch(i)) for i in range(4)]
KEY = jax.random.key(9)


def stacked(seeds: range) -> Any:
    """Whole models of these seeds along a leading axis, far enough apart."""
    members = [tiny.scored_params("float32", seed) for seed in seeds]
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *members)


OPTIMIZER = make_optimizer(tiny.OPTIMIZER)


def ensemble_loss(kind: str, key: Any = None) -> Any:
    rewards_of = partial(reward.member_rewards, SPEC, EnsembleSpec(MEMBERS, kind))
    return partial(ensemble.loss_sums, rewards_of, partial(reward.loss_of_rewards, SPEC), key)


@partial(jax.jit, static_argnums=0)
def member_rewards(form: EnsembleSpec, params: Any, batch: Any) -> jax.Array:
    return reward.member_rewards(SPEC, form, params, batch)


def alone(own: Any, batch_and_counts: Any) -> Any:
    """One model by itself, its lists counted so often."""
    batch, counts = batch_and_counts
    return reward.loss_of_rewards(SPEC, reward.list_rewards(SPEC, own, batch), batch, counts)


@functools.cache
def compiled(which: str) -> Any:
    """The step of the ensemble ("plain" or "resampled") or of one model ("alone")."""
    if which == "alone":
        return jax.jit(partial(train_step, alone, OPTIMIZER))
    loss = ensemble_loss("models", KEY if which == "resampled" else None)
    return jax.jit(partial(train_step, loss, ensemble.per_member(OPTIMIZER), norm=ensemble.mean_norm))


def train(which: str, params: Any, batches: Any = BATCHES) -> tuple[Any, list[Any]]:
    step = compiled(which)
    state = init_state(params, OPTIMIZER if which == "alone" else ensemble.per_member(OPTIMIZER), KEY)
    rows = []
    for batch in batches:
        state, metrics = step(state, batch)
        rows.append(jax.device_get(metrics))
    assert step._cache_size() == 1, "compiled once, for every member and step"
    return state.params, rows


def test_resampled_losses_are_sums_over_lists() -> None:
    """Accumulation may take them in parts: how often a list counts comes from its place in the split."""
    loss = jax.jit(ensemble_loss("heads", KEY))
    params = {"decoder": tiny.decoder_params("float32", 0), "head": stacked(range(MEMBERS))["head"]}
    whole = loss(params, BATCHES[0])
    parts = [loss(params, jax.tree.map(lambda leaf, i=i: leaf[i::4], BATCHES[0])) for i in range(4)]
    assert len({float(part.numerator) for part in parts}) == 4
    total = jax.tree.map(lambda *leaves: sum(map(np.asarray, leaves)), *parts)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), total, whole)


@pytest.mark.parametrize("which", ["plain", "resampled"])
def test_whole_models_train_as_so_many_runs_of_their_own(which: str) -> None:
    """Clipping, moments and schedule are each member's own; resampled, a list's loss counts so often in its own run."""
    params = stacked(range(MEMBERS))
    together, rows = train(which, params)
    apart = []
    for member in range(MEMBERS):
        counts = [np.asarray(ensemble.list_counts(KEY, MEMBERS, batch.index))[member] for batch in BATCHES]
        counts = counts if which == "resampled" else [np.ones_like(one) for one in counts]
        own = jax.tree.map(lambda leaf, m=member: leaf[m], params)
        found, one = train("alone", own, list(zip(BATCHES, counts, strict=True)))
        apart.append(one)
        for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(together), strict=True):
            np.testing.assert_allclose(theirs[member], ours, atol=2e-5)
    for step, row in enumerate(rows):
        for name in apart[0][step]:
            mean = np.mean([one[step][name] for one in apart])
            np.testing.assert_allclose(row[name], mean, rtol=2e-3, atol=1e-5, err_msg=name)
    # Clipping by the norm of all members together would be seen: some are clipped.
    assert max(one[step]["grad_norm"] for one in apart for step in range(len(rows))) > tiny.OPTIMIZER.clip_norm


def test_a_member_that_explodes_clips_nobody_else() -> None:
    params = stacked(range(MEMBERS))
    wild = {**params, "head": {"kernel": params["head"]["kernel"].at[0].multiply(40.0)}}
    calm, _ = train("plain", params)
    found, _ = train("plain", wild)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1:], b[1:], atol=1e-6), calm, found)
    assert not np.allclose(calm["decoder"]["embedding"][0], found["decoder"]["embedding"][0], atol=1e-3)


def test_each_head_gets_its_own_gradient_and_the_decoder_their_sum() -> None:
    kernel = stacked(range(MEMBERS))["head"]["kernel"]
    decoder = tiny.decoder_params("float32", 1)
    gradient_of_all = jax.jit(jax.grad(lambda p: ensemble_loss("heads")(p, BATCHES[0]).numerator))
    gradient_of_one = jax.jit(jax.grad(lambda p: reward.loss_sums(SPEC, p, BATCHES[0]).numerator))
    together = gradient_of_all({"decoder": decoder, "head": {"kernel": kernel}})
    alone = [gradient_of_one({"decoder": decoder, "head": {"kernel": one}}) for one in np.asarray(kernel)]
    np.testing.assert_allclose(
        together["head"]["kernel"], np.stack([one["head"]["kernel"] for one in alone]), rtol=2e-4, atol=1e-5
    )
    total = jax.tree.map(lambda *leaves: sum(map(np.asarray, leaves)), *[one["decoder"] for one in alone])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), together["decoder"], total)


def test_the_spread_is_that_of_the_members_rewards() -> None:
    params = stacked(range(MEMBERS))
    sums = jax.jit(ensemble_loss("models"))(params, BATCHES[0])
    rewards = member_rewards(EnsembleSpec(MEMBERS, "models"), params, BATCHES[0])
    total, weight = sums.metrics["spread"]
    real = BATCHES[0].response_mask
    np.testing.assert_allclose(total / weight, np.std(rewards, axis=0)[real].mean(), rtol=1e-5)


def test_resampling_counts_are_poisson_and_belong_to_member_and_list_alone() -> None:
    index = jnp.arange(400)
    counts = np.asarray(ensemble.list_counts(KEY, 5, index))
    shares = [np.mean(counts == k) for k in range(4)]
    # 2,000 draws: four standard errors are below 0.045
    np.testing.assert_allclose(shares, poisson.pmf(range(4), 1.0), atol=0.045)
    order = jnp.asarray(np.random.default_rng(0).permutation(400))
    np.testing.assert_array_equal(ensemble.list_counts(KEY, 5, order), counts[:, order])
    np.testing.assert_array_equal(ensemble.list_counts(KEY, 2, index), counts[:2])
    assert abs(np.corrcoef(counts)[np.triu_indices(5, 1)]).max() < 0.25
    assert not np.array_equal(ensemble.list_counts(jax.random.key(10), 5, index), counts)


@pytest.mark.parametrize("kind", ["models", "heads"])
def test_members_begin_apart_and_the_first_is_the_single_model(kind: str) -> None:
    spec = tiny.decoder_spec()
    single, params = init(spec, KEY), init(spec, KEY, EnsembleSpec(MEMBERS, kind))
    kernels = np.asarray(params["head"]["kernel"])
    assert kernels.shape == (MEMBERS, spec.width)
    np.testing.assert_allclose(kernels[0], single["head"]["kernel"], rtol=1e-6)
    assert np.abs(np.corrcoef(kernels) - np.eye(MEMBERS)).max() < 0.9
    first = params["decoder"] if kind == "heads" else jax.tree.map(lambda leaf: leaf[0], params["decoder"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), first, single["decoder"])
    if kind == "models":
        assert not np.allclose(*params["decoder"]["embedding"][:2])


@pytest.mark.parametrize("kind", ["models", "heads"])
def test_from_another_decoder_and_to_one_model(kind: str) -> None:
    spec, form = tiny.decoder_spec(), EnsembleSpec(MEMBERS, kind)
    decoder = tiny.decoder_params("float32", 5)
    params = with_decoder(init(spec, KEY, form), decoder, form)
    batch = BATCHES[0]
    ids, mask = (leaf[:, 0] for leaf in tiny.rows_of(batch))
    one = representative(params, form)
    jax.tree.map(np.testing.assert_array_equal, one["decoder"], decoder)
    logits = [
        logits_of(spec, {"decoder": decoder, "head": {"kernel": kernel}}, ids, mask)
        for kernel in np.asarray(params["head"]["kernel"])
    ]
    wanted = logits[0] if kind == "models" else np.mean(logits, axis=0)
    found = logits_of(spec, one, ids, mask)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    members = np.asarray(member_rewards(form, params, batch))[:, :, 0]
    np.testing.assert_allclose(members, expit(np.stack(logits)), atol=1e-5)
