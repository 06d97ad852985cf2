"""What can be computed: laws of whole responses, the targets of imitation, and how far a policy is from another."""

import numpy as np
from jaxtyping import Bool, Float

from rlhf_jax.theory.soft_control import ENDS, Process, evaluate, visits

REACHED = 0.01  # probability per response from which on a state counts among those that the optimum reaches


def response_law(process: Process, policy: Float[np.ndarray, "S V"]) -> Float[np.ndarray, "S V"]:
    """Probability of each response, at the state and token by which it ends; 0 at tokens that end none."""
    return np.where(process.following == ENDS, visits(process, policy)[:, None] * policy, 0.0)


def policy_of_law(process: Process, law: Float[np.ndarray, "S V"]) -> Float[np.ndarray, "S V"]:
    """The policy whose responses follow the law: mass through each token over mass through its state.

    Where a state is not reached at all, the reference.
    """
    mass, through = law.copy(), np.zeros(len(law))
    for s in reversed(range(len(law))):
        onward = process.following[s] != ENDS
        mass[s, onward] = through[process.following[s, onward]]
        through[s] = mass[s].sum()
    reached = through[:, None] > 0
    return np.where(reached, mass / np.where(reached, through[:, None], 1.0), process.reference)


def returns(process: Process) -> Float[np.ndarray, "S V"]:
    """Summed rewards, undiscounted, of the response up to each state and token."""
    paid = np.zeros(len(process.start))
    total = np.empty(process.rewards.shape)
    for s, ways in enumerate(process.following):
        total[s] = paid[s] + process.rewards[s]
        paid[ways[ways != ENDS]] = total[s, ways != ENDS]
    return total


def prompts_of(process: Process) -> Float[np.ndarray, "S"]:
    """The first state of the episodes that come through each state."""
    first = np.arange(len(process.start))
    for s, ways in enumerate(process.following):
        first[ways[ways != ENDS]] = first[s]
    return first


def best_of_n_law(process: Process, n: int) -> Float[np.ndarray, "S V"]:
    """The law of the response with the highest return among n of the reference, to each prompt by itself.

    With F the reference's distribution function of returns, y wins with probability F(R(y))^n - F(R(y)-)^n, and equal
    returns share as in the reference.
    """
    law, total, first = response_law(process, process.reference), returns(process), prompts_of(process)
    won = np.zeros_like(law)
    for prompt in np.flatnonzero(process.start):
        here = (process.following == ENDS) & (first == prompt)[:, None]
        share = law[here] / law[here].sum()
        _, place = np.unique(total[here], return_inverse=True)
        steps = np.bincount(place, share)
        upto = np.cumsum(steps)
        gain = np.clip(upto, 0.0, 1.0) ** n - np.clip(upto - steps, 0.0, 1.0) ** n
        won[here] = process.start[prompt] * share * (gain / steps)[place]
    return won / won.sum()


def filtered_law(process: Process, share: float) -> Float[np.ndarray, "S V"]:
    """The law of those responses of the reference whose return is at least ``bars(process, share)`` of their prompt."""
    kept = returns(process) >= bars(process, share)[:, None]
    law = np.where(kept, response_law(process, process.reference), 0.0)
    first = prompts_of(process)
    for prompt in np.flatnonzero(process.start):
        here = first == prompt
        law[here] *= process.start[prompt] / law[here].sum()
    return law


def bars(process: Process, share: float) -> Float[np.ndarray, "S"]:
    """To each state the return that a ``share`` of the reference's responses to its prompt, or just more, reach."""
    law, total, first = response_law(process, process.reference), returns(process), prompts_of(process)
    found = np.zeros(len(law))
    for prompt in np.flatnonzero(process.start):
        here = (process.following == ENDS) & (first == prompt)[:, None]
        order = np.argsort(-total[here])
        upto = np.cumsum(law[here][order]) / law[here].sum()
        found[first == prompt] = total[here][order][np.searchsorted(upto, share)]
    return found


def reached(process: Process, policy: Float[np.ndarray, "S V"]) -> Bool[np.ndarray, "S"]:
    """The states through which a response of the policy goes with probability ``REACHED`` or more."""
    return visits(process, policy) >= REACHED


def distances(process: Process, policy: Float[np.ndarray, "S V"], target: Float[np.ndarray, "S V"]) -> dict[str, float]:
    """Total variation of next tokens, ``mean`` over the target's states and the ``worst`` reached; of responses."""
    each = 0.5 * np.abs(policy - target).sum(axis=1)
    seen = visits(process, target)
    return {
        "mean": float(seen @ each / seen.sum()),
        "worst": float(each[reached(process, target)].max()),
        "responses": float(0.5 * np.abs(response_law(process, policy) - response_law(process, target)).sum()),
    }


def worth(process: Process, policy: Float[np.ndarray, "S V"], beta: float) -> dict[str, float]:
    """Expected reward of a response, its KL from the reference in nats, and reward - beta KL; all discounted."""
    reward = float(process.start @ evaluate(process, policy, 0.0).state)
    objective = float(process.start @ evaluate(process, policy, beta).state)
    return {"reward": reward, "kl": (reward - objective) / beta, "objective": objective}


def value_errors(
    process: Process, policy: Float[np.ndarray, "S V"], values: Float[np.ndarray, "S"], exact: Float[np.ndarray, "S"]
) -> dict[str, float]:
    """Root mean square over the policy's states, the worst of those it reaches, and the spread of the exact values."""
    seen, errors = visits(process, policy), values - exact
    centre = seen @ exact / seen.sum()
    return {
        "rms": float(np.sqrt(seen @ errors**2 / seen.sum())),
        "worst": float(np.abs(errors[reached(process, policy)]).max()),
        "spread": float(np.sqrt(seen @ (exact - centre) ** 2 / seen.sum())),
    }


def sampling_error(process: Process, policy: Float[np.ndarray, "S V"], beta: float, episodes: int) -> float:
    """Root mean square over the policy's states of the standard error of the mean return from each state.

    What averaging all returns of so many episodes would leave: sd(G|s) / sqrt(visits). The second moment of returns
    has a Bellman equation of its own, E G^2 = E[(r + gamma V)^2] + gamma^2 E Var(G').
    """
    priced = process.rewards - beta * np.log(policy / process.reference)
    values = np.append(evaluate(process, policy, beta).state, 0.0)
    spread = np.zeros(len(values))  # variances; the last entry is what follows ENDS
    for states in process.layers:
        ways = process.following[states]
        ahead = priced[states] + process.gamma * values[ways]
        each = (ahead - values[states, None]) ** 2 + process.gamma**2 * spread[ways]
        spread[states] = (policy[states] * each).sum(axis=1)
    return float(np.sqrt(spread[:-1].sum() / (episodes * visits(process, policy).sum())))
