"""The tabular truth for PPO: closed forms by enumeration, learners near them, and the analysis on records by hand."""

import dataclasses
import itertools
import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.token_mdp import analysis, exploring, transformer
from experiments.token_mdp.exact import (
    bars,
    best_of_n_law,
    distances,
    filtered_law,
    policy_of_law,
    response_law,
    returns,
    sampling_error,
    value_errors,
)
from experiments.token_mdp.learners import Rule, train
from experiments.token_mdp.sweep import (
    BEHAVIOURS,
    LEARNERS,
    SIZES,
    TABULAR,
    TASK_NAMES,
    TRANSFORMER_SEEDS,
    TRANSFORMERS,
)
from experiments.token_mdp.world import BETA, EOS, PROMPTS, VOCAB, make_process, prefixes, tabular_policy
from rlhf_jax.theory.soft_control import ENDS, Process, evaluate, optimum, visits

HORIZON = 2


def small(task: str = "token") -> Process:
    return make_process(task, horizon=HORIZON)


def with_ties() -> Process:
    """Rewards in halves: many responses are equally good."""
    process = small()
    return dataclasses.replace(process, rewards=np.round(2 * process.rewards) / 2)


def enumerate_responses(
    process: Process, policy: np.ndarray, prompt: int
) -> list[tuple[float, float, tuple[int, int]]]:
    """(probability given the prompt, return, the state and token that end it) of each response, word by word."""
    found, open_ones = [], [(1.0, 0.0, prompt)]
    while open_ones:
        chance, total, state = open_ones.pop()
        for token in range(VOCAB):
            more = chance * policy[state, token], total + process.rewards[state, token]
            after = process.following[state, token]
            if after == ENDS:
                found.append((*more, (state, token)))
            else:
                open_ones.append((*more, after))
    return found


def test_states_are_prefixes_and_tokens_append() -> None:
    rows, process = prefixes(), make_process("terminal")
    assert len(rows) == len(PROMPTS) * (1 + 4 + 16 + 64)
    for state, row in enumerate(rows):
        assert process.following[state, EOS] == ENDS
        for token in range(1, VOCAB):
            after = process.following[state, token]
            assert rows[after] == (*row, token) if len(row) < 4 else after == ENDS
    assert np.all((process.rewards != 0) == (process.following == ENDS))
    assert np.all(make_process("token").rewards != 0)


@pytest.mark.parametrize("process", [small(), small("terminal"), with_ties()], ids=["token", "terminal", "ties"])
def test_best_of_n_and_the_filter_by_enumeration(process: Process) -> None:
    """Every pair of responses: the better one is kept, of equal ones either by half."""
    law, kept = best_of_n_law(process, 2), filtered_law(process, 0.3)
    np.testing.assert_allclose(best_of_n_law(process, 1), response_law(process, process.reference), atol=1e-15)
    for prompt in range(len(PROMPTS)):
        responses = enumerate_responses(process, process.reference, prompt)
        expected = np.zeros_like(law)
        for (p, x, one), (q, y, other) in itertools.product(responses, repeat=2):
            share = 1.0 if x > y + 1e-12 else 0.0 if y > x + 1e-12 else 0.5
            expected[one] += p * q * share / len(PROMPTS)
            expected[other] += p * q * (1 - share) / len(PROMPTS)
        mine = expected > 0
        np.testing.assert_allclose(law[mine], expected[mine], rtol=1e-10)

        bar = bars(process, 0.3)[prompt]
        above = [p for p, total, _ in responses if total >= bar - 1e-12]
        strictly = [p for p, total, _ in responses if total > bar + 1e-12]
        assert sum(strictly) < 0.3 <= sum(above)
        for p, total, end in responses:
            share = p / sum(above) / len(PROMPTS) if total >= bar - 1e-12 else 0.0
            assert kept[end] == pytest.approx(share, abs=1e-12)
            assert returns(process)[end] == pytest.approx(total)
    for target in (law, kept):
        assert target.sum() == pytest.approx(1.0)
        np.testing.assert_allclose(response_law(process, policy_of_law(process, target)), target, atol=1e-15)


def test_the_sampling_error_is_that_of_the_returns() -> None:
    """Variances of priced, discounted returns by enumeration: sum var(s) / (episodes x visits), per state met."""
    process = small("discounted")
    policy = tabular_policy(len(process.start), 3)
    priced = process.rewards - BETA * np.log(policy / process.reference)
    total = 0.0
    for state in range(len(process.start)):
        outcomes = []
        for token in range(VOCAB):
            after = process.following[state, token]
            if after == ENDS:
                outcomes.append((policy[state, token], priced[state, token]))
            else:  # its words are the last
                outcomes += [
                    (policy[state, token] * policy[after, last], priced[state, token] + 0.9 * priced[after, last])
                    for last in range(VOCAB)
                ]
        p, x = np.array(outcomes).T
        assert p.sum() == pytest.approx(1.0)
        assert evaluate(process, policy, BETA).state[state] == pytest.approx(p @ x)
        total += p @ (x - p @ x) ** 2
    expected = np.sqrt(total / (100 * visits(process, policy).sum()))
    assert sampling_error(process, policy, BETA, 100) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("learner", "task", "worst"),
    # Neither objective that bootstraps is noisy at the optimum: every advantage, and every Bellman error, is 0 there.
    # Imitation counts what was drawn: 120 batches of 64 best responses.
    [("ppo", "token", 0.003), ("soft_q", "terminal", 0.01), ("best_of_n", "terminal", 0.05)],
)
def test_a_learner_ends_at_its_closed_form(learner: str, task: str, worst: float) -> None:
    """15 states, two seeds, from a reference that is 0.3 to 0.5 away; the optimum is as far from best-of-4."""
    process = small(task)
    rate = 0.03 if learner == "ppo" else 0.1
    rule = Rule(**{"gamma": process.gamma, **LEARNERS[learner], "episodes": 256, "learning_rate": rate})
    tables = train(rule, process, (0, 1), records=2, every=60)
    best = optimum(process, BETA).policy
    target = policy_of_law(process, best_of_n_law(process, 4)) if learner == "best_of_n" else best
    assert distances(process, tables["policy"][0, 0], target)["mean"] > 0.3
    for seed in (0, 1):
        policy = tables["policy"][seed, -1]
        assert distances(process, policy, target)["mean"] < worst
        if learner == "ppo":
            exact = evaluate(process, policy, BETA).state
            errors = value_errors(process, policy, tables["value"][seed, -1], exact)
            assert errors["rms"] < 0.005 < 0.1 < errors["spread"]
        if learner == "best_of_n":
            assert distances(process, policy, best)["mean"] > 0.15


def test_rotary_positions_cannot_count_equal_words() -> None:
    """After one word and after the same word twice attention reads the same: such a decoder has one policy for both."""
    rows = prefixes(transformer.HORIZON)
    one, two = rows.index((1,)), rows.index((1, 1))
    for positions, same in (("rotary", True), ("learned", False)):
        model = transformer.make_model(positions)
        decoder = transformer.init_policy(model, 0)
        head = {"kernel": jnp.zeros(model.width), "bias": jnp.zeros(())}
        law, _ = transformer.tables(model, {"policy": decoder, "value": {"decoder": decoder, "head": head}})
        np.testing.assert_allclose(law.sum(axis=1), 1.0, rtol=1e-5)
        assert bool(np.allclose(law[one], law[two], atol=1e-6)) == same


def test_greedy_stays_in_the_trap_and_exploring_leaves_it() -> None:
    trap = exploring.make_trap()
    assert trap.start @ optimum(trap, 0.0).values.state == 1.0
    found = exploring.explore(seeds=40, records=20)
    assert found["greedy"]["found"][-1] < 0.3
    assert found["epsilon 0.5"]["found"][-1] > 0.8
    assert np.mean(found["random"]["earned"]) < np.mean(found["greedy"]["earned"])


def records(root: pathlib.Path, off: dict[str, float]) -> None:
    """Two records a seed; a setting ends ``off`` its target, 0.01 unless named, imitation 0.3 from the optimum."""

    def write(name: str, seeds: int, imitates: bool = False) -> None:
        (root / name).mkdir(parents=True)
        end = off.get(name, 0.01)
        measures = {
            **{f"tv.{key}": end for key in ("mean", "worst", "responses")},
            "from_optimum.responses": 0.3 if imitates else end,
            "gap": end,
            **{f"value.{key}": end for key in ("rms", "worst", "spread")},
        }
        curves = {key: [[0.5, value]] * seeds for key, value in measures.items()}
        row = {"learned": [0.1, 0.9], "exact": [0.0, 1.0], "visits": [1.0, 0.001]}
        (root / name / "curves.json").write_text(json.dumps(curves))
        (root / name / "values.json").write_text(json.dumps({"seeds": [row] * seeds}))
        (root / name / "summary.json").write_text(json.dumps({"sampling_error": 0.002}))

    for name, (_, learner) in TABULAR.items():
        write(name, 5, learner in ("best_of_n", "filtered"))
    for name in TRANSFORMERS:
        for seed in TRANSFORMER_SEEDS:
            write(f"{name}.{seed}", 1)
    policies = ("reference", "optimum", "filtered", *(f"best_of_{n}" for n in SIZES))
    columns = ("reward", "kl", "objective", "mean", "responses")
    exact = {f"{task}.{policy}.{name}": 0.25 for task in TASK_NAMES for policy in policies for name in columns}
    (root / "exact").mkdir()
    (root / "exact" / "summary.json").write_text(json.dumps(exact))
    explored = {
        name: {key: [0.0, 0.1 if name == "greedy" else 0.9] for key in ("found", "value", "earned")}
        for name in BEHAVIOURS
    }
    (root / "exploring").mkdir()
    (root / "exploring" / "curves.json").write_text(json.dumps(explored))


def test_the_verdict_holds_when_every_seed_does(tmp_path: pathlib.Path) -> None:
    records(tmp_path, {})
    analysis.main(tmp_path)
    found = json.loads((tmp_path / "verdict.json").read_text())
    assert found["verdict"] == analysis.HELD
    assert found["imitation_nearest_to_the_optimum"] == 0.3
    assert "| token.ppo | 0.0100 ± 0.0000 |" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "figures" / "token_mdp.png").is_file()


def test_the_verdict_names_what_does_not_hold(tmp_path: pathlib.Path) -> None:
    records(tmp_path, {"terminal.soft_q": 0.2, "transformer_token.1": 0.2})
    runs = analysis.read_all(tmp_path)
    found = analysis.verdict(tmp_path, runs, json.loads((tmp_path / "exploring" / "curves.json").read_text()))
    assert found["policy_worst_seed"]["soft_q"] == 0.2
    assert found["decoder_worst_seed"] == {"policy": 0.2, "value_rms": 0.2}
    assert not found["decoder_reaches_the_optimum"]
    assert found["imitation_reaches_its_closed_form"]
