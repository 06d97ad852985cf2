"""Perturbations written out, and what they must leave alone."""

import re

import numpy as np
import pytest

from rlhf_jax.data import world
from rlhf_jax.data.perturb import PERTURBATIONS, WORLD_PERTURBATIONS


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("whitespace", "It is so.", " It is so.\n\n"),
        ("first_letter", "It is so.", "it is so."),
        ("first_letter", "  1. écoute", "  1. Écoute"),
        ("first_letter", "42 !", "42 !"),
        ("first_letter", "", ""),
        ("final_stop", "It is so.", "It is so"),
        ("final_stop", "It is so\n", "It is so.\n"),
        ("final_stop", "Is it so?", "Is it so?"),
        ("final_stop", "And so on...", "And so on..."),
        ("final_stop", " ", " "),
        ("bold", "It is quite so, quite.", "It is **quite** so, quite."),
        ("bold", "**bold** or bolder", "**bold** or **bolder**"),
        ("bold", "a b2c4 no", "a b2c4 no"),
        ("opener", "surely mora .", "well , surely mora ."),
        ("opener", "well , surely mora .", "let me see , surely mora ."),
        ("opener", "let me see , surely mora .", "surely mora ."),
        ("closer", "it is mora .", "it is mora , of course ."),
        ("closer", "it is mora , of course .", "it is mora , i am quite sure ."),
        ("closer", "it is mora , i am quite sure .", "it is mora ."),
        ("closer", "", ", of course"),
    ],
)
def test_written_out(name, text, wanted):
    assert {**PERTURBATIONS, **WORLD_PERTURBATIONS}[name](text) == wanted


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_words_stay_and_stay_in_order(name):
    """Letters and digits in any case are the same before and after; the text is another."""
    text = "The sea was calm. It shone, 3 gulls flew over the harbour."
    found = PERTURBATIONS[name](text)
    assert found != text
    assert re.findall(r"\w+", found.lower()) == re.findall(r"\w+", text.lower())


@pytest.mark.parametrize("name", WORLD_PERTURBATIONS)
def test_the_gold_reward_of_the_world_stays_and_every_word_is_known(name):
    rng, known, changed = np.random.default_rng(0), set(world.vocabulary()), 0
    for number in range(200):
        prompt = world.sample_prompt(rng, ("open", "closed")[number % 2], validation=bool(number % 3))
        for text in world.sample_list(rng, prompt, 4):
            found = WORLD_PERTURBATIONS[name](text)
            assert world.gold(prompt, found) == world.gold(prompt, text)
            assert set(found.split()) <= known
            changed += found != text
    assert changed == 800


@pytest.mark.parametrize("name", WORLD_PERTURBATIONS)
def test_swapped_three_times_an_answer_is_itself_again(name):
    swap = WORLD_PERTURBATIONS[name]
    for opener in world.PREFACES:
        for closer in world.CLOSERS:
            text = " ".join([*opener.split(), "it is mora", *closer.split(), "."])
            assert swap(swap(swap(text))) == text
