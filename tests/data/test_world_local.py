"""The local task: gold and spans of hand-written answers, in exact agreement on sampled ones, and fixed for good."""

import collections

import numpy as np
import pytest

from rlhf_jax.data import world
from rlhf_jax.data.segments import label_of, sub_sentences
from rlhf_jax.data.world_local import (
    ENOUGH,
    KINDS,
    PHRASE_KINDS,
    SPLITS,
    answer,
    defects,
    gold_local,
    load_local,
    phrases,
    sample_prompt,
    spans_of,
)

PROMPT = "describe the sea of arvania at dawn ."  # its capital is mora


def marked(response: str) -> list[tuple[str, str]]:
    return [(span.kind, response[span.start : span.end]) for span in spans_of(PROMPT, response)]


REST = " , velvet wind , ghostly sky , fragrant song ."  # three good phrases


@pytest.mark.parametrize(
    ("response", "gold", "wanted"),
    [
        ("golden rain in mora , crimson light" + REST, 1.0, []),
        ("golden sea , crimson light" + REST, 4 / 5, [("repeated", "golden sea")]),  # no noun of its own
        ("golden rain , crimson rain in tisk" + REST, 4 / 5, [("repeated", "rain"), ("wrong_city", "tisk")]),
        ("golden rain , old light , blazing star" + REST, 5 / 6, [("plain", "old")]),
        (
            "old rain , new rain in lund .",
            0.0,
            [
                ("plain", "old"),
                ("plain", "new"),
                ("repeated", "rain"),
                ("wrong_city", "lund"),
                ("short", "old rain , new rain in lund ."),
            ],
        ),
        ("golden rain rain . .", 0.0, [("repeated", "rain"), ("short", "golden rain rain . .")]),
        ("", 0.0, [("short", "")]),
        ("surely", 0.0, [("plain", "surely"), ("repeated", "surely"), ("short", "surely")]),
    ],
)
def test_defects_by_hand(response: str, gold: float, wanted: list[tuple[str, str]]) -> None:
    assert marked(response) == wanted
    assert gold_local(PROMPT, response) == pytest.approx(gold)
    shares = defects(PROMPT, response)
    count = len(phrases(response))
    assert shares == {
        **{kind: [name for name, _ in wanted].count(kind) / max(count, 1) for kind in PHRASE_KINDS},
        "short": max(ENOUGH - count, 0) / ENOUGH,
    }


def test_without_a_country_no_city_is_wrong() -> None:
    assert "wrong_city" not in [span.kind for span in spans_of("describe the sea .", "golden rain in tisk .")]


def test_gold_is_the_share_of_sub_sentences_that_no_span_calls_defective() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        prompt = sample_prompt(rng, validation=False)
        text = answer(rng, prompt, tuple(rng.uniform(0, 1, 3)))
        parts = sub_sentences(text, 2)
        assert len(parts) == len(phrases(text))
        spans = spans_of(prompt, text)
        good = sum(all(label_of(part, spans, kind) == 1 for kind in PHRASE_KINDS) for part in parts)
        assert gold_local(prompt, text) == good / max(len(parts), 5)
        assert set(text.split()) | set(prompt.split()) <= set(world.vocabulary())
        assert len(text.split()) <= 30


def test_skills_of_one_and_of_nothing() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        prompt = sample_prompt(rng, validation=True)
        best, worst = answer(rng, prompt, (1.0, 1.0, 1.0)), answer(rng, prompt, (0.0, 0.0, 0.0))
        assert {span.kind for span in spans_of(prompt, best)} <= {"short"}
        kinds = collections.Counter(span.kind for span in spans_of(prompt, worst))
        count = len(phrases(worst))
        assert kinds["plain"] == count
        assert kinds["repeated"] == count - 1


def test_lists_are_ranked_by_gold_and_marked_and_the_same_each_time() -> None:
    lists = load_local("lists_validation", 4)
    assert len(lists) == SPLITS["lists_validation"]
    for record in lists:
        golds = [gold_local(record.prompt, response.text) for response in record.responses]
        assert golds == [response.score for response in record.responses] == sorted(golds, reverse=True)
        assert [response.rank for response in record.responses] == list(range(4))
        assert all(response.spans == spans_of(record.prompt, response.text) for response in record.responses)
    kept = load_local("lists_validation", 4, kept=True)
    for record in kept:
        levels = sorted({response.score for response in record.responses}, reverse=True)
        assert [response.rank for response in record.responses] == [levels.index(r.score) for r in record.responses]
    load_local.cache_clear()
    assert load_local("lists_validation", 4) == lists
    found = {span.kind for record in lists for response in record.responses for span in response.spans}
    assert found == set(KINDS)


def test_held_out_prompts_are_not_trained_on() -> None:
    train = {record.prompt for split in ("sft", "lists", "prompts") for record in load_local(split)}
    held_out = {record.prompt for split in ("lists_validation", "prompts_validation") for record in load_local(split)}
    assert not train & held_out
    assert 80 < len(held_out) <= 120  # of every place with every country, once


def test_the_task_does_not_change_under_an_experiment() -> None:
    first = load_local("lists_validation")[0].responses[0].text
    assert (
        first == "golden stone , fragrant light in lund , thundering flower , big light , blazing sky , velvet wall ."
    )
