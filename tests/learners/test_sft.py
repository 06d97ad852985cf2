"""The loss against a masked mean by NumPy."""

import dataclasses
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

from rlhf_jax.learners import sft
from rlhf_jax.models import apply_decoder, output_logits
from rlhf_jax.types import Params, TokenBatch
from tests.learners import tiny

BATCH = tiny.token_batch(0)


SPEC = tiny.decoder_spec()
compiled_loss_sums = jax.jit(partial(sft.loss_sums, SPEC))


def losses(batch: TokenBatch) -> Any:
    return compiled_loss_sums(tiny.decoder_params("float32", 0), batch)


def logits(batch: TokenBatch) -> np.ndarray:
    @jax.jit
    def forward(params: Params, batch: TokenBatch) -> jax.Array:
        hidden = apply_decoder(SPEC, params, batch.ids, batch.positions, batch.segments)
        return output_logits(SPEC, params, hidden)

    return np.asarray(forward(tiny.decoder_params("float32", 0), batch), np.float64)


def test_loss_is_the_masked_mean_in_nats() -> None:
    scores = logits(BATCH)
    total, hits, count = 0.0, 0, 0
    for row in range(tiny.ROWS):
        for t in range(1, tiny.LENGTH):
            if BATCH.loss_mask[row, t]:
                before = scores[row, t - 1]
                total -= before[BATCH.ids[row, t]] - np.log(np.sum(np.exp(before - before.max()))) - before.max()
                hits += int(before.argmax() == BATCH.ids[row, t])
                count += 1
    sums = losses(BATCH)
    assert sums.weight == count == BATCH.loss_mask.sum()
    assert sums.numerator == pytest.approx(total, rel=1e-5)
    assert sums.metrics["token_accuracy"][0] == hits
    assert sums.metrics["token_accuracy"][1] == count


def test_prompt_tokens_are_read_but_not_predicted() -> None:
    """Another prompt token changes the likelihood of the response after it; as a target it counts for nothing."""
    assert not BATCH.loss_mask[3, 5]
    assert BATCH.loss_mask[3, 6]
    other = BATCH.ids.copy()
    other[3, 5] = 2 + (other[3, 5] + 7) % 30
    assert losses(dataclasses.replace(BATCH, ids=other)).numerator != losses(BATCH).numerator
    # Row 6 alone: nine prompt tokens, one target. Were the prompt predicted, there would be ten.
    alone = dataclasses.replace(BATCH, loss_mask=BATCH.loss_mask & (np.arange(8) == 6)[:, None])
    assert losses(alone).weight == 1
    scores = logits(BATCH)[6, 8]
    assert losses(alone).numerator == pytest.approx(np.log(np.exp(scores).sum()) - scores[BATCH.ids[6, 9]], rel=1e-5)


def test_padding_and_neighbours_in_a_row_change_nothing() -> None:
    """What stands in padding, or in another segment of the row, leaves a segment's loss alone."""
    first = dataclasses.replace(BATCH, loss_mask=BATCH.loss_mask & (BATCH.segments == 2))
    other = np.where(BATCH.segments == 2, BATCH.ids, (BATCH.ids + 3) % 33).astype(np.int32)
    assert first.loss_mask.sum() == 9
    np.testing.assert_allclose(
        losses(first).numerator, losses(dataclasses.replace(first, ids=other)).numerator, rtol=1e-6
    )
