"""A reward is of a prompt and a response alone: not of padding, batch mates, places in a list, or devices. Float32."""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import numpy as np
import pytest

from rlhf_jax.build.evaluate import make_scorer
from rlhf_jax.data.examples import ListExample
from rlhf_jax.learners.reward import RewardSpec, list_rewards
from rlhf_jax.models import apply_reward_model
from rlhf_jax.objectives.utilities import LogSigmoid
from rlhf_jax.parallel import Executor, MeshExecutor, PmapExecutor
from tests.learners import tiny

TOLERANCE = 1e-5
ROWS, LONGEST = 24, tiny.LENGTH
EXECUTORS: dict[str, Callable[[], Executor]] = {
    "one": lambda: MeshExecutor(jax.devices()[:1]),
    "pmap": lambda: PmapExecutor(jax.devices()),
    "data8": lambda: MeshExecutor(jax.devices(), data=8),
    "fsdp8": lambda: MeshExecutor(jax.devices(), fsdp=8),
    "data2_fsdp2_tensor2": lambda: MeshExecutor(jax.devices(), data=2, fsdp=2, tensor=2),
}
PARAMS = partial(tiny.scored_params, "float32", 1)


def texts() -> list[np.ndarray]:
    """Rows of 1, 2, 5, 9 or 12 tokens: each length is compiled once."""
    random = np.random.default_rng(0)
    return [random.integers(2, tiny.VOCAB, (1, 2, 5, 9, LONGEST)[place % 5]) for place in range(ROWS)]


def padded(rows: list[np.ndarray], width: int, left: bool = False) -> tuple[np.ndarray, np.ndarray]:
    ids, mask = np.full((len(rows), width), tiny.PAD, np.int32), np.zeros((len(rows), width), bool)
    for row, own in enumerate(rows):
        place = slice(width - len(own), width) if left else slice(len(own))
        ids[row, place], mask[row, place] = own, True
    return ids, mask


@pytest.fixture(scope="module")
def score() -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    compiled = jax.jit(partial(apply_reward_model, tiny.decoder_spec(), bounded=False))
    return lambda ids, mask: np.asarray(compiled(PARAMS(), ids, mask))


@pytest.fixture(scope="module")
def alone(score) -> np.ndarray:
    """The logit of each text in a batch of its own, without any padding: far apart, so that errors would show."""
    found = np.concatenate([score(*padded([own], len(own))) for own in texts()])
    assert found.std() > 0.5
    return found


@pytest.mark.parametrize("width", [LONGEST, LONGEST + 1, 40])
@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
def test_padding_of_either_side_and_any_amount(width, left, score, alone):
    np.testing.assert_allclose(score(*padded(texts(), width, left)), alone, atol=TOLERANCE)


def test_batch_mates(score, alone):
    """In another order, and each text among strangers."""
    order = np.random.default_rng(1).permutation(ROWS)
    mixed = score(*padded([texts()[place] for place in order], LONGEST))
    np.testing.assert_allclose(mixed, alone[order], atol=TOLERANCE)
    strangers = [np.full(LONGEST, 2 + place % 30) for place in range(ROWS - 1)]
    for place in (0, 11):
        found = score(*padded([*strangers[:5], texts()[place], *strangers[5:]], LONGEST))
        assert found[5] == pytest.approx(alone[place], abs=TOLERANCE)


def test_the_order_of_a_list_and_the_lists_around_it():
    spec = RewardSpec(tiny.decoder_spec(), bounded=False, utilities=(LogSigmoid(),))
    batch = tiny.rank_batch(0)
    rewards = jax.jit(partial(list_rewards, spec))
    found = np.asarray(rewards(PARAMS(), batch))
    real = np.asarray(batch.response_mask)
    assert found[real].std() > 0.5
    columns, rows = np.array([2, 0, 3, 1]), np.random.default_rng(2).permutation(len(found))
    turned = dataclasses.replace(
        batch,
        prompt_ids=batch.prompt_ids[rows],
        prompt_mask=batch.prompt_mask[rows],
        ids=batch.ids[rows][:, columns],
        mask=batch.mask[rows][:, columns],
    )
    moved = np.asarray(rewards(PARAMS(), turned))
    kept = real[rows][:, columns]
    np.testing.assert_allclose(moved[kept], found[rows][:, columns][kept], atol=TOLERANCE)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_devices_and_what_fills_their_batches_up(executor, alone):
    """24 texts in batches of 16, the first token of each being its prompt: the second batch is half padding."""
    score = make_scorer(
        made := EXECUTORS[executor](),
        tiny.decoder_spec(),
        made.place(PARAMS(), "state"),
        bounded=False,
        pad_id=tiny.PAD,
        rows=16,
    )
    longer = [place for place, own in enumerate(texts()) if len(own) > 1]
    lists = [ListExample(texts()[place][:1], (texts()[place][1:],), (0,), "", place) for place in longer]
    np.testing.assert_allclose(score(lists), alone[longer], atol=TOLERANCE)
