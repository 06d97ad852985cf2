"""Evaluations worked by hand."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from rlhf_jax.data.examples import ListExample
from rlhf_jax.data.lists import sizes_of
from rlhf_jax.data.loader import rank_eval_batches
from rlhf_jax.data.records import Record
from rlhf_jax.data.tokenizers import build_tokenizer
from rlhf_jax.evaluation.policy import diversity_metrics, gold_metrics, sample_completions
from rlhf_jax.evaluation.reward import RewardEvaluation, evaluate_reward_model
from rlhf_jax.reports.records import lists_by_type
from rlhf_jax.reports.reward_model import reading_of
from rlhf_jax.types import PromptBatch, RankBatch


def example(ranks: tuple[int, ...], kind: str, index: int) -> ListExample:
    """Response j of list i is the token 10 i + j, which the reward tables below are read by."""
    responses = tuple(np.asarray([10 * index + j], np.int32) for j in range(len(ranks)))
    return ListExample(np.asarray([99], np.int32), responses, ranks, kind, index)


LISTS = [example((1, 0, 2), "open", 0), example((0, 0, 1), "closed", 1), example((0, 1), "closed", 2)]
REWARD = {0: 0.5, 1: 0.75, 2: 0.625, 10: 1.0, 11: 0.25, 12: 0.5, 20: 0.25, 21: 0.25}
SCORES = [[0.2, 0.9, 0.1], [1.0, 1.0, 0.0], [None, None]]


def evaluated(lists: list[ListExample], list_size: int = 3, **settings: Any):
    """The losses are 3 over 2 lists in the first batch, 1 over 1 in the second, which is half padding."""
    losses = iter([(3.0, 2.0), (1.0, 1.0)])

    def loss_and_rewards(batch: RankBatch):
        table = np.vectorize(lambda token: REWARD.get(token, -100.0))
        return *next(losses), np.where(batch.response_mask, table(batch.ids[:, :, 0]), -100.0)

    batches = rank_eval_batches(lists, {}, 2, sizes_of(lists, list_size), 0)
    return evaluate_reward_model(loss_and_rewards, batches, lists, SCORES, **settings)


def test_reward_evaluation_by_hand() -> None:
    """Open: best to worst .75 .5 .625, two pairs of three right. Closed: 1 and .25 are tied above .5, so one of two
    is right; then .25 against .25, half right. In all 2 + 1 + 0.5 of 6.
    """
    found = evaluated(LISTS)
    assert found.metrics["loss"] == pytest.approx(4 / 3)
    assert found.metrics["pair_accuracy"] == pytest.approx(3.5 / 6)
    assert found.metrics["pair_accuracy.open"] == pytest.approx(2 / 3)
    assert found.metrics["pair_accuracy.closed"] == pytest.approx(1.5 / 3)
    # Open .5 .625 .75, each a third; closed .25 .25 .25 .5 1, each a fifth: the area between the two step functions,
    # F_closed - F_open being 3/5, 4/5 - 1/3, 4/5 - 2/3 and 4/5 - 1 in turn.
    area = 0.25 * 3 / 5 + 0.125 * (4 / 5 - 1 / 3) + 0.125 * (4 / 5 - 2 / 3) + 0.25 * 1 / 5
    assert found.metrics["w1_open_closed"] == pytest.approx(area)
    assert found.metrics["w1.closed.open"] == found.metrics["w1_open_closed"]
    # The largest of those differences of F, at rewards from .25 on.
    assert found.metrics["ks.closed.open"] == pytest.approx(3 / 5)
    # One open list: what a shuffle would show of a single law is not known, so neither is an index.
    assert set(found.metrics) == {
        "loss",
        "pair_accuracy",
        "pair_accuracy.open",
        "pair_accuracy.closed",
        "w1_open_closed",
        "w1.closed.open",
        "ks.closed.open",
    }
    assert found.warnings == ()
    assert {row["best"] for row in found.rows} == {None}


def test_the_last_evaluation_adds_order_calibration_and_length() -> None:
    """Best to worst .75 .5 .625 (tau 1/3); 1, .25 | .5 (of two judged pairs one right, three different rewards: 0);
    .25 .25, of which no tau. All five pairs with different rewards have a rank distance of 1 but the first list's ends.
    """
    plain, found = evaluated(LISTS).metrics, evaluated(LISTS, detailed=True).metrics
    assert plain.items() <= found.items()
    assert found["kendall_tau"] == pytest.approx((1 / 3 + 0) / 2)
    assert found["accuracy_at_distance.1"] == pytest.approx(2.5 / 5)
    assert found["accuracy_at_distance.2"] == 1.0
    gaps = np.array([0.25, -0.125, 0.125, 0.5, -0.25, 0.0])
    assert found["log_loss"] == pytest.approx(np.log1p(np.exp(-gaps)).mean())
    assert found["log_loss_calibrated"] <= found["log_loss"]
    assert "length_correlation" not in found  # every response is one token long


def test_the_last_evaluation_believes_the_comparisons_of_a_partial_order() -> None:
    """The first over the third alone, which has the higher reward; by ranks, two pairs of three would be right."""
    one = dataclasses.replace(example((0, 1, 1), "open", 0), edges=((0, 2),))
    batches = rank_eval_batches([one], {}, 1, sizes_of([one], 3), 0)
    found = evaluate_reward_model(
        lambda _: (0.0, 1.0, np.array([[0.5, 0.25, 0.75]])), batches, [one], [[None] * 3], detailed=True
    )
    assert found.metrics["accuracy_at_distance.1"] == 0.0
    assert found.metrics["kendall_tau"] == pytest.approx(-1 / np.sqrt(3))
    # So does whoever reads its rows.
    assert [row["better_than"] for row in found.rows] == [[2], [], []]
    reading = reading_of(lists_by_type(found.rows))
    assert (reading["pairs"], reading["accuracy"]) == (1, 0.0)
    assert reading["kendall_tau"] == pytest.approx(-1 / np.sqrt(3))


def test_rows_carry_the_length_of_the_response_they_are_about() -> None:
    """Ranks 1, 0 and 2 in the order of the file, where the responses have 1, 2 and 3 tokens."""
    responses = tuple(np.full(size, 7, np.int32) for size in (1, 2, 3))
    one = ListExample(np.asarray([99], np.int32), responses, (1, 0, 2), "open", 0)
    batches = rank_eval_batches([one], {}, 1, sizes_of([one], 3), 0)
    found = evaluate_reward_model(
        lambda _: (0.0, 1.0, np.array([[0.9, 0.5, 0.1]])), batches, [one], [[None] * 3], detailed=True
    )
    assert [row["length"] for row in found.rows] == [2, 1, 3]
    assert found.metrics["length_correlation"] == pytest.approx(-0.5)


def test_distance_to_the_best_rewards_by_hand() -> None:
    """Open, by rank: .75 .5 .625 against 1 .5 0. Closed: the first list's best two share 1; mean rewards by rank are
    (1 + .25 + .25) / 3 and (.5 + .25) / 2, mean best ones (1 + 1 + 1) / 3 and 0.
    """
    best = [np.array([1.0, 0.5, 0.0]), np.array([1.0, 1.0, 0.0]), np.array([1.0, 0.0])]
    found = evaluated(LISTS, best=best)
    assert found.metrics["r_star_distance.open"] == pytest.approx((0.25 + 0 + 0.625) / 3)
    assert found.metrics["r_star_distance.closed"] == pytest.approx((0.5 + 0.375) / 2)
    assert [row["best"] for row in found.rows] == [1.0, 0.5, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0]
    unknown = evaluated(LISTS, best=[None, *best[1:]])
    assert "r_star_distance.open" not in unknown.metrics
    assert unknown.metrics["r_star_distance.closed"] == found.metrics["r_star_distance.closed"]


def of_types(*kinds: str) -> dict[str, float]:
    """Metrics of one list a type; list i has reward i for all."""
    lists = [example((0, 1), kind, i) for i, kind in enumerate(kinds)]
    rewards = np.repeat(np.arange(float(len(kinds)))[:, None], 2, axis=1)
    batches = rank_eval_batches(lists, {}, len(lists), sizes_of(lists, 2), 0)
    return evaluate_reward_model(lambda _: (0.0, 1.0, rewards), batches, lists, [[None, None]] * len(lists)).metrics


def test_no_two_pairs_of_types_share_a_metrics_name() -> None:
    """Dots, quotes and backslashes, wherever a name could end: 120 pairs, each with a name of its own."""
    kinds = ["a", "a.b", "b", "b.c", "c", "a.", ".a", '"a', 'a"', '"a.b"', "a..b", ".", "..", '".', '."', "\\."]
    found = of_types(*kinds)
    assert sum(name.startswith("w1.") for name in found) == sum(name.startswith("ks.") for name in found) == 120
    assert found["w1.a.b"] == 2.0  # as ever, without dots
    assert found['w1.a.."b.c"'] == 3.0
    assert found['w1.."a.b".c'] == 3.0
    assert sum(name.startswith("pair_accuracy.") for name in found) == 16


def test_types_that_differ_by_a_nul_are_two() -> None:
    found = of_types("a", "a\0")
    assert found["w1.a.a\0"] == 1.0
    assert {"pair_accuracy.a", "pair_accuracy.a\0"} <= set(found)


def test_types_that_should_differ_and_do_not_are_warned_of() -> None:
    """Three lists a type with the same rewards, which their utilities want 0.2 apart."""
    lists = [example((0, 1), ("open", "closed")[i % 2], 2) for i in range(6)]
    rewards = np.tile([1.0, 0.0], (6, 1))
    best = [np.array([1.0, 0.0])] * 6

    def warned(**settings: Any) -> RewardEvaluation:
        batches = rank_eval_batches(lists, {}, 6, sizes_of(lists, 2), 0)
        return evaluate_reward_model(lambda _: (0.0, 6.0, rewards), batches, lists, [[None, None]] * 6, **settings)

    found = warned(best=best, apart={("closed", "open"): 0.2})
    (line,) = found.warnings
    assert line.startswith("closed and open: one reward distribution (W1 0.000, expected 0.200")
    assert found.metrics["collapse_index"] == 1.0
    assert warned(best=best).warnings == ()


def test_rows_carry_the_gold_of_the_response_they_are_about() -> None:
    """Responses stand from best to worst in a batch, in the order of the file in ``scores``."""
    found = evaluated(LISTS).rows
    assert [(row["list"], row["rank"], row["reward"], row["gold"]) for row in found] == [
        (0, 0, 0.75, 0.9),
        (0, 1, 0.5, 0.2),
        (0, 2, 0.625, 0.1),
        (1, 0, 1.0, 1.0),
        (1, 0, 0.25, 1.0),
        (1, 1, 0.5, 0.0),
        (2, 0, 0.25, None),
        (2, 1, 0.25, None),
    ]
    assert [row["prompt_type"] for row in found] == ["open"] * 3 + ["closed"] * 5


def test_lists_longer_than_the_model_takes_are_thinned_alike() -> None:
    """Of three responses the best and the worst are kept, in rewards, ranks and gold."""
    found = evaluated(LISTS, list_size=2)
    rows = [(row["rank"], row["reward"], row["gold"]) for row in found.rows if row["list"] == 0]
    assert rows == [(0, 0.75, 0.9), (1, 0.625, 0.1)]


def test_one_kind_of_prompt_has_no_distance_and_an_unknown_kind_no_accuracy_of_its_own() -> None:
    found = evaluated([example((1, 0, 2), "", 0), example((0, 0, 1), "open", 1)])
    assert set(found.metrics) == {"loss", "pair_accuracy", "pair_accuracy.open"}


PROMPTS = [Record(id=str(i), prompt=f"p{i}", responses=(), prompt_type=kind) for i, kind in enumerate("aab")]


def test_gold_is_averaged_by_prompt_type() -> None:
    worth = {("p0", "x"): 1.0, ("p1", "y"): 0.25, ("p2", "x"): 0.5}
    metrics = gold_metrics(PROMPTS, ["x", "y", "x"], lambda prompt, response: worth[prompt, response])
    assert metrics == {"gold.a": 0.625, "gold.b": 0.5}
    assert gold_metrics(PROMPTS, ["x", "y", "x"], None) == {}
    with pytest.raises(ValueError, match="shorter"):
        gold_metrics(PROMPTS, ["x"], lambda prompt, response: 0.0)


def test_diversity_by_hand() -> None:
    """Pairs of words: a b, b a in the first text, the same in the second, c d in the third; none in the last."""
    found = diversity_metrics(["a b a", "a b a", "c d", "e"])
    assert found == {"unique": 3 / 4, "distinct_2": 3 / 5}
    assert diversity_metrics(["", ""]) == {"unique": 0.5, "distinct_2": 0.0}


def test_completions_leave_padding_rows_and_masked_tokens_out() -> None:
    tokenizer = build_tokenizer("byte")

    def batch(*index: int) -> PromptBatch:
        rows = np.asarray(index, np.int32)
        return PromptBatch(ids=rows[:, None], mask=rows[:, None] >= 0, index=rows, row=np.arange(2, dtype=np.int32))

    def complete(batch: PromptBatch, number: int) -> tuple[np.ndarray, np.ndarray]:
        texts = {0: "abc", 1: "def", 2: "ghi", -1: "xyz"}
        ids = np.array([tokenizer.encode(texts[int(i)]) for i in batch.index])
        return ids, np.arange(3) <= np.asarray(batch.index)[:, None]

    found = sample_completions(complete, [batch(0, 1), batch(2, -1)], tokenizer)
    assert found.texts == ["a", "de", "ghi"]
    assert found.lengths.tolist() == [1, 2, 3]
