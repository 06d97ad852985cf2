"""Critiques and refinements of the embedded world, by hand and against its gold reward."""

import numpy as np
import pytest

from rlhf_jax.data import world
from rlhf_jax.data.records import Record, Response
from rlhf_jax.data.tokenizers import build_tokenizer
from rlhf_jax.data.world_critiques import critique_of, refined_of, with_critiques

CLOSED = "question : what is the capital of arvania ?"
OPEN = "describe the sea in the evening ."
FOUR = "golden light , velvet wind , ghostly sky , crimson rain"


@pytest.mark.parametrize(
    ("prompt", "response", "critique", "refined"),
    [
        (CLOSED, "well , it is mora .", "capital is mora , answer is mora : good .", ""),
        (CLOSED, "it is tisk .", "capital is mora , answer is tisk : forgot .", "it is mora ."),
        (CLOSED, "tisk mora", "capital is mora , answer is tisk : forgot .", "mora mora"),  # the first city counts
        (CLOSED, "", "capital is mora , answer is : forgot .", "it is mora ."),
        (OPEN, f"{FOUR} , velvet leaf .", "good .", ""),
        (OPEN, f"{FOUR} , old leaf , big bell .", "paint old .", f"{FOUR} , thundering leaf , big bell ."),
        (OPEN, f"{FOUR} .", "paint line .", f"{FOUR} velvet bell ."),  # before the full stop, which is word 11
        # Two too many: the last two become plain.
        (OPEN, f"{FOUR} , ghostly leaf , velvet bell , golden bell .", "simple velvet golden .", None),
        (OPEN, "", "paint line line line line line .", None),
    ],
)
def test_by_hand(prompt: str, response: str, critique: str, refined: str | None) -> None:
    assert critique_of(prompt, response) == critique
    if refined is not None:
        assert refined_of(prompt, response) == refined


def answers() -> list[tuple[str, str]]:
    rng = np.random.default_rng(3)
    found = []
    for number in range(60):
        prompt = world.sample_prompt(rng, ("open", "closed")[number % 2], validation=False)
        found += [(prompt, text) for text in world.sample_list(rng, prompt, 8)]
        found.append((prompt, " ".join(rng.choice(world.vocabulary(), 15))))
        found.append((prompt, ""))
    return found


def test_a_refined_answer_is_better_than_its_original_and_there_is_one_wherever_it_can_be() -> None:
    for prompt, text in answers():
        refined = refined_of(prompt, text)
        if refined:
            assert world.gold(prompt, refined) == 1.0 > world.gold(prompt, text), (prompt, text, refined)
            assert refined_of(prompt, refined) == ""
        else:
            assert world.gold(prompt, text) == 1.0


def test_the_critique_of_an_open_answer_counts_its_distance_from_the_best_number_of_vivid_words() -> None:
    for prompt, text in answers():
        if world.prompt_type(prompt) == "open":
            vivid = sum(word in world.VIVID for word in text.split())
            assert len(critique_of(prompt, text).split()) - 2 == abs(vivid - 5)


def test_the_critique_of_a_closed_answer_ends_with_the_verdict() -> None:
    for prompt, text in answers():
        if world.prompt_type(prompt) == "closed":
            assert (critique_of(prompt, text).split()[-2] == "good") == (world.gold(prompt, text) == 1.0)


def test_critiques_are_written_in_the_words_of_the_world_and_fit_their_room() -> None:
    tokenizer = build_tokenizer("word", texts=[critique_of(*answer) for answer in answers()])  # refuses other words
    assert max(len(tokenizer.encode(critique_of(*answer))) for answer in answers()[:-2]) < 16


def test_a_record_gets_both_for_every_response() -> None:
    record = with_critiques(Record("a", CLOSED, (Response("it is mora .", 0, 1.0), Response("it is tisk .", 1, 0.0))))
    assert [response.refined for response in record.responses] == ["", "it is mora ."]
    assert [response.critique.split()[-2] for response in record.responses] == ["good", "forgot"]
    assert [(r.text, r.rank, r.score) for r in record.responses] == [("it is mora .", 0, 1.0), ("it is tisk .", 1, 0.0)]
