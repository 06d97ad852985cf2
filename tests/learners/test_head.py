"""A reward model whose head alone learns: the decoder keeps its bits, and costs neither gradients nor moments."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlhf_jax.learners import reward
from rlhf_jax.learners.optimizer import make_optimizer
from rlhf_jax.learners.step import init_state, train_step
from rlhf_jax.models import head_of, trained
from tests.learners import tiny
from tests.programs import traced

LOSS_SUMS, PARAMS, BATCHES = tiny.reward_parts()


def step(optimizer: optax.GradientTransformation, part: Callable[..., Any]) -> tuple[Any, Callable[..., Any]]:
    state = init_state(PARAMS, optimizer, jax.random.key(0), part=part)
    return state, partial(train_step, LOSS_SUMS, optimizer, part=part)


def test_the_head_goes_where_it_would_go_with_all() -> None:
    """One step down the gradient is the same for the head whether the decoder takes it as well or not."""
    new = {}
    for name, part in (("all", trained), ("head", head_of)):
        state, update = step(optax.sgd(0.5), part)
        new[name] = jax.jit(update)(state, BATCHES[0])[0].params
    np.testing.assert_allclose(new["head"]["head"]["kernel"], new["all"]["head"]["kernel"], rtol=1e-5)
    assert np.abs(new["head"]["head"]["kernel"] - PARAMS["head"]["kernel"]).max() > 1e-3
    assert np.abs(new["all"]["decoder"]["embedding"] - PARAMS["decoder"]["embedding"]).max() > 1e-4


def test_features_read_once_teach_the_head_the_same() -> None:
    """Four steps of AdamW, decay of weights included, against the same on hidden states that were read beforehand."""
    optimizer = make_optimizer(tiny.OPTIMIZER)
    state, update = step(optimizer, head_of)
    compiled = jax.jit(update)
    for batch in BATCHES[:4]:
        state, metrics = compiled(state, batch)
    for before, after in zip(jax.tree.leaves(PARAMS["decoder"]), jax.tree.leaves(state.params["decoder"]), strict=True):
        np.testing.assert_array_equal(before, after)

    spec = LOSS_SUMS.args[0]
    # At a head of one-hot weights the unbounded reward is a hidden number: with all of them, the hidden state.
    unbounded = reward.RewardSpec(spec.decoder, bounded=False, utilities=spec.utilities)
    hot = lambda one: {**PARAMS, "head": {"kernel": one}}  # noqa: E731
    read = jax.jit(lambda batch: jax.lax.map(lambda one: reward.list_rewards(unbounded, hot(one), batch), jnp.eye(16)))
    moments = optimizer.init(PARAMS["head"])

    @jax.jit
    def teach(head: Any, moments: Any, features: Any, batch: Any) -> tuple[Any, Any]:
        def mean(head: Any) -> Any:
            sums = reward.loss_of_rewards(spec, jax.nn.sigmoid(jnp.tensordot(head["kernel"], features, 1)), batch)
            return sums.numerator / sums.weight

        updates, moments = optimizer.update(jax.grad(mean)(head), moments, head)
        return optax.apply_updates(head, updates), moments

    head = PARAMS["head"]
    for batch in BATCHES[:4]:
        head, moments = teach(head, moments, read(batch), batch)
    np.testing.assert_allclose(state.params["head"]["kernel"], head["kernel"], rtol=1e-4, atol=1e-6)
    assert metrics["grad_norm"] > 0


def test_nothing_runs_backward_through_the_decoder() -> None:
    """The first of two layers is scanned once, forward; with all trained it is scanned again, backward."""

    def scans(part: Callable[..., Any]) -> int:
        state, update = step(make_optimizer(tiny.OPTIMIZER), part)
        return sum(
            equation.primitive.name == "scan" and equation.params["length"] == 1 and equation.params["num_carry"]
            for equation in traced(update, state, BATCHES[0])
        )

    assert (scans(head_of), scans(trained)) == (1, 2)
    state, _ = step(make_optimizer(tiny.OPTIMIZER), head_of)
    assert sum(leaf.size for leaf in jax.tree.leaves(state.opt_state)) < 2 * 16 + 4
