"""Comparisons that ranks do not tell, verdicts, margins and annotators: from records to batches."""

import itertools
import math

import numpy as np
import pytest

from rlhf_jax.data import loader
from rlhf_jax.data.examples import ListExample, list_examples
from rlhf_jax.data.lists import ListSizes, sizes_of
from rlhf_jax.data.records import Record, Response
from rlhf_jax.data.tokenizers import build_tokenizer
from rlhf_jax.types import RankBatch


def example(ranks: tuple[int, ...], **settings: object) -> ListExample:
    """Response i is the token 10 + i."""
    responses = tuple(np.asarray([10 + i], np.int32) for i in range(len(ranks)))
    return ListExample(np.asarray([1], np.int32), responses, ranks, "", 0, **settings)  # type: ignore[arg-type]


def batch_of(*lists: ListExample, size: int = 4, weights: dict[str, float] | None = None) -> RankBatch:
    (batch,) = loader.rank_eval_batches(lists, {}, len(lists), sizes_of(lists, size), 0, weights or {})
    return batch


def pairs(matrix: np.ndarray) -> set[tuple[int, int]]:
    return {(int(i), int(j)) for i, j in np.argwhere(matrix)}


# ------------------------------------------------------------------------------ comparisons


def test_ranks_tell_all_comparisons() -> None:
    better, tied = example((1, 0, 1, 2)).comparisons()
    assert pairs(better) == {(1, 0), (1, 2), (1, 3), (0, 3), (2, 3)}
    assert pairs(tied) == {(0, 2), (2, 0)}


def test_edges_tell_what_follows_from_them_by_hand() -> None:
    """0 > 2 > 3 and 1 > 3: 0 > 3 follows, 1 meets neither 0 nor 2; equal ranks are no ties."""
    better, tied = example((0, 0, 1, 2), edges=((0, 2), (2, 3), (1, 3))).comparisons()
    assert pairs(better) == {(0, 2), (2, 3), (0, 3), (1, 3)}
    assert not tied.any()
    better, tied = example((0, 0, 0), edges=()).comparisons()
    assert not better.any()
    assert not tied.any()


def reachable(edges: list[tuple[int, int]], start: int) -> set[int]:
    """All that some path leads to."""
    found: set[int] = set()
    ahead = [j for i, j in edges if i == start]
    while ahead:
        place = ahead.pop()
        if place not in found:
            found.add(place)
            ahead += [j for i, j in edges if i == place]
    return found


@pytest.mark.parametrize("seed", range(8))
def test_edges_tell_what_paths_lead_to(seed: int) -> None:
    random = np.random.default_rng(seed)
    order = random.permutation(9)
    edges = [(int(order[i]), int(order[j])) for i, j in itertools.combinations(range(9), 2) if random.random() < 0.25]
    random.shuffle(edges)
    better, _ = example((0,) * 9, edges=tuple(edges)).comparisons()
    assert pairs(better) == {(i, j) for i in range(9) for j in reachable(edges, i)}


# ------------------------------------------------------------------------------ records to examples


def test_all_feedback_of_a_record_reaches_its_example() -> None:
    bytes_ = build_tokenizer("byte")
    records = [
        Record("x", "p", (Response("a", 0), Response("b", 1)), annotator="jo", margin=0.5),
        Record("y", "p", (Response("a", label=1.0), Response("b", score=3.0))),
        Record("z", "p", (Response("a", 0), Response("b", 0), Response("c", 1)), edges=((1, 2),)),
    ]
    pair, verdicts, partial = list_examples(records, bytes_, 4, 4)[0]
    assert (pair.annotator, pair.margin, pair.edges) == ("jo", 0.5, None)
    assert (verdicts.labels, verdicts.scores) == ((1.0, None), (None, 3.0))
    assert not any(matrix.any() for matrix in verdicts.comparisons())  # nobody compared them
    assert (verdicts.annotator, verdicts.margin) == ("", 0.0)
    assert pairs(partial.comparisons()[0]) == {(1, 2)}


# ------------------------------------------------------------------------------ examples to batches


def test_a_batch_of_every_kind_by_hand() -> None:
    batch = batch_of(
        example((1, 0), margin=0.5, annotator="jo"),
        example((0, 0, 1), edges=((0, 2),), annotator="al"),
        example((0, 0, 0), edges=(), labels=(1.0, None, 0.25), scores=(None, 2.5, None)),
        weights={"jo": 0.25},
    )
    # Columns go from best to worst: the pair's are (response 1, response 0).
    assert batch.ids[0, :2, 0].tolist() == [11, 10]
    assert pairs(batch.better[0]) == {(0, 1)}
    assert pairs(batch.better[1]) == {(0, 2)}
    assert not batch.tied.any()
    assert not batch.better[2].any()
    assert batch.margin.tolist() == [0.5, 0.0, 0.0]
    assert batch.weight.tolist() == [0.25, 1.0, 1.0]
    np.testing.assert_array_equal(batch.labels[2], [1.0, math.nan, 0.25])
    np.testing.assert_array_equal(batch.scores[2], [math.nan, 2.5, math.nan])
    assert np.isnan(batch.labels[:2]).all()
    assert np.isnan(batch.scores[:2]).all()


def test_verdicts_move_with_their_responses() -> None:
    batch = batch_of(example((2, 0, 1), labels=(0.2, 0.0, 0.1), scores=(22.0, 20.0, 21.0)))
    assert batch.ids[0, :3, 0].tolist() == [11, 12, 10]
    np.testing.assert_allclose(batch.labels[0, :3], [0.0, 0.1, 0.2])
    assert batch.scores[0, :3].tolist() == [20, 21, 22]


def test_a_longer_partial_order_keeps_what_followed_from_what_is_left_out() -> None:
    """0 > 1 > 2 > 3 > 4 by edges, of which 0, 2 and 4 are kept: 0 > 4 still follows."""
    chain = example((0, 1, 2, 3, 4), edges=((0, 1), (1, 2), (2, 3), (3, 4)), labels=(0.0, 0.1, 0.2, 0.3, 0.4))
    batch = batch_of(chain, size=3)
    assert batch.ids[0, :, 0].tolist() == [10, 12, 14]
    assert pairs(batch.better[0]) == {(0, 1), (0, 2), (1, 2)}
    np.testing.assert_allclose(batch.labels[0], [0.0, 0.2, 0.4])


def test_ties_of_a_longer_list_stay_ties() -> None:
    batch = batch_of(example((0, 0, 1, 2, 2)), size=3)  # kept: places 0, 2 and 4
    assert pairs(batch.tied[0]) == set()
    batch = batch_of(example((0, 0, 1, 1)), size=4)
    assert pairs(batch.tied[0]) == {(0, 1), (1, 0), (2, 3), (3, 2)}
    assert pairs(batch.better[0]) == {(0, 2), (0, 3), (1, 2), (1, 3)}


def test_padding_lists_say_nothing() -> None:
    (batch,) = loader.rank_eval_batches(
        [example((0, 1), margin=1.0, labels=(1.0, 0.0))], {}, 3, ListSizes((1,), (1,), 2), 0, {"": 5.0}
    )
    assert not batch.better[1:].any()
    assert not batch.tied[1:].any()
    assert np.isnan(batch.labels[1:]).all()
    assert np.isnan(batch.scores[1:]).all()
    assert batch.margin[1:].tolist() == [0, 0]


def test_training_batches_have_the_weights_of_their_annotators() -> None:
    lists = [example((0, 1), annotator=name) for name in ("jo", "al", "jo", "")]
    batch = next(loader.rank_batches(lists, {}, 4, sizes_of(lists, 2), 0, 0, {"jo": 0.5}))
    assert sorted(batch.weight.tolist()) == [0.5, 0.5, 1.0, 1.0]
