"""The over-optimisation lab: closed forms against sums over all responses, PPO against both, analysis by hand."""

import itertools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import t

from experiments.overoptimisation import analysis, bounds, exact, policy, proxies, signals, world
from experiments.overoptimisation.policy import Tables
from experiments.overoptimisation.sweep import (
    ARMS,
    BEST_OF,
    BETAS,
    CHECK_BETAS,
    CHECK_SEEDS,
    LINEAR,
    SAMPLED_BEST_OF,
    SEEDS,
)
from rlhf_jax.diagnostics.best_of_n import best_of_n
from rlhf_jax.generation import response_logprobs

SPICES = np.arange(world.HORIZON + 1)


def linear_table() -> np.ndarray:
    return exact.SLOPE * world.responses().spices


def test_every_response_stands_at_its_own_number() -> None:
    """Few enough to write down up to three words: shorter first, then in the order of binary numbers."""
    every = world.responses()
    assert np.array_equal(world.number(every.ids, every.words), np.arange(2**17 - 1))
    written = [row for length in range(4) for row in itertools.product((0, 1), repeat=length)]
    for place, row in enumerate(written):
        assert tuple(every.ids[place, : len(row)]) == row
        assert set(every.ids[place, len(row) :]) == {world.EOS}
        assert (every.words[place], every.spices[place]) == (len(row), sum(row))
    assert every.mask.sum(axis=1).max() == world.HORIZON  # sixteen words have no end of sequence
    assert every.mask[0].tolist() == [True] + [False] * 15
    assert world.text(every.ids[5], 2) == "spice rice"


@pytest.mark.parametrize("form", world.LAWS)
def test_the_law_of_the_reference_is_that_of_its_samples(form: str) -> None:
    law, every = world.law(form), world.responses()
    assert law.sum() == pytest.approx(1.0, rel=1e-12)
    drawn = world.sample(form, np.random.default_rng(0), (20_000,))
    for values in (every.words, every.spices):
        mean = law @ values
        error = np.sqrt(law @ (values - mean) ** 2 / len(drawn))
        assert values[drawn].mean() == pytest.approx(mean, abs=4 * error + 1e-9)


def test_the_best_policy_of_the_linear_proxy_is_the_sum_over_all_responses() -> None:
    """And the figures once reckoned by hand: gold 0.553 of the reference, 0.859 at 2.27 nats, 0.388 at 7.6, -1.1."""
    beta = np.array([1e6, 0.05, 0.03, 0.02])
    found = exact.linear_optimum(beta)
    assert found["gold"] == pytest.approx([0.553, 0.859, 0.388, -1.135], abs=5e-4)
    assert found["kl"][1:3] == pytest.approx([2.27, 7.63], abs=5e-3)
    summed = exact.optimum(linear_table(), world.coded_gold(world.responses().spices), world.law("fixed"), beta)
    for name, values in found.items():
        assert values == pytest.approx(summed[name], rel=1e-8, abs=1e-9)


def test_best_of_n_of_the_linear_proxy_is_the_sum_over_all_responses() -> None:
    found = exact.linear_best_of_n((1, 4, 16, 64, 256, 1024, 65536))
    assert found["gold"] == pytest.approx([0.553, 0.834, 0.951, 0.965, 0.913, 0.815, 0.349], abs=5e-4)
    gold = world.coded_gold(world.responses().spices)
    summed = exact.best_of_n_curve(linear_table(), gold, world.law("fixed"), (1, 4, 16, 64, 256, 1024, 65536))
    for name, values in found.items():
        assert values == pytest.approx(summed[name], rel=1e-8, abs=1e-9)


def test_at_equal_kl_best_of_n_has_more_gold_than_any_policy_of_the_closed_form() -> None:
    """At 1.1 nats 0.909 against 0.84: the counts of its winners vary less."""
    winners = exact.linear_best_of_n((8,))
    path = exact.linear_optimum(np.geomspace(0.02, 1.0, 4000))
    nearest = np.argmin(np.abs(path["kl"] - winners["kl"][0]))
    assert winners["gold"][0] == pytest.approx(0.909, abs=5e-4)
    assert path["gold"][nearest] == pytest.approx(0.84, abs=0.01)


def test_sampled_best_of_n_is_within_its_monte_carlo_error() -> None:
    """Forty draws of 1,024 responses, the standard error from their own spread."""
    spices = np.random.default_rng(3).binomial(world.HORIZON, world.SHARE, (40, 1024))
    sizes = (1, 4, 16, 64, 256)
    wanted = exact.linear_best_of_n(sizes)["gold"]
    for n, truth in zip(sizes, wanted, strict=True):
        found = [best_of_n(exact.SLOPE * row, world.coded_gold(row), n) for row in spices]
        assert abs(np.mean(found) - truth) < 3.5 * np.std(found, ddof=1) / np.sqrt(40), n


def test_the_policy_starts_as_the_reference_itself() -> None:
    """Log-probabilities of responses of all lengths, whatever came before."""
    every = world.responses()
    chosen = np.array([0, 1, 2, 9, 1000, 2**16 - 2, 2**17 - 2])
    start = np.full((len(chosen), 1), world.PROMPT)
    ids = jnp.asarray(np.concatenate([start, every.ids[chosen]], axis=1))
    mask = jnp.asarray(np.concatenate([start == world.PROMPT, every.mask[chosen]], axis=1))
    params = policy.init_policy("free", jax.random.key(1))
    found = response_logprobs(policy.MODEL, params, ids, mask, response_length=world.HORIZON, temperature=1.0)
    found = np.where(every.mask[chosen], found, 0.0).sum(axis=1)
    assert found == pytest.approx(np.log(world.law("free")[chosen]), rel=1e-5)


def test_labels_are_those_of_gold_but_for_the_share_turned_round() -> None:
    rng = np.random.default_rng(4)
    gold = world.coded_gold(world.responses().spices)
    shown = proxies.label(rng, world.sample("free", rng, (400, 8)), gold, 0.0)
    worth = gold[shown.responses]
    assert np.array_equal(shown.better, worth[:, :, None] > worth[:, None, :])
    noisy = proxies.label(rng, shown.responses, gold, 0.25)
    differ = shown.better | np.swapaxes(shown.better, 1, 2)
    assert np.array_equal(noisy.better | np.swapaxes(noisy.better, 1, 2), differ)  # equal ones are never compared
    assert not (noisy.better & np.swapaxes(noisy.better, 1, 2)).any()
    turned = (noisy.better & ~shown.better).sum() / shown.better.sum()
    assert turned == pytest.approx(0.25, abs=4 * np.sqrt(0.1875 / shown.better.sum()))


def test_a_bag_of_tokens_learns_that_spices_are_worth_more_and_is_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxies, "STEPS", 60)
    law, every = world.law("free"), world.responses()
    found = proxies.make_tables({**proxy_of("bag"), "lists": 50}, (0, 1))
    for table in np.asarray(found.proxy):
        assert law @ table == pytest.approx(0.0, abs=1e-9)
        assert law @ table**2 == pytest.approx(exact.DEVIATION**2)
        # Linear in the counts of the three tokens.
        counts = np.stack([every.words - every.spices, every.spices, every.words < world.HORIZON, np.ones(len(law))])
        weights, missed, *_ = np.linalg.lstsq(counts.T.astype(float), table)
        assert missed < 1e-6
        assert weights[1] > weights[0]
    assert not np.asarray(found.spread).any()


def proxy_of(arm: str) -> dict[str, object]:
    from experiments.overoptimisation.sweep import PROXY

    return PROXY | ARMS[arm]


def test_the_golds_of_a_file_are_read_as_texts() -> None:
    """By hand: three spices of five words; sixteen words of rice lose 0.05 for each of six and all of the square."""
    table, every = proxies.gold_table("experiments/overoptimisation/golds.py:modest"), world.responses()
    for words, wanted in (((1, 1, 0, 1, 0), 1.0), ((0,) * 16, -0.3)):
        ids = np.full(world.HORIZON, world.EOS)
        ids[: len(words)] = words
        assert table[world.number(ids, np.int64(len(words)))] == pytest.approx(wanted)
    assert np.array_equal(proxies.gold_table("code"), world.coded_gold(every.spices))


@pytest.mark.slow
def test_ppo_ends_at_the_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """KL, proxy and gold at two prices: 95 % intervals of six seeds, of which one in six may miss, but not by far."""
    for name, value in (("ITERATIONS", 60), ("LEARNING_RATE", 3e-3)):
        monkeypatch.setattr(policy, name, value)
    policy._program.cache_clear()
    gold = world.coded_gold(world.responses().spices)
    tables = Tables(*(np.broadcast_to(row, (3, len(gold))) for row in (linear_table(), gold, 0.0 * gold)))
    betas = (0.03, 0.1)
    _, ends = policy.train("fixed", tables, [(beta, seed, 0) for beta in betas for seed in range(6)])
    policy._program.cache_clear()
    wanted = exact.linear_optimum(np.array(betas))
    off = []
    for place, name in itertools.product(range(2), ("kl", "proxy", "gold")):
        own = ends[name].reshape(2, 6)[place]
        off.append(abs(own.mean() - wanted[name][place]) / (own.std(ddof=1) / np.sqrt(6)))
    assert sum(one > t.ppf(0.975, 5) for one in off) <= 1, off
    assert max(off) < t.ppf(0.9995, 5), off


# ------------------------------------------------------------------------- signals and analysis


def run_of(gold: list[float], **curves: list[float]) -> signals.Run:
    rows = [dict(zip(curves, row, strict=True)) for row in zip(*curves.values(), strict=True)]
    return signals.Run(rows, np.array(gold), int(np.argmax(gold)), over=True)


def test_an_alarm_is_judged_by_its_lead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs that turn at 3: one is warned at 1, the other at 4; a third never turns and is stopped for nothing."""
    monkeypatch.setattr(signals, "WINDOW", 1)
    gold = [0.0, 0.5, 0.8, 1.0, 0.4, 0.0]
    early = run_of(gold, kl=[0.0, 2.0, 2.0, 3.0, 4.0, 5.0])
    late = run_of(gold, kl=[0.0, 0.0, 0.0, 0.0, 2.0, 5.0])
    calm = signals.Run(early.rows, np.linspace(0, 1, 6), 5, over=False)
    alarm = signals.Alarm("kl", "above", 1.0)
    found = signals.judge(alarm, [early, late, calm])
    assert (found.over, found.others, found.warned, found.early, found.false) == (2, 1, 1.0, 0.5, 1.0)
    assert found.lead == (-0.25, 0.5, 1.25)  # of 2 and -1
    assert (found.kept, found.best, found.end) == pytest.approx(((0.5 + 0.4) / 2, 1.0, 0.0))
    # Of the bounds, the one whose stops leave most: above 2 the first run goes to 3, the second to 5.
    monkeypatch.setitem(signals.CANDIDATES, "kl", ("above", False, (1.0, 2.0, 9.0)))
    assert signals.choose("kl", [early], 1).bound == 2.0
    assert signals.choose("kl", [late], 1).bound == 1.0


def synthetic(seeds: tuple[int, ...], betas: tuple[float, ...], bias: float) -> bounds.Record:
    """Records as if every policy came along the closed form to its end, the seeds apart by little."""
    path = {"beta": list(np.geomspace(0.02, 2.0, 60))}
    optimum = path | {name: list(map(float, v)) for name, v in exact.linear_optimum(np.array(path["beta"])).items()}
    winners = {name: list(map(float, v)) for name, v in exact.linear_best_of_n(BEST_OF).items()}
    start = {"proxy": 0.12, "gold": 0.55296, "proxy.deviation": exact.DEVIATION, "gold.deviation": 0.35}
    runs = []
    for seed, beta in itertools.product(seeds, betas):
        shift = 0.01 * (seed - np.mean(seeds)) + bias
        steps = exact.linear_optimum(beta * np.linspace(20.0, 1.0, 40))
        curves = {name: [float(one) + shift for one in values] for name, values in steps.items()}
        curves |= {f"audit.{name}": curves[name] for name in ("proxy", "gold")}
        curves |= {"length": [16.0] * 40, "entropy": [0.4] * 40, "spread": [0.1 + 0.01 * k for k in range(40)]}
        end = {name: float(v[0]) + shift for name, v in exact.linear_optimum(np.array([beta])).items()}
        runs.append({"beta": beta, "seed": seed, "curves": curves, "end": end})
    return {
        "form": "fixed",
        "start": [start] * len(seeds),
        "optimum": [optimum] * len(seeds),
        "best_of_n": [winners | {"n": list(BEST_OF)}] * len(seeds),
        "sampled": [
            {
                "n": list(SAMPLED_BEST_OF),
                **{name: [one + 0.01 * (k % 2) - 0.005 for one in winners[name][: len(SAMPLED_BEST_OF)]]
                   for name in ("proxy", "gold")},
            }
            for k in range(len(seeds))
        ],
        "ppo": runs,
    }  # fmt: skip


@pytest.mark.parametrize("bias", [0.0, 0.5])
def test_the_analysis_reads_records_and_checks_them_against_the_closed_forms(
    bias: float, tmp_path: pathlib.Path
) -> None:
    for name in (*LINEAR, *ARMS):
        of_linear = name == "linear"
        record = synthetic(CHECK_SEEDS if of_linear else SEEDS, CHECK_BETAS if of_linear else BETAS[1:], bias)
        (tmp_path / name).mkdir()
        (tmp_path / name / "records.json").write_text(json.dumps(record))
        (tmp_path / name / "summary.json").write_text('{"parameters": 7.0}')
    analysis.main(tmp_path)
    found = json.loads((tmp_path / "verdict.json").read_text())
    assert found["1. closed forms inside PPO's intervals"]["inside"] == (0 if bias else 24)
    assert found["2. closed forms inside best-of-n's intervals"]["inside"] == 13
    assert found["3. gold falls by 0.1 at every seed"]["linear"] == {"ppo.lost": True, "best_of_n.lost": True}
    assert found["5. proxies"]["gold lost by PPO, differences"]["bag > width_4"]["mean"] == 0.0
    table = (tmp_path / "table.md").read_text()
    assert "| 65,536 | 9.750 | 10.090 | 0.3493 |  |" in table
    assert ("*" in table.split("best-of-n.")[0].split("outside.")[1]) == bool(bias)
    assert (tmp_path / "figures" / "overoptimisation.png").stat().st_size > 10_000
