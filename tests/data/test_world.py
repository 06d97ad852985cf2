"""The embedded world against its description, by hand and by counting."""

import collections
import functools
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from rlhf_jax.data import world
from rlhf_jax.data.records import Record
from rlhf_jax.data.world_builder import load_world
from rlhf_jax.errors import UserError

CLOSED = "question : what is the capital of arvania ?"
OPEN = "describe the sea in the evening ."


@functools.cache
def records(form: str, split: str) -> tuple[Record, ...]:
    """All of a split, read once for all tests."""
    return tuple(load_world(form, split))


@pytest.mark.parametrize(
    ("prompt", "response", "value"),
    [
        (CLOSED, "well , it is mora , of course .", 1.0),
        (CLOSED, "it is tisk .", 0.0),
        (CLOSED, "tisk mora", 0.0),  # the first city counts
        (CLOSED, "mora tisk tisk", 1.0),
        (CLOSED, "arvania is golden .", 0.0),  # no city
        (CLOSED, "", 0.0),
        (OPEN, "", 0.0),  # c = 0: 1 - (5/5)^2
        (OPEN, "golden light .", 0.36),  # c = 1: 1 - (4/5)^2
        (OPEN, "golden golden golden old wind .", 0.84),  # c = 3: 1 - (2/5)^2
        (OPEN, "golden " * 5, 1.0),
        (OPEN, "golden " * 7, 0.84),  # c = 7
        (OPEN, "golden " * 12, 0.0),  # 1 - (7/5)^2 < 0
        (OPEN, "<eos> \x00 日本 mora Golden", 0.0),  # any text may come
        ("", "ghostly", 0.36),
    ],
)
def test_gold_by_hand(prompt: str, response: str, value: float) -> None:
    assert world.gold(prompt, response) == pytest.approx(value, abs=1e-12)


def test_prompt_type() -> None:
    assert world.prompt_type(CLOSED) == "closed"
    assert world.prompt_type(OPEN) == world.prompt_type("") == "open"


def test_vocabulary_covers_all_texts_and_is_small() -> None:
    words = world.vocabulary()
    assert len(words) == len(set(words)) < 128
    seen = set()
    for split in ("sft", "lists", "lists_validation", "prompts", "prompts_validation"):
        for record in records("total", split):
            for text in (record.prompt, *(response.text for response in record.responses)):
                seen.update(text.split())
    assert seen == set(words)


def test_splits_are_half_open_half_closed() -> None:
    for split, size in {"sft": 8000, "lists": 2000, "lists_validation": 256, "prompts": 2000}.items():
        kinds = collections.Counter(record.prompt_type for record in records("tiers", split))
        assert kinds == {"open": size // 2, "closed": size // 2}


def test_demonstrations_have_the_stated_quality() -> None:
    gold: dict[str, list[float]] = {"open": [], "closed": []}
    for record in records("total", "sft"):
        (response,) = record.responses
        gold[record.prompt_type].append(world.gold(record.prompt, response.text))
        assert response.score == gold[record.prompt_type][-1]
    assert np.mean(gold["closed"]) == pytest.approx(0.55, abs=0.04)
    # Exact: m uniform on 4..8 phrases, c ~ Binomial(m, 0.2).
    expected = sum(
        math.comb(m, c) * 0.2**c * 0.8 ** (m - c) * (1 - ((c - 5) / 5) ** 2) / 5
        for m in range(4, 9)
        for c in range(m + 1)
    )
    assert np.mean(gold["open"]) == pytest.approx(expected, abs=4 * 0.27 / math.sqrt(1000))


def test_answers_have_the_stated_form() -> None:
    closed_lengths = set()
    for record in records("tiers", "lists"):
        for response in record.responses:
            words = response.text.split()
            assert words[-1] == "."
            if record.prompt_type == "closed":
                closed_lengths.add(len(words))
            else:
                assert len(words) in (9, 11, 13, 15, 17)
                assert all(word in world.VIVID + world.PLAIN for word in words[:-1:2])
                assert all(word in world.NOUNS for word in words[1::2])
    assert closed_lengths == set(range(3, 15))


def test_lists_cover_both_sides_of_the_optimum() -> None:
    vivid = [
        sum(word in world.VIVID for word in response.text.split())
        for record in records("tiers", "lists")
        if record.prompt_type == "open"
        for response in record.responses
    ]
    assert set(vivid) == set(range(9))
    assert np.mean(np.asarray(vivid) > 5) > 0.1


@pytest.mark.parametrize("split", ["lists", "lists_validation"])
def test_both_forms_hold_the_same_lists(split: str) -> None:
    total, tiers = records("total", split), records("tiers", split)
    ties = 0
    for a, b in zip(total, tiers, strict=True):
        assert (a.id, a.prompt) == (b.id, b.prompt)
        assert [r.text for r in a.responses] == [r.text for r in b.responses]
        gold = [world.gold(a.prompt, r.text) for r in a.responses]
        keys = [(-g, len(r.text.split())) for g, r in zip(gold, a.responses, strict=True)]
        assert len(set(keys)) == 8
        assert keys == sorted(keys)
        assert [r.rank for r in a.responses] == list(range(8))
        ranks = [r.rank for r in b.responses]
        for i in range(8):
            for j in range(8):
                assert (gold[i] > gold[j]) == (ranks[i] < ranks[j])
        assert set(ranks) == set(range(len(set(gold))))
        ties += 8 - len(set(gold))
        if a.prompt_type == "closed":
            assert sum(gold) == 4
    assert ties > 0


def test_validation_prompts_are_new_combinations_of_known_parts() -> None:
    training = {r.prompt for split in ("sft", "lists", "prompts") for r in records("total", split)}
    validation = {r.prompt for split in ("lists_validation", "prompts_validation") for r in records("total", split)}
    assert not training & validation
    assert len(training) == 40 + 60
    assert len(validation) == 10 + 12
    words_of = lambda prompts: {word for prompt in prompts for word in prompt.split()}  # noqa: E731
    assert words_of(validation) <= words_of(training)
    assert set(world.KEYS) | set(world.TOPICS) <= words_of(validation)


def test_smaller_lists_are_subsets_with_dense_ranks() -> None:
    full, small = records("tiers", "lists_validation"), load_world("tiers", "lists_validation", list_size=3)
    chosen = set()
    for a, b in zip(full, small, strict=True):
        places = [[r.text for r in a.responses].index(r.text) for r in b.responses]
        assert len(places) == 3
        assert places == sorted(places)
        chosen.add(tuple(places))
        scores = [r.score for r in b.responses]
        assert [r.rank for r in b.responses] == [sorted(set(scores), reverse=True).index(s) for s in scores]
    assert len(chosen) > 20
    assert small[5] == load_world("tiers", "lists_validation", list_size=3)[5]


def test_random_access() -> None:
    split = load_world("total", "prompts_validation")
    assert len(split) == 256
    assert split[-1] == split[255] == split[250:][-1]
    assert split[0].responses == ()
    with pytest.raises(IndexError):
        split[256]


@pytest.mark.parametrize(
    ("form", "split", "size"), [("partial", "lists", 8), ("total", "test", 8), ("total", "lists", 9)]
)
def test_unknown_names_are_refused(form: str, split: str, size: int) -> None:
    with pytest.raises(UserError):
        load_world(form, split, size)


def test_a_folder_that_cannot_be_written_is_named(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="RLHF_JAX_CACHE"):
        load_world("total", "sft", cache=str(tmp_path / "file"))


def test_two_processes_prepare_at_once_quietly_and_without_tensorflow(tmp_path) -> None:
    code = (
        "import sys; from rlhf_jax.data.world_builder import load_world; r = load_world('tiers', 'lists_validation');"
        "assert 'tensorflow' not in sys.modules; assert 'jax' not in sys.modules;"
        "sys.stderr.write(repr(r[7]))"
    )
    environment = {**os.environ, "RLHF_JAX_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", code]
    runs = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE) for _ in "ab"]
    outputs = [run.communicate(timeout=120) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    expected = repr(load_world("tiers", "lists_validation")[7]).encode()
    assert outputs == [(b"", expected), (b"", expected)]
    assert not list(tmp_path.rglob("preparing-*"))
