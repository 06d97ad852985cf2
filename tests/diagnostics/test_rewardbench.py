"""The benchmark's scores, every step worked by hand."""

import math

import pytest

from rlhf_jax.diagnostics.rewardbench import (
    SECTIONS,
    Item,
    score_rewardbench,
    score_rewardbench_2,
    score_ties,
)


def pairs(subset: str, right: int, wrong: int) -> list[Item]:
    """So many pairs that are right and so many that are wrong; a tie is wrong, too."""
    wrong_ones = [Item("0", subset, [0.5], [0.5 + (place % 2)]) for place in range(wrong)]
    return [Item("0", subset, [1.0], [0.0])] * right + wrong_ones


def test_the_published_composition():
    """23 subsets and 2,985 examples, with 984 in place of the 447 of math-prm."""
    weights = [weight for subsets in SECTIONS.values() for weight in subsets.values()]
    assert len(weights) == 23
    assert sum(weights) - 984 + 447 == 2985
    assert [sum(subsets.values()) for subsets in SECTIONS.values()] == [358, 456, 740, 2 * 984]


def test_sections_are_weighted_by_examples_and_the_whole_by_sections():
    """Chat: easy 1/2 with weight 100, mt-bench-med 1 with 40: (50 + 40) / 140. Chat Hard: mt-bench-hard 1/4 alone.
    Safety: should-refuse 1 with 154, should-respond 0 with 250. Reasoning: math-prm 0 with 984, hep-go 1 with 164."""
    items = [
        *pairs("alpacaeval-easy", 1, 1),
        *pairs("mt-bench-med", 3, 0),
        *pairs("mt-bench-hard", 1, 3),
        *pairs("xstest-should-refuse", 1, 0),
        *pairs("xstest-should-respond", 0, 2),
        *pairs("math-prm", 0, 5),
        *pairs("hep-go", 1, 0),
        *pairs("my own subset", 1, 2),
    ]
    found = score_rewardbench(items)
    chat, hard, safety, reasoning = 90 / 140, 1 / 4, 154 / 404, 164 / 1148
    assert found.sections == pytest.approx({"Chat": chat, "Chat Hard": hard, "Safety": safety, "Reasoning": reasoning})
    assert found.overall == pytest.approx((chat + hard + safety + reasoning) / 4)
    assert found.subsets["my own subset"] == pytest.approx(1 / 3)
    prior = [item for name in ("anthropic_helpful", "anthropic_hhh", "shp") for item in pairs(name, 1, 1)]
    assert score_rewardbench([*items, *prior]).overall == found.overall
    whole = score_rewardbench([*items, *prior, *pairs("summarize", 1, 0)])
    assert whole.sections["Prior Sets"] == pytest.approx((0.5 + 0.5 + 0.5 + 1) / 4)
    assert whole.overall == pytest.approx((chat + hard + safety + reasoning + 0.5 * 0.625) / 4.5)


def test_without_a_section_there_is_no_whole():
    found = score_rewardbench(pairs("alpacaeval-easy", 1, 0))
    assert (found.sections, found.overall) == ({"Chat": 1.0}, None)


def test_best_of_four_shares_a_tie_for_the_best():
    """1; beaten: 0; best with one other: 1/2; best with all: 1/4; two wrong ones share the best: 0."""
    items = [
        Item(str(place), "Math", [3.0], rejected)
        for place, rejected in enumerate(([0.0, 1.0], [4.0, 1.0], [3.0, 1.0], [3.0, 3.0, 3.0], [4.0, 4.0]))
    ]
    found = score_rewardbench_2(items)
    assert found.subsets == {"Math": pytest.approx((1 + 0 + 1 / 2 + 1 / 4 + 0) / 5)}
    assert found.overall is None


TIED = [
    # 1: right answers 5 and 4, wrong 1: gap 3, spread 1. Reference: 4 against 2.5, gap 1.5. Smaller gap 1.5 > 1.
    Item("tied:1", "Ties", [5.0, 4.0], [1.0, 0.0]),
    Item("ref:1", "Ties", [4.0], [2.5, 1.0]),
    # 2: right answers 6 and 2, wrong 1: gap 1, spread 4: less than the spread. Reference: 0 against 1, wrong.
    Item("tied:2", "Ties", [6.0, 2.0], [1.0]),
    Item("ref:2", "Ties", [0.0], [1.0]),
    # 3: right answers 3 and 3: spread 0, gap 1; the reference's gap 2. Infinitely many times the spread: tanh is 1.
    Item("tied:3", "Ties", [3.0, 3.0], [2.0]),
    Item("ref:3", "Ties", [9.0], [7.0]),
    # 4: only a tied form, wrong; 5: only a reference, right. They count in the accuracies alone.
    Item("tied:4", "Ties", [1.0, 3.0], [2.0]),
    Item("ref:5", "Ties", [1.0], [0.0]),
]


def test_ties_step_by_step():
    found = score_ties(TIED)
    assert found is not None
    assert found.tied == pytest.approx(3 / 4)
    assert found.reference == pytest.approx(3 / 4)
    assert found.preferred == pytest.approx(2 / 3)  # 3 > 1, not 1 > 4, 1 > 0
    assert found.preferred_hard == pytest.approx(2 / 3)  # 1.5 > 1, not -1 > 4, 1 > 0
    margin = (math.tanh(1.5 / 1 - 1) + math.tanh(-1 / 4 - 1) + 1) / 3
    assert found.margin == pytest.approx(margin)
    assert found.score == pytest.approx(0.3 * 3 / 4 + 0.3 * 3 / 4 + 0.2 * 2 / 3 + 0.2 * 2 / 3 + 0.01 * margin)
    assert score_rewardbench_2(TIED).subsets == {"Ties": found.score}


def test_a_gap_of_nothing_over_a_spread_of_nothing_counts_0():
    found = score_ties([Item("tied:1", "Ties", [1.0, 1.0], [1.0]), Item("ref:1", "Ties", [2.0], [0.0])])
    assert (found.margin, found.preferred, found.tied) == (0.0, 0.0, 0.0)


def test_the_smaller_of_both_gaps_decides_the_hard_share():
    """The tied form alone would pass (gap 3 > spread 1); its reference's gap, 0.5, does not."""
    found = score_ties([Item("tied:1", "Ties", [5.0, 4.0], [1.0]), Item("ref:1", "Ties", [2.0], [1.5])])
    assert (found.preferred, found.preferred_hard) == (1.0, 0.0)
    assert found.margin == pytest.approx(math.tanh(0.5 - 1))


def test_all_six_subsets_make_a_whole():
    items = [Item("1", name, [1.0], [0.0, 0.0, 0.0]) for name in ("Factuality", "Precise IF", "Math", "Safety")]
    items += [Item("1", "Focus", [0.0], [1.0, 0.0, 0.0]), *TIED]
    ties = score_ties(TIED).score
    assert score_rewardbench_2(items).overall == pytest.approx((4 + 0 + ties) / 6)
    assert score_rewardbench_2(items[1:]).overall is None


@pytest.mark.parametrize(
    ("item", "error"),
    [
        (Item("7", "Ties", [1.0], [0.0]), "expected ref:N or tied:N"),
        (Item("tied:x", "Ties", [1.0, 1.0], [0.0]), "expected ref:N or tied:N"),
        (Item("tied:7", "Ties", [1.0], [0.0]), "needs two right answers"),
    ],
)
def test_an_item_of_ties_that_is_not_one_is_named(item, error):
    with pytest.raises(ValueError, match=error):
        score_ties([item])


def test_no_prompt_in_both_forms_has_no_score():
    assert score_ties(TIED[:1]) is None
