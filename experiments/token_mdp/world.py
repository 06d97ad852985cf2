"""A language small enough for a table: one-word prompts, responses of a few of five tokens.

A state is a prompt with the words so far, an action the next token, which leads to the state with that token appended.
"""

import itertools

import numpy as np
from jaxtyping import Float
from scipy.special import softmax

from rlhf_jax.theory.soft_control import ENDS, Process

EOS, VOCAB = 0, 5  # the tokens 1 to 4 are words
PROMPTS = (1, 2, 3)
HORIZON = 4  # tokens: the last one ends the response, whichever it is
DISCOUNT = 0.9
WIDTH = 0.5  # standard deviation of a token's reward, where every token has one; that of a whole response is 1
BETA = 0.5  # reward per nat
# Task -> whether every token is paid or the response as a whole, and the discount.
TASKS = {"token": (True, 1.0), "terminal": (False, 1.0), "discounted": (True, DISCOUNT)}


def prefixes(horizon: int = HORIZON) -> list[tuple[int, ...]]:
    """What stands before a next token, shorter ones first: the place of one is the number of its state."""
    words = range(1, VOCAB)
    return [
        (prompt, *written)
        for length in range(horizon)
        for prompt in PROMPTS
        for written in itertools.product(words, repeat=length)
    ]


def tabular_policy(states: int, draw: int = 1) -> Float[np.ndarray, "S V"]:
    """A policy without any pattern: softmax of normal logits, drawn once. Draw 1 is the reference."""
    return softmax(np.random.default_rng([draw, 1]).normal(size=(states, VOCAB)), axis=1)


def make_process(task: str, reference: Float[np.ndarray, "S V"] | None = None, horizon: int = HORIZON) -> Process:
    """The process of a task; rewards without any pattern, drawn once: nothing can be learned of one from another."""
    before = prefixes(horizon)
    number = {prefix: place for place, prefix in enumerate(before)}
    following = np.array(
        [[ENDS if token == EOS else number.get((*prefix, token), ENDS) for token in range(VOCAB)] for prefix in before]
    )
    if reference is None:
        reference = tabular_policy(len(before))
    every, gamma = TASKS[task]
    draws = np.random.default_rng(2).normal(size=following.shape)
    rewards = WIDTH * draws if every else np.where(following == ENDS, draws, 0.0)
    start = np.where(np.arange(len(before)) < len(PROMPTS), 1.0 / len(PROMPTS), 0.0)
    return Process(following, rewards, reference, start, gamma)
