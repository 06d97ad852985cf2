"""An update whose rows are worked on in parts is the update of all rows at once: one device, a mesh and pmap."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.data.lists import ListSizes, fitted
from rlhf_jax.learners.step import train_step
from rlhf_jax.parallel import Executor, MeshExecutor, PmapExecutor
from tests.learners import tiny
from tests.parallel.test_agreement import furthest, trained
from tests.programs import largest

TWO: dict[str, Callable[[], Executor]] = {
    "pmap": lambda: PmapExecutor(jax.devices()[:2]),
    "mesh": lambda: MeshExecutor(jax.devices()[:2], fsdp=2),
}


@pytest.mark.parametrize(
    ("learner", "executor"), [("sft", "mesh"), ("reward", "pmap"), pytest.param("ppo", "pmap", marks=pytest.mark.slow)]
)
def test_four_parts_are_the_whole(learner: str, executor: str) -> None:
    """Ragged rows, 5 steps (of PPO 2 iterations), in float64: parameters and metrics, the norm of gradients too."""
    whole = trained(learner, "one", "float64")
    with jax.enable_x64(True):
        done = list(tiny.steps(learner, TWO[executor](), "float64", microbatches=4))
    assert furthest(whole.params, jax.device_get(done[-1][0].params)) < 1e-11
    assert furthest(whole.metrics, [jax.device_get(metrics) for _, metrics in done]) < 1e-11


@pytest.mark.parametrize("executor", TWO)
def test_lists_that_share_their_slots_are_lists_with_slots_of_their_own(executor: str) -> None:
    """Two parts on each of two devices, four lists of each sharing 13 slots of 16: parameters and metrics, float64."""
    with jax.enable_x64(True):
        loss, params, batches = tiny.reward_parts("float64")
        shared = [fitted(batch, ListSizes((tiny.LIST_PROMPT,), (tiny.LENGTH,), tiny.LIST_SIZE, 4)) for batch in batches]
        assert shared[0].ids.shape == (4, 14, tiny.LENGTH)
        done = list(tiny.gradient_steps(TWO[executor](), loss, params, shared, microbatches=2))
    whole = trained("reward", "one", "float64")
    assert furthest(whole.params, jax.device_get(done[-1][0].params)) < 1e-11
    assert furthest(whole.metrics, [jax.device_get(metrics) for _, metrics in done]) < 1e-11


def test_a_mean_over_parts_would_be_noticed() -> None:
    """The parts of the batches above weigh very differently."""
    batch, rows = tiny.token_batch(0), np.arange(tiny.ROWS)
    weights = [int(batch.loss_mask[rows % 4 == part, 1:].sum()) for part in range(4)]
    assert max(weights) > 2 * min(weights)
    assert sum(weights) == batch.loss_mask.sum()


def test_logits_of_one_part_are_all_there_is() -> None:
    loss_sums, params, batches = tiny.sft_parts()

    def step(microbatches: int, tokens: int) -> int:
        optimizer = tiny.make_optimizer(tiny.OPTIMIZER)
        state = jax.eval_shape(lambda: tiny.init_state(params, optimizer, jax.random.key(0)))
        update = lambda state, batch: train_step(loss_sums, optimizer, state, batch, microbatches=microbatches)  # noqa: E731
        return largest(jnp.float32, tokens, update, state, batches[0])

    for parts in (1, 4):
        tokens = tiny.ROWS // parts * (tiny.LENGTH - 1)
        assert step(parts, tokens) == tokens * tiny.VOCAB
