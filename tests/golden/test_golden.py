"""The metrics of one step of each learner on fixed inputs, against those stored beside this file.

The numbers are this code's own; what they mean is held by the tests of each room. They move when anything moves.
"""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
import pytest

from rlhf_jax.parallel import MeshExecutor
from tests.learners import tiny


@pytest.mark.parametrize("learner", tiny.LEARNERS)
def test_one_step_gives_the_stored_metrics(learner: str, golden: Callable[..., None]) -> None:
    executor = MeshExecutor(jax.devices()[:1])
    if learner == "reward":  # the stored figures are of lists whose prompts are empty
        loss, params, (first, *_) = tiny.reward_parts()
        bare = dataclasses.replace(first, prompt_mask=np.zeros_like(first.prompt_mask))
        _, metrics = next(tiny.gradient_steps(executor, loss, params, [bare]))
    else:
        _, metrics = next(tiny.steps(learner, executor))
    figures = jax.device_get(metrics)
    assert (figures.pop("skipped"), figures.pop("not_finite")) == (0, 0)
    golden(learner, figures)
