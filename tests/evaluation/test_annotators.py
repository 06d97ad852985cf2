"""Agreement of annotators over records, by hand."""

import numpy as np
import pytest

from rlhf_jax.data.records import Record, Response
from rlhf_jax.evaluation.annotators import measure_agreement


def ranked(prompt: str, order: str, annotator: str, ranks: tuple[int, ...] | None = None) -> Record:
    """Letters are texts, best first."""
    responses = tuple(Response(letter, place if ranks is None else ranks[place]) for place, letter in enumerate(order))
    return Record("", prompt, responses, annotator=annotator)


def test_pairs_of_two_annotators():
    records = [
        *(ranked(prompt, "ab", "ann") for prompt in "xyz"),
        ranked("x", "ab", "bob"),
        ranked("y", "ba", "bob"),
        ranked("z", "ab", "bob"),
        ranked("only", "ab", "bob"),
    ]
    found = measure_agreement(records)
    # Units (1,1) (1,0) (1,1): observed 2 / 6; five of one value and one of the other: expected 2 * 5 / 30.
    assert found.alpha == pytest.approx(1 - (2 / 6) / (10 / 30))
    assert found.w is None
    assert found.with_others == {"ann": (3, pytest.approx(2 / 3)), "bob": (3, pytest.approx(2 / 3))}


def test_the_side_on_which_a_text_was_shown_does_not_matter():
    records = [
        Record("", "x", (Response("b", 1), Response("a", 0)), annotator="ann"),
        ranked("x", "ab", "bob"),
        ranked("y", "ba", "ann"),
        ranked("y", "ba", "bob"),
    ]
    assert measure_agreement(records).alpha == 1.0


def test_rankings_have_a_concordance_and_comparisons():
    found = measure_agreement([ranked("x", "abc", "ann"), ranked("x", "acb", "bob"), ranked("x", "abc", "cat")])
    # Rank sums 3, 7, 8 about 6: 12 * (9 + 1 + 4) / (9 * (27 - 3)).
    assert (found.w, found.rankings) == (pytest.approx(12 * 14 / 216), 1)
    # Of ab, ac, bc all agree but bob on bc.
    assert found.with_others["ann"] == (3, pytest.approx((1 + 1 + 0.5) / 3))
    assert found.with_others["bob"] == (3, pytest.approx(2 / 3))


def test_a_tie_is_a_judgement_and_a_missing_comparison_is_none():
    tied = ranked("x", "ab", "ann", ranks=(0, 0))
    assert measure_agreement([tied, ranked("x", "ab", "bob")]).with_others["ann"] == (1, 0.0)
    partial = Record("", "x", tuple(Response(t, 0) for t in "abc"), annotator="ann", edges=((0, 1),))
    found = measure_agreement([partial, ranked("x", "abc", "bob")])
    assert found.with_others["ann"] == (1, 1.0)
    assert found.w is None


def test_comparisons_within_different_sets_of_answers_count():
    """One of them left an answer out of the ranking."""
    found = measure_agreement([ranked("x", "abc", "ann"), ranked("x", "ba", "bob"), ranked("x", "ac", "cat")])
    assert found.with_others == {"ann": (2, 0.5), "bob": (1, 0.0), "cat": (1, 1.0)}
    assert found.w is None


def test_nobody_judged_the_same():
    found = measure_agreement([ranked("x", "ab", "ann"), ranked("y", "ab", "bob")])
    assert (found.alpha, found.w) == (None, None)
    assert found.with_others["ann"][0] == 0
    assert np.isnan(found.with_others["ann"][1])


def test_the_last_judgement_of_an_annotator_counts():
    records = [ranked("x", "ab", "ann"), ranked("x", "ba", "ann"), ranked("x", "ba", "bob")]
    assert measure_agreement(records).with_others["ann"] == (1, 1.0)
