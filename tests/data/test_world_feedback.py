"""Feedback of the embedded world: exact without noise, with it as often wrong as its probabilities say."""

import dataclasses
import itertools
import math
from collections import Counter

import numpy as np
import pytest

from rlhf_jax.data.records import Record, Response
from rlhf_jax.data.world_feedback import GIVE, JUDGES, TIE_WEIGHT, Annotators, give_feedback, outcomes, prefers

KINDS = ("pairs", "margins", "ties", "edges", "labels", "scores")
GOLD = (1.0, 0.96, 0.84, 0.84, 0.36, 0.0)


def record(number: int, gold: tuple[float, ...] = GOLD) -> Record:
    """A list of the world, best first; each response's text is its place."""
    responses = tuple(Response(str(place), place, score, "world") for place, score in enumerate(gold))
    return Record(f"lists-{number}", "a prompt", responses, "open")


def told(
    kind: str, noise: float = 0.0, count: int = 1, gold: tuple[float, ...] = GOLD, many: int = 400
) -> list[Record]:
    return [give_feedback(record(number, gold), Annotators(kind, noise, count)) for number in range(many)]


def places(one: Record) -> list[int]:
    return [int(response.text) for response in one.responses]


def test_lists_are_the_records_themselves() -> None:
    assert give_feedback(record(0), Annotators("lists")) == record(0)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_said_depends_on_the_record_alone(kind: str) -> None:
    """Not on how often or in what order the records are read; and the gold is not handed on."""
    annotators = Annotators(kind, 0.3)
    forward = [give_feedback(record(number), annotators) for number in range(20)]
    backward = [give_feedback(record(number), annotators) for number in reversed(range(20))]
    assert forward == backward[::-1]
    # Not the same draw for all: noise of 100 leaves no other difference between lists of equal gold.
    assert len({dataclasses.replace(one, id="") for one in told(kind, 100.0, many=20)}) > 5
    for one in forward:
        assert (one.prompt, one.prompt_type, one.id.split("-")[0]) == ("a prompt", "open", "lists")
        assert {response.source for response in one.responses} == {"world"}
        if kind != "scores":
            assert {response.score for response in one.responses} == {None}
        if kind in ("labels", "scores"):
            assert {response.rank for response in one.responses} == {None}


# ------------------------------------------------------------------------------ the probabilities


def test_preferences_are_logistic_choices() -> None:
    # at a gap of noise x log 3 three of four choices are right
    assert float(prefers(0.2 * math.log(3), 0.2)) == pytest.approx(0.75)
    np.testing.assert_allclose(prefers(np.array([-0.5, 0.0, 0.5]), 0.0), [0, 0.5, 1])
    np.testing.assert_allclose(prefers(np.array([-0.5, 0.5]), 0.1).sum(), 1)
    np.testing.assert_allclose(prefers(np.array([-0.5, 0.5]), 1e-9), [0, 1])


def test_outcomes_with_ties_are_davidsons() -> None:
    gap, noise = 0.3, 0.2
    odds = np.array([math.exp(gap / noise), 1.0, TIE_WEIGHT * math.exp(gap / noise / 2)])
    np.testing.assert_allclose(outcomes(gap, noise), odds / odds.sum())
    np.testing.assert_allclose(outcomes(gap, 0.0), [1, 0, 0])
    np.testing.assert_allclose(outcomes(-gap, 0.0), [0, 1, 0])
    np.testing.assert_allclose(outcomes(0.0, 0.0), [0, 0, 1])


# ------------------------------------------------------------------------------ without noise


def test_an_exact_annotator_prefers_the_better_answer_and_tosses_a_coin_between_equals() -> None:
    found = told("pairs")
    equal = 0
    for one in found:
        first, second = places(one)
        assert first != second
        assert [response.rank for response in one.responses] == [0, 1]
        assert GOLD[first] >= GOLD[second]
        equal += GOLD[first] == GOLD[second]
        assert (one.margin, one.edges, one.annotator) == (None, None, "")
    # places 2 and 3 are equal: one pair of fifteen; both orders occur
    assert abs(equal - 400 / 15) < 4 * math.sqrt(400 / 15)
    assert {tuple(places(one)) for one in found} >= {(2, 3), (3, 2)}
    assert len({tuple(sorted(places(one))) for one in found}) == 15


def test_margins_say_how_large_the_difference_is() -> None:
    expected = {(0, 5): 1.0, (0, 4): 2 / 3, (2, 4): 1 / 3, (0, 1): 0.0, (4, 5): 1 / 3, (2, 3): 0.0, (2, 5): 1.0}
    found = {tuple(sorted(places(one))): one.margin for one in told("margins")}
    assert {pair: found[pair] for pair in expected} == expected
    assert set(found.values()) == {0.0, 1 / 3, 2 / 3, 1.0}
    assert [places(one) for one in told("margins")] == [places(one) for one in told("pairs")]


def test_exact_ties_are_those_of_equal_gold() -> None:
    for one in told("ties"):
        first, second = places(one)
        ranks = tuple(response.rank for response in one.responses)
        assert ranks == ((0, 0) if GOLD[first] == GOLD[second] else (0, 1))
        assert GOLD[first] >= GOLD[second]


def closure(one: Record) -> set[tuple[int, int]]:
    found = set(one.edges or ())
    while True:
        more = found | {(i, k) for i, j in found for j_, k in found if j == j_}
        if more == found:
            return found
        found = more


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_edges_order_two_piles_and_compare_no_answer_of_equal_gold(noise: float) -> None:
    seen = Counter()
    for one in told("edges", noise, many=200):
        order = closure(one)
        assert not any(i == j or (j, i) in order for i, j in order)  # acyclic
        assert places(one) == list(range(6))
        joined = {frozenset(pair) for pair in order}
        # Compared or not is transitive but for equals, so that there are two piles of three.
        groups = {frozenset(j for j in range(6) if j == i or {i, j} in joined) for i in range(6)}
        for i, j in itertools.combinations(range(6), 2):
            if GOLD[i] == GOLD[j]:
                assert {i, j} not in joined
        assert len(joined) == (6 if all(len(group) == 3 for group in groups) else 5)
        seen[len(joined)] += 1
        if not noise:
            assert all(GOLD[i] > GOLD[j] for i, j in order)
        # The rank is the longest chain of better responses.
        chain = dict.fromkeys(range(6), 0)
        for _ in range(6):
            chain = {j: max((chain[i] + 1 for i, k in order if k == j), default=0) for j in range(6)}
        assert [response.rank for response in one.responses] == [chain[j] for j in range(6)]
    # The two equals share a pile in two cases of five.
    assert abs(seen[5] - 80) < 4 * math.sqrt(200 * 0.4 * 0.6)


def test_a_short_list_is_one_pile() -> None:
    for one in told("edges", gold=(1.0, 0.5, 0.0), many=5):
        assert one.edges == ((0, 1), (1, 2))


def test_exact_verdicts_and_scores_are_the_gold() -> None:
    for one in told("labels", many=20):
        assert [response.label for response in one.responses] == [1.0, 1.0, 1.0, 1.0, 0.0, 0.0]
    for one in told("scores", many=20):
        assert [response.score for response in one.responses] == list(GOLD)


# ------------------------------------------------------------------------------ with noise


def close(hits: int, trials: int, p: float) -> bool:
    """Within four standard errors of a binomial share."""
    return abs(hits - trials * p) < 4 * math.sqrt(trials * p * (1 - p))


def test_noisy_pairs_are_right_as_often_as_they_should_be() -> None:
    noise = 0.4
    found = told("pairs", noise, gold=(0.9, 0.5), many=2000)
    assert close(sum(places(one) == [0, 1] for one in found), 2000, 1 / (1 + math.exp(-1)))


def test_noisy_ties_have_their_three_shares() -> None:
    found = told("ties", 0.4, gold=(0.9, 0.5), many=2000)
    said = Counter((*places(one), *(response.rank for response in one.responses)) for one in found)
    odds = np.array([math.e, 1.0, math.exp(0.5)])
    better, worse, tie = odds / odds.sum()
    assert close(said[0, 1, 0, 1], 2000, better)
    assert close(said[1, 0, 0, 1], 2000, worse)
    assert close(said[0, 1, 0, 0] + said[1, 0, 0, 0], 2000, tie)


def test_every_comparison_of_a_noisy_pile_is_a_logistic_choice() -> None:
    """Within one pile of three: each pair, whether written down or following from others."""
    gold, noise = (0.9, 0.5, 0.3), 0.4
    orders = [closure(one) for one in told("edges", noise, gold=gold, many=2000)]
    for i, j in itertools.combinations(range(3), 2):
        hits = sum((i, j) in order for order in orders)
        assert hits + sum((j, i) in order for order in orders) == 2000
        assert close(hits, 2000, 1 / (1 + math.exp((gold[j] - gold[i]) / noise)))


def test_noisy_verdicts_and_scores_have_their_mean_and_spread() -> None:
    found = told("labels", 0.25, gold=(1.0, 0.4), many=2000)
    for place, p in enumerate((1 / (1 + math.exp(-2)), 1 / (1 + math.exp(0.4)))):
        assert close(sum(one.responses[place].label == 1.0 for one in found), 2000, p)
    errors = np.array([one.responses[0].score for one in told("scores", 0.3, gold=(0.9, 0.5), many=2000)]) - 0.9
    assert abs(errors.mean()) < 4 * 0.3 / math.sqrt(2000)
    assert errors.std() == pytest.approx(0.3, rel=4 / math.sqrt(4000))
    assert errors.max() > 0.1  # not clipped


# ------------------------------------------------------------------------------ mixed, and several annotators


def test_mixed_records_have_all_kinds_alike() -> None:
    annotators = Annotators("mixed", 0.2)
    kinds = Counter(annotators.assignment(f"lists-{number}")[0] for number in range(3000))
    assert set(kinds) == set(KINDS) == set(GIVE)
    assert all(close(count, 3000, 1 / 6) for count in kinds.values())
    # of open (even) and closed (odd) prompts too
    assert len({annotators.assignment(f"lists-{number}")[0] for number in range(0, 100, 2)}) == 6
    for number in range(60):
        kind = annotators.assignment(f"lists-{number}")[0]
        one = give_feedback(record(number), annotators)
        assert (one.edges is not None) == (kind == "edges")
        assert (one.margin is not None) == (kind == "margins")
        assert (one.responses[0].label is not None) == (kind == "labels")
        assert (one.responses[0].score is not None) == (kind == "scores")


def test_several_annotators_have_names_and_noise_of_their_own() -> None:
    annotators = Annotators("pairs", 0.2, 3)
    assert annotators.names == ("careful", "hasty", "careless")
    assert [annotators.noise_of(name) for name in annotators.names] == pytest.approx([0.2, 0.4, 0.8])
    assert Annotators("pairs", 0.2).noise_of("") == 0.2
    found = told("pairs", 0.2, 3, gold=(0.9, 0.5), many=3000)
    for name, many in Counter(one.annotator for one in found).items():
        assert close(many, 3000, 1 / 3)
        own = [one for one in found if one.annotator == name]
        p = 1 / (1 + math.exp(-0.4 / (0.2 * JUDGES[name])))
        assert close(sum(places(one) == [0, 1] for one in own), len(own), p)
