"""Soft control against an example worked by hand, the enumeration of every episode, and other policies."""

import itertools

import numpy as np
import pytest

from rlhf_jax.theory.soft_control import ENDS, Process, advantages, evaluate, optimum, visits


def by_hand(gamma: float = 1.0) -> Process:
    """Two states, two actions: 0 leads from the first to the second, all else ends. The reference tosses fair coins."""
    return Process(
        following=np.array([[1, ENDS], [ENDS, ENDS]]),
        rewards=np.array([[0.0, np.log(2.0)], [np.log(2.0), np.log(4.0)]]),
        reference=np.full((2, 2), 0.5),
        start=np.array([1.0, 0.0]),
        gamma=gamma,
    )


def test_the_optimum_of_two_states_by_hand() -> None:
    """V*(1) = log(2/2 + 4/2) = log 3; Q*(0, 0) = log 3 beside log 2, so that V*(0) = log(5/2)."""
    policy, values = optimum(by_hand(), beta=1.0)
    np.testing.assert_allclose(values.state, np.log([2.5, 3.0]), rtol=1e-14)
    np.testing.assert_allclose(np.exp(values.action), [[3.0, 2.0], [2.0, 4.0]], rtol=1e-14)
    np.testing.assert_allclose(policy, [[3 / 5, 2 / 5], [1 / 3, 2 / 3]], rtol=1e-14)
    np.testing.assert_allclose(visits(by_hand(), policy), [1.0, 3 / 5], rtol=1e-14)


def test_the_discounted_optimum_of_two_states_by_hand() -> None:
    """gamma = 1/2: exp Q*(0, 0) = sqrt(3)."""
    policy, values = optimum(by_hand(0.5), beta=1.0)
    root = np.sqrt(3.0)
    np.testing.assert_allclose(values.state[0], np.log((root + 2.0) / 2.0), rtol=1e-14)
    np.testing.assert_allclose(policy[0], [root / (root + 2.0), 2.0 / (root + 2.0)], rtol=1e-14)


def test_the_bellman_equations_of_a_policy_by_hand() -> None:
    """pi(0|0) = 1/4, pi(0|1) = 1: state 1 is worth log 2 - beta log 2, and state 0 3/4 log 2 and a quarter of that
    less beta (1/4 log 1/2 + 3/4 log 3/2)."""
    policy = np.array([[0.25, 0.75], [1.0, 0.0]])
    for beta in (0.0, 0.5):
        one = np.log(2.0) * (1.0 - beta)
        zero = 0.25 * one + 0.75 * np.log(2.0) - beta * (0.25 * np.log(0.5) + 0.75 * np.log(1.5))
        found = evaluate(by_hand(), policy, beta)
        np.testing.assert_allclose(found.state, [zero, one], rtol=1e-14)
        np.testing.assert_allclose(found.action, [[one, np.log(2.0)], np.log([2.0, 4.0])], rtol=1e-14)


def test_without_a_price_the_best_actions_share_as_in_the_reference() -> None:
    process = Process(
        following=np.array([[1, 1, ENDS], [ENDS, ENDS, ENDS]]),
        rewards=np.array([[0.5, 0.5, 1.25], [1.0, 0.0, 3.0]]),
        reference=np.array([[0.2, 0.3, 0.5], [0.5, 0.5, 0.0]]),  # the best action of state 1 is never taken by it
        start=np.array([1.0, 0.0]),
    )
    policy, values = optimum(process, beta=0.0)
    np.testing.assert_allclose(policy, [[0.4, 0.6, 0.0], [1.0, 0.0, 0.0]])
    np.testing.assert_allclose(values.state, [1.5, 1.0])
    np.testing.assert_allclose(optimum(process, beta=1e-3).policy, policy, atol=1e-12)


def tree(gamma: float = 1.0) -> tuple[Process, list[tuple[int, ...]]]:
    """Tokens 0 (which ends), 1 and 2, three of them at most, after two prompts; and every response."""
    rng = np.random.default_rng(3)
    prefixes = [
        (prompt, *words)
        for length in range(3)
        for prompt in (0, 1)
        for words in itertools.product((1, 2), repeat=length)
    ]
    place = {prefix: number for number, prefix in enumerate(prefixes)}
    following = np.array(
        [[ENDS if token == 0 else place.get((*prefix, token), ENDS) for token in range(3)] for prefix in prefixes]
    )
    start = np.zeros(len(prefixes))
    start[:2] = 0.3, 0.7
    rewards, reference = rng.normal(size=following.shape), rng.dirichlet(np.ones(3), len(prefixes))
    responses = [(*words, 0) for length in range(3) for words in itertools.product((1, 2), repeat=length)]
    responses += list(itertools.product((1, 2), repeat=3))
    return Process(following, rewards, reference, start, gamma), responses


def along(process: Process, prompt: int, response: tuple[int, ...]) -> list[tuple[int, int]]:
    """The (state, action) pairs of a response."""
    state, pairs = prompt, []
    for token in response:
        assert state != ENDS
        pairs.append((state, token))
        state = process.following[state, token]
    assert state == ENDS
    return pairs


@pytest.mark.parametrize("beta", [0.2, 1.0, 30.0])
def test_responses_of_the_optimum_follow_their_tilted_law(beta: float) -> None:
    """Every response enumerated: pi*(y) = ref(y) exp(R(y) / beta) / Z, and V* of the prompt is beta log Z."""
    process, responses = tree()
    policy, values = optimum(process, beta)
    for prompt in (0, 1):
        paths = [along(process, prompt, response) for response in responses]
        weights = np.array(
            [
                np.prod([process.reference[pair] for pair in path])
                * np.exp(sum(process.rewards[pair] for pair in path) / beta)
                for path in paths
            ]
        )
        law = [np.prod([policy[pair] for pair in path]) for path in paths]
        np.testing.assert_allclose(law, weights / weights.sum(), rtol=1e-12)
        assert values.state[prompt] == pytest.approx(beta * np.log(weights.sum()), rel=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.8, 1.0])
def test_the_value_of_a_policy_is_its_expected_discounted_return(gamma: float) -> None:
    """Over every response, each action paying its own price: sum gamma^t (r - beta log pi / ref)."""
    process, responses = tree(gamma)
    policy = np.random.default_rng(5).dirichlet(np.ones(3), len(process.start))
    beta = 0.4
    priced = process.rewards - beta * np.log(policy / process.reference)
    found = evaluate(process, policy, beta)
    for prompt in (0, 1):
        paths = [along(process, prompt, response) for response in responses]
        law = np.array([np.prod([policy[pair] for pair in path]) for path in paths])
        assert law.sum() == pytest.approx(1.0)
        returns = [sum(gamma**t * priced[pair] for t, pair in enumerate(path)) for path in paths]
        assert found.state[prompt] == pytest.approx(law @ returns, rel=1e-12)
    reached = np.zeros(len(process.start))
    for prompt, share in ((0, 0.3), (1, 0.7)):
        for path in (along(process, prompt, response) for response in responses):
            for state, _ in path:
                reached[state] += share * np.prod([policy[pair] for pair in path])
    np.testing.assert_allclose(visits(process, policy), reached, rtol=1e-12)


@pytest.mark.parametrize("gamma", [0.7, 1.0])
def test_no_other_policy_is_worth_more_and_what_it_lacks_is_its_divergence(gamma: float) -> None:
    """V*(s) - V(s) = beta E sum gamma^t KL(pi || pi*) over the states that pi comes through."""
    process, _ = tree(gamma)
    beta = 0.5
    best, values = optimum(process, beta)
    np.testing.assert_allclose(advantages(process, best, beta), 0.0, atol=1e-12)
    np.testing.assert_allclose(evaluate(process, best, beta).state, values.state, rtol=1e-12)
    rng = np.random.default_rng(7)
    for _ in range(50):
        policy = rng.dirichlet(np.ones(3), len(process.start))
        found = evaluate(process, policy, beta)
        assert np.all(found.state <= values.state + 1e-12)
        lacking = Process(process.following, np.log(best / policy) * beta, process.reference, process.start, gamma)
        np.testing.assert_allclose(evaluate(lacking, policy, 0.0).state, found.state - values.state, atol=1e-12)
        assert np.allclose((policy * advantages(process, policy, beta)).sum(axis=1), 0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"following": np.array([[0, ENDS], [ENDS, ENDS]])}, "higher number"),
        ({"following": np.array([[2, ENDS], [ENDS, ENDS]])}, "higher number"),
        ({"reference": np.full((2, 2), 0.4)}, "reference must hold"),
        ({"start": np.array([2.0, -1.0])}, "start must hold"),
        ({"gamma": 1.5}, "gamma"),
    ],
)
def test_what_is_no_process_is_refused(change: dict, message: str) -> None:
    parts = {name: getattr(by_hand(), name) for name in ("following", "rewards", "reference", "start", "gamma")}
    with pytest.raises(ValueError, match=message):
        Process(**{**parts, **change})


def test_a_negative_price_is_refused() -> None:
    with pytest.raises(ValueError, match="beta is a price"):
        optimum(by_hand(), -0.1)
