"""Figures of verdicts, scores and ties by hand, and the best that could be done against many simulated annotators."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest

from rlhf_jax.data.examples import ListExample
from rlhf_jax.data.loader import thin
from rlhf_jax.data.records import Record, Response
from rlhf_jax.data.world_feedback import Annotators, give_feedback
from rlhf_jax.evaluation.verdicts import bayes_optimal, gold_accuracy, rewards_of_responses, verdict_metrics
from rlhf_jax.learners.reward import FeedbackSpec

TOKEN = np.zeros(1, np.int32)


def example(
    ranks: Sequence[int],
    labels: Sequence[float | None] = (),
    scores: Sequence[float | None] = (),
    edges: tuple[tuple[int, int], ...] | None = None,
) -> ListExample:
    none = (None,) * len(ranks)
    return ListExample(
        TOKEN, (TOKEN,) * len(ranks), tuple(ranks), "", 0, edges=edges, labels=tuple(labels) or none,
        scores=tuple(scores) or none,
    )  # fmt: skip


def test_rewards_come_back_to_their_responses() -> None:
    lists = [example((2, 0, 1)), example((0, 1))]
    kept = [thin(one.ranks, 2) for one in lists]
    assert kept == [[1, 0], [0, 1]]
    rows = [{"reward": value} for value in (0.1, 0.2, 0.3, 0.4)]
    first, second = rewards_of_responses(rows, lists, 2)
    np.testing.assert_array_equal(first, [0.2, 0.1, math.nan])
    np.testing.assert_array_equal(second, [0.3, 0.4])


# ------------------------------------------------------------------------------ the model's figures


def test_verdicts_by_hand() -> None:
    """Probabilities 3/4 (good), 1/5 (bad), 1/2 (good), 4/5 (bad); one without a verdict, one not encoded."""
    lists = [example((0, 0, 0), labels=(1.0, 0.0, None)), example((0, 0, 0), labels=(1.0, 0.0, 1.0))]
    logit = [np.log([3.0, 0.25, 9.0]), np.array([0.0, math.log(4), math.nan])]
    expected = {
        "label_accuracy": (1 + 1 + 0.5 + 0) / 4,
        "label_log_loss": -(math.log(0.75) + math.log(0.8) + math.log(0.5) + math.log(0.2)) / 4,
        "label_brier": (0.25**2 + 0.2**2 + 0.5**2 + 0.8**2) / 4,
        "label_auc": 2 / 4,  # 3/4 and 1/2 against 1/5 and 4/5: two of four are right
    }
    assert verdict_metrics(lists, logit, FeedbackSpec(), bounded=False) == pytest.approx(expected)
    likely = [1 / (1 + np.exp(-one)) for one in logit]
    assert verdict_metrics(lists, likely, FeedbackSpec(), bounded=True) == pytest.approx(expected)
    assert verdict_metrics(lists, logit, FeedbackSpec(labels=0.0), bounded=False) == {}


def test_doubtful_verdicts_have_a_loss_and_certain_rewards_no_infinite_one() -> None:
    lists = [example((0, 0), labels=(0.5, 0.25))]
    found = verdict_metrics(lists, [np.array([0.0, 0.0])], FeedbackSpec(), bounded=False)
    assert found["label_log_loss"] == pytest.approx(math.log(2))
    assert found["label_accuracy"] == 0.5  # of the one that is no draw
    assert "label_auc" not in found
    for rewards, bounded in ((np.array([0.0, 1.0]), True), (np.array([-2e3, 2e3]), False)):
        assert math.isfinite(verdict_metrics(lists, [rewards], FeedbackSpec(), bounded=bounded)["label_log_loss"])


def test_scores_by_hand() -> None:
    """On a scale of 1 to 5: rewards 0, 1/2, 1 stand for 1, 3, 5."""
    spec = FeedbackSpec(labels=0.0, scores=1.0, low=1.0, high=5.0)
    lists = [example((0, 0, 0, 0), scores=(2.0, 3.0, 3.5, None))]
    found = verdict_metrics(lists, [np.array([0.0, 0.5, 1.0, 7.0])], spec, bounded=False)
    assert found == pytest.approx({"score_rmse": math.sqrt((1 + 0 + 2.25) / 3), "score_spearman": 1.0})
    assert verdict_metrics(lists, [np.array([0.0, 0.5, 1.0, 7.0])], FeedbackSpec(), bounded=False) == {}


@pytest.mark.parametrize("loss", ["davidson", "rao_kupper"])
def test_three_outcomes_by_hand(loss: str) -> None:
    # e^r = 4, 1. Davidson, weight 1/2: 4:1:1 of 6; Rao-Kupper, theta 2: 2/3, 1/9, 2/9.
    likely = (4 / 6, 1 / 6, 1 / 6) if loss == "davidson" else (2 / 3, 1 / 9, 2 / 9)
    spec = FeedbackSpec(loss=loss, tie=0.5 if loss == "davidson" else math.log(2), labels=0.0)
    rewards = np.log([4.0, 1.0])
    for ranks, outcome in (((0, 1), 0), ((1, 0), 1), ((0, 0), 2)):
        found = verdict_metrics([example(ranks)], [rewards], spec, bounded=False)
        assert found["three_way_log_loss"] == pytest.approx(-math.log(likely[outcome]))
        assert found["three_way_accuracy"] == (outcome == 0)
    # a list has all its judgements, each once; what was never compared is none
    many = verdict_metrics(
        [example((0, 0, 1)), example((0, 1), edges=())], [np.zeros(3), np.zeros(2)], spec, bounded=False
    )
    equal = {"davidson": (0.4, 0.4, 0.2), "rao_kupper": (1 / 3, 1 / 3, 1 / 3)}[loss]
    assert many["three_way_log_loss"] == pytest.approx(-(2 * math.log(equal[0]) + math.log(equal[2])) / 3)


def test_gold_accuracy_counts_pairs_of_different_gold() -> None:
    gold = {"a": 1.0, "b": 0.5, "c": 0.5, "d": 0.0}
    records = [Record("1", "p", tuple(Response(text) for text in "abcd")), Record("2", "p", (Response("a"),))]
    # a > b yes, a > c equal rewards, a > d no; b > d no, c > d no (d was not better than its betters)
    found = gold_accuracy(records, [np.array([0.3, 0.1, 0.3, 0.9]), np.ones(1)], lambda prompt, text: gold[text])
    assert found == {"gold_accuracy": pytest.approx((1 + 0.5 + 0 + 0 + 0) / 5)}
    assert gold_accuracy(records[1:], [np.ones(1)], lambda prompt, text: 0.0) == {}


# ------------------------------------------------------------------------------ the best that could be done

QUALITY = (1.0, 0.9, 0.6, 0.6, 0.2, 0.0)


def true(prompt: str, text: str) -> float:
    return QUALITY[int(text)]


def records_of(kind: str, noise: float, count: int = 1, many: int = 600) -> tuple[list[Record], Annotators]:
    annotators = Annotators(kind, noise, count)
    responses = tuple(Response(str(place), place, score) for place, score in enumerate(QUALITY))
    return [give_feedback(Record(f"r-{i}", "p", responses), annotators) for i in range(many)], annotators


@pytest.mark.parametrize("kind", ["pairs", "margins", "edges"])
def test_the_best_of_pairs_by_plain_loops(kind: str) -> None:
    records, annotators = records_of(kind, 0.3, many=60)
    hits, loss = [], []
    for record in records:
        golds = [true("", response.text) for response in record.responses]
        for i, j in itertools.combinations(range(len(golds)), 2):
            order = {(i, j), (j, i)} & _order(record)
            if order:
                p = 1 / (1 + math.exp(-(golds[i] - golds[j]) / 0.3))
                hits.append(max(p, 1 - p))
                loss.append(-p * math.log(p) - (1 - p) * math.log(1 - p))
    found = bayes_optimal(records, annotators, true)
    assert found == pytest.approx({"bayes.pair_accuracy": np.mean(hits), "bayes.log_loss": np.mean(loss)})


def _order(record: Record) -> set[tuple[int, int]]:
    if record.edges is None:
        return {(0, 1)}
    found = set(record.edges)
    for _ in range(len(record.responses)):
        found |= {(i, k) for i, j in found for j_, k in found if j == j_}
    return found


def test_one_pair_one_verdict_one_tie_by_hand() -> None:
    """Gold 1 and 0, noise 1 / log 3: three of four choices are right; verdicts from 1/2 away are sqrt 3 : 1."""
    noise = 1 / math.log(3)
    pair = Record("x", "p", (Response("0", 0), Response("5", 1)))
    found = bayes_optimal([pair], Annotators("pairs", noise), true)
    entropy = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    assert found == pytest.approx({"bayes.pair_accuracy": 0.75, "bayes.log_loss": entropy})
    # Davidson with weight 1: 3 : 1 : sqrt 3
    odds = np.array([3, 1, math.sqrt(3)]) / (4 + math.sqrt(3))
    found = bayes_optimal([pair], Annotators("ties", noise), true)
    assert found == pytest.approx(
        {
            "bayes.pair_accuracy": 0.75,
            "bayes.log_loss": entropy,
            "bayes.three_way_accuracy": odds.max(),
            "bayes.three_way_log_loss": -(odds @ np.log(odds)),
        }
    )
    verdicts = Record("x", "p", (Response("0", label=1.0), Response("5", label=0.0)))
    p = math.sqrt(3) / (1 + math.sqrt(3))
    found = bayes_optimal([verdicts], Annotators("labels", noise), true)
    assert found == pytest.approx(
        {
            "bayes.label_accuracy": p,
            "bayes.label_log_loss": -p * math.log(p) - (1 - p) * math.log(1 - p),
            "bayes.label_brier": p * (1 - p),
        }
    )
    found = bayes_optimal([verdicts], Annotators("scores", 0.3), true)
    assert found == pytest.approx({"bayes.score_rmse": 0.3})


def test_exact_annotators_can_be_foreseen_but_for_their_coins() -> None:
    records, annotators = records_of("pairs", 0.0, many=30)
    coins = sum(true("", a.text) == true("", b.text) for a, b in (record.responses for record in records))
    found = bayes_optimal(records, annotators, true)
    assert found["bayes.pair_accuracy"] == pytest.approx(1 - coins / 2 / 30)
    assert found["bayes.log_loss"] == pytest.approx(coins / 30 * math.log(2))
    assert bayes_optimal(*records_of("ties", 0.0, many=30), true)["bayes.three_way_log_loss"] == 0


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("kind", ["pairs", "ties", "edges", "labels", "scores", "mixed"])
def test_the_true_rewards_reach_the_best_and_no_more(kind: str, count: int) -> None:
    """A model whose reward is the annotators' own logit, (gold - 1/2) / noise, on many records: within 4 standard
    errors or so of the expectation. Three annotators have three logits, which one reward cannot be."""
    noise = 0.4
    records, annotators = records_of(kind, noise, count, many=1500)
    spec = FeedbackSpec(loss="davidson", tie=1.0, scores=1.0, low=0.5, high=0.5 + noise)
    lists, rewards = [], []
    for one in records:
        ranks = [response.rank for response in one.responses]
        told = [[getattr(response, name) for response in one.responses] for name in ("labels"[:-1], "score")]
        lists.append(example([rank or 0 for rank in ranks], *told, edges=one.edges if ranks[0] is not None else ()))
        rewards.append(np.array([(true("", response.text) - 0.5) / noise for response in one.responses]))
    found, best = verdict_metrics(lists, rewards, spec, bounded=False), bayes_optimal(records, annotators, true)
    compared = [name for name in found if f"bayes.{name}" in best]
    if kind in ("ties", "labels", "scores", "mixed"):
        assert compared
    for name in compared:
        if kind == "mixed" and name == "three_way_log_loss":
            assert found[name] > best[f"bayes.{name}"]  # which also knows which answers nobody may call equal
            continue
        if count == 1 or "accuracy" in name or name == "score_rmse":
            assert found[name] == pytest.approx(best[f"bayes.{name}"], abs=0.04), name
        else:
            assert found[name] > best[f"bayes.{name}"], name
