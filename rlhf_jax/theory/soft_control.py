"""Soft control: what a policy is worth where each nat away from a reference costs beta, and the best policy there.

Dynamic programming in float64 on a decision process small enough for a table, which is what PPO's value model and its
policy can be held against. The price of state s is beta KL(pi(.|s) || ref(.|s)); with beta = 0 it is ordinary control.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import logsumexp, rel_entr

ENDS = -1  # follows the last action of an episode


@dataclasses.dataclass(frozen=True)
class Process:
    """A decision process that ends: S states, V actions in each, and no chance but the policy's and the first state's.

    ``following[s, a]`` is the state after action a, numbered later than s, or ENDS; ``rewards[s, a]`` is paid for it.
    ``reference[s]`` is the law of actions that it costs to leave, ``start`` that of first states. Of a language model a
    state is the prompt with the tokens so far, an action the next token.

    Raises:
      ValueError: a row of probabilities is none, an action leads back or nowhere, gamma is outside [0, 1].
    """

    following: Int[np.ndarray, "S V"]
    rewards: Float[np.ndarray, "S V"]
    reference: Float[np.ndarray, "S V"]
    start: Float[np.ndarray, "S"]
    gamma: float = 1.0

    def __post_init__(self) -> None:
        for name, law in (("reference", self.reference), ("start", self.start)):
            if np.any(law < 0) or not np.allclose(law.sum(axis=-1), 1.0, atol=1e-6):
                raise ValueError(f"{name} must hold probabilities of sum 1")
        states = np.arange(len(self.start))
        later = (self.following > states[:, None]) & (self.following < len(states))
        if not np.all(later | (self.following == ENDS)):
            raise ValueError("an action leads to a state of a higher number, or ENDS")
        if not 0.0 <= self.gamma <= 1.0:
            raise ValueError(f"gamma lies in [0, 1], not {self.gamma}")

    @functools.cached_property
    def layers(self) -> list[Int[np.ndarray, "G"]]:
        """The states by how many actions can still come, fewest first: each leads to earlier layers alone."""
        left = np.zeros(len(self.start), int)
        while True:
            longer = 1 + np.where(self.following == ENDS, 0, left[self.following]).max(axis=1)
            if np.array_equal(longer, left):
                return [np.flatnonzero(left == count) for count in range(1, left.max() + 1)]
            left = longer


class Values(NamedTuple):
    """What is to come from each state, and after each action in it, the price of that action itself left out.

    Q(s, a) = r(s, a) + gamma V(s'), V(s) = E[Q(s, a)] - beta KL(pi(.|s) || ref(.|s)): the Bellman equations.
    """

    state: Float[np.ndarray, "S"]
    action: Float[np.ndarray, "S V"]


class Optimum(NamedTuple):
    """The best policy and its values."""

    policy: Float[np.ndarray, "S V"]
    values: Values


def evaluate(process: Process, policy: Float[np.ndarray, "S V"], beta: float) -> Values:
    """V and Q of a policy. An action that the reference never takes costs infinitely much, if beta > 0."""

    def worth(states: Int[np.ndarray, "G"], q: Float[np.ndarray, "G V"]) -> Float[np.ndarray, "G"]:
        law = policy[states]
        price = beta * rel_entr(law, process.reference[states]) if beta > 0 else 0.0
        return (law * q - price).sum(axis=1)

    return _backward(process, worth)


def optimum(process: Process, beta: float) -> Optimum:
    """V*(s) = beta log E_ref exp(Q*(s, a) / beta), pi*(a|s) = ref(a|s) exp((Q*(s, a) - V*(s)) / beta).

    With gamma = 1 an episode y then has probability ref(y) exp(R(y) / beta) / Z, R its summed rewards. With beta = 0,
    V* is the largest Q* among the actions of the reference, and equally good ones share as they do in the reference.
    Source: Levine 2018 (arXiv 1805.00909), section 2, with a reference in the place of the uniform law.

    Raises:
      ValueError: beta < 0.
    """
    if beta < 0:
        raise ValueError(f"beta is a price of 0 or more, not {beta}")
    if beta > 0:
        values = _backward(process, lambda s, q: beta * logsumexp(q / beta, axis=1, b=process.reference[s]))
        gain = np.where(process.reference > 0, values.action - values.state[:, None], 0.0)
        policy = process.reference * np.exp(gain / beta)
    else:
        values = _backward(process, lambda s, q: np.where(process.reference[s] > 0, q, -np.inf).max(axis=1))
        policy = process.reference * (values.action == values.state[:, None])
    return Optimum(policy / policy.sum(axis=1, keepdims=True), values)


def advantages(process: Process, policy: Float[np.ndarray, "S V"], beta: float) -> Float[np.ndarray, "S V"]:
    """Q(s, a) - beta log(pi / ref)(a|s) - V(s): what PPO estimates, the price being in the reward of each action.

    At the optimum of beta > 0 it is 0 for *every* action, not only on average. Both laws are positive here.
    """
    values = evaluate(process, policy, beta)
    return values.action - beta * np.log(policy / process.reference) - values.state[:, None]


def visits(process: Process, policy: Float[np.ndarray, "S V"]) -> Float[np.ndarray, "S"]:
    """Probability that an episode comes through each state, or the expected number of times, which is the same here."""
    found = np.append(process.start, 0.0)  # the last entry takes those that end
    for states in reversed(process.layers):
        np.add.at(found, process.following[states], found[states, None] * policy[states])
    return found[:-1]


def _backward(
    process: Process, worth: Callable[[Int[np.ndarray, "G"], Float[np.ndarray, "G V"]], Float[np.ndarray, "G"]]
) -> Values:
    """Backward induction, a layer at a time: ``worth(states, Q)`` are the values of states."""
    state = np.zeros(len(process.start) + 1)  # the last entry is what follows ENDS
    action = np.empty(process.rewards.shape)
    for states in process.layers:
        action[states] = process.rewards[states] + process.gamma * state[process.following[states]]
        state[states] = worth(states, action[states])
    return Values(state[:-1], action)
