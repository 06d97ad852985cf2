"""Answering prompts a few rows at a time."""

import jax
import numpy as np
import pytest

from rlhf_jax.build.common import by_rows
from rlhf_jax.types import PromptBatch
from tests.learners import tiny


def draw(batch: PromptBatch) -> tuple[jax.Array, dict[str, jax.Array], None]:
    """What stands in for sampling: numbers from each row's own stream, and its prompt."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(3), batch.row)
    return jax.vmap(jax.random.bits)(keys), {"ids": batch.ids, "index": batch.index}, None


@pytest.mark.parametrize(("rows", "calls"), [(0, [16]), (4, [4, 4, 4, 4]), (8, [8, 8]), (16, [16]), (6, [6, 6, 4])])
def test_rows_come_back_in_their_order_and_with_their_own_draws(rows: int, calls: list[int]) -> None:
    seen: list[int] = []

    def answer(batch: PromptBatch) -> tuple[jax.Array, dict[str, jax.Array], None]:
        seen.append(len(batch.ids))
        return draw(batch)

    prompts = tiny.prompt_batch(0)
    found = by_rows(answer, prompts, rows)
    assert seen == calls
    jax.tree.map(np.testing.assert_array_equal, found, draw(prompts))
    assert len(set(np.asarray(found[0]).tolist())) == tiny.EPISODES
