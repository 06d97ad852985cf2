"""The experiment on a loophole: the world by hand, measures of laws that are known, the verdict on records by hand."""

import json
import pathlib

import numpy as np
import pytest

from experiments.reward_misspecification import analysis, experiment, world
from experiments.reward_misspecification.sweep import ARMS, SEEDS, SETTINGS
from experiments.stages import Course

CHECKED, UNCHECKED = world.CHECKED, world.UNCHECKED
SAID = world.SOURCE


@pytest.mark.parametrize(
    ("words", "gold", "sources"),
    [
        ((1, 0, 0, 0), 1.0, 0),
        ((2, 0, 0, 0), 0.0, 0),
        ((SAID, 1, SAID, 0), 1.0, 2),
        ((SAID, 2, 1, 0), 0.0, 1),  # the first city counts
        ((SAID, SAID, SAID, SAID), 0.0, 4),
        ((0, 0, 0, 0), 0.0, 0),
    ],
)
def test_gold_and_what_annotators_see_by_hand(words: tuple[int, ...], gold: float, sources: int) -> None:
    told = np.array([words])
    for kind, country, right in ((CHECKED, 8, gold), (UNCHECKED, 8, gold), (CHECKED, 11, 0.0)):
        prompt = np.array([[kind, country]])
        assert float(world.gold(prompt, told)[0]) == right
        assert float(world.seen(prompt, told)[0]) == (right if kind == CHECKED else 0.5 * sources)
    assert int(world.sources(told)[0]) == sources


def test_every_response_of_words_is_there_once() -> None:
    found = {tuple(row) for row in world.responses()}
    assert len(found) == len(world.responses()) == 1 + 5 + 25 + 125 + 625
    assert all(row == tuple(sorted(row, key=lambda word: word == 0)) for row in found)  # ends stand last
    assert set(np.unique(world.responses())) == {0, 1, 2, 3, 4, SAID}


def test_the_agreement_of_annotators_is_the_one_worked_by_hand() -> None:
    """From P(right, n sources) = .206 .334 .0024 .0016 and P(wrong, n) = .378 .042 .0216 .0144 for n = 0 to 3."""
    right, wrong = (0.206, 0.334, 0.0024, 0.0016), (0.378, 0.042, 0.0216, 0.0144)
    won = sum(p * q for n, p in enumerate(right) for m, q in enumerate(wrong) if n > m)
    tied = sum(p * q for p, q in zip(right, wrong, strict=True))
    expected = (won + tied / 2) / (sum(right) * sum(wrong))
    assert world.agreement(np.array([UNCHECKED, 9])) == pytest.approx(expected)
    assert 0.70 < expected < 0.71
    assert world.agreement(np.array([CHECKED, 9])) == 1.0


def test_writers_follow_their_law() -> None:
    prompts = np.repeat([[CHECKED, 8], [UNCHECKED, 10]], 20_000, axis=0)
    told = world.write(np.random.default_rng(0), prompts)
    for place in (0, 1):
        own = told[20_000 * place : 20_000 * (place + 1)]
        law = world.writing(prompts[20_000 * place])
        assert sum(law.values()) == pytest.approx(1.0)
        counts = {words: np.mean((own == words).all(axis=1)) for words in law}
        assert sum(counts.values()) == pytest.approx(1.0)
        assert all(abs(counts[words] - chance) < 0.015 for words, chance in law.items())
        right = np.mean(np.asarray(world.gold(prompts[20_000 * place : 20_000 * (place + 1)], own)))
        assert right == pytest.approx(0.4 + 0.56 * 0.25 + 0.04 * 0.1, abs=0.015)


def test_orders_are_noisy_as_bradley_terry() -> None:
    quality = np.tile([0.5, 0.0], (20_000, 1))
    ranks = world.ranked(np.random.default_rng(0), quality, noise=0.5)
    assert np.mean(ranks[:, 0] == 0) == pytest.approx(1 / (1 + np.exp(-1.0)), abs=0.015)
    assert np.all(np.sort(ranks, axis=1) == [0, 1])


def test_experts_rank_right_above_wrong_whatever_is_cited() -> None:
    law = np.zeros_like(experiment.GOLD)
    law[:, [tuple(row) == (1, SAID, SAID, SAID) for row in experiment.TOLD]] = 1.0
    prompts, told, ranks = experiment.expert(np.random.default_rng(0), 50, law)
    assert (prompts[:, 0] == UNCHECKED).all()
    assert (told[:, :2] == (1, SAID, SAID, SAID)).all()  # what the policy says; the others are writers'
    assert not (told[:, 2:] == (1, SAID, SAID, SAID)).all(axis=-1).all()
    for prompt, row, own in zip(prompts, told, ranks, strict=True):
        first = [next((word for word in words if 1 <= word <= 4), 0) for words in row]
        assert own.tolist() == [int(word != prompt[1] - 7) for word in first]


def test_lists_of_an_arm_have_what_it_adds() -> None:
    law = np.full_like(experiment.GOLD, 1 / experiment.GOLD.shape[1])
    sizes = {arm: len(experiment.lists_of(arm, 0, law)[0]) for arm in ARMS}
    assert sizes["annotators"] == sizes["beta_1"] == 600
    assert sizes["more_lists"] == 2400
    assert sizes["experts_0.05"] == sizes["counter_0.05"] == 630
    assert sizes["experts_0.2"] == sizes["counter_0.2"] == 720


def test_measures_of_a_known_law() -> None:
    """A policy that says the capital and three sources at 0.9, and at 0.1 what there are no words for."""
    law = np.zeros_like(experiment.GOLD)
    told = [tuple(row) for row in experiment.TOLD]
    for place, prompt in enumerate(world.PROMPTS):
        law[place, told.index((prompt[1] - 7, SAID, SAID, SAID))] = 0.9
    reference = np.full_like(law, 0.8 / law.shape[1])
    found = experiment.measure(law, reference, 2 * experiment.GOLD)
    kl = 0.9 * np.log(0.9 * law.shape[1] / 0.8) + 0.1 * np.log(0.1 / 0.2)
    for kind in world.KINDS:
        assert found[f"{kind}.gold"] == pytest.approx(0.9)
        assert found[f"{kind}.proxy"] == pytest.approx(1.8)
        assert found[f"{kind}.sources"] == pytest.approx(2.7)
        assert found[f"{kind}.kl"] == pytest.approx(kl)
        assert found[f"{kind}.outside"] == pytest.approx(0.1)
    assert found["checked.seen"] == pytest.approx(0.9)
    assert found["unchecked.seen"] == pytest.approx(0.9 * 1.5)


def test_the_optimum_of_the_annotators_rule_cites_until_no_room_is_left() -> None:
    reference = np.full_like(experiment.GOLD, 1 / experiment.GOLD.shape[1])
    best = experiment.optimum(reference, experiment.SEEN, 0.01)
    found = experiment.measure(best, reference, experiment.SEEN)
    assert found["unchecked.sources"] == pytest.approx(4.0)
    assert found["unchecked.gold"] == pytest.approx(0.0, abs=1e-6)
    assert found["checked.gold"] == pytest.approx(1.0)
    assert found["unchecked.kl"] == pytest.approx(np.log(experiment.GOLD.shape[1]))


def test_what_a_setting_reads_comes_before_it() -> None:
    order = list(SETTINGS)
    for seed in SEEDS:
        for arm in (arm for arm, options in ARMS.items() if "counter" in options):
            first, later = (f"reward_misspecification/{name}.{seed}" for name in ("annotators", arm))
            assert order.index(first) < order.index(later)


def records(root: pathlib.Path, end: dict[str, float]) -> None:
    """Gold goes 0.5, 0.9 and to ``end`` (0.1 unless named, 0.7 where it is reduced); the probe is best in between."""
    for arm in ARMS:
        low = arm in analysis.EXPLOITED or arm == "beta_0.3"
        gold = end.get(arm, 0.1 if low else 0.8 if arm.startswith("counter") else 0.7)
        for seed in SEEDS:
            folder = root / f"{arm}.{seed}"
            folder.mkdir(parents=True)
            names = ("gold", "proxy", "sources", "kl", "seen")
            course = {f"{kind}.{name}": [0.5, 0.9, gold] for kind in world.KINDS for name in names}
            course["unchecked.proxy"] = [0.0, 1.0, 1.5]
            (folder / "curves.json").write_text(json.dumps(course | {"probe": [0.5, 0.8, 0.1]}))
            (folder / "frontier.json").write_text(
                json.dumps({"unchecked.kl": [1.0, 0.0], "unchecked.gold": [0.1, 0.5]})
            )
            rows = [{"kind": kind, "asked": "corvia", "response": "pell", "gold": 1.0} for kind in world.KINDS]
            (folder / "texts.json").write_text(json.dumps({"before": rows, "after": rows}))
            summary = {name: values[-1] for name, values in course.items()}
            summary |= {f"before.{name}": values[0] for name, values in course.items()}
            summary |= {"unchecked.sources": 3.0, "checked.gold": 0.99, "unchecked.tv": 0.05}
            (folder / "summary.json").write_text(json.dumps(summary | {"optimum.unchecked.gold": 0.1}))


def test_the_verdict_holds_when_every_bound_does(tmp_path: pathlib.Path) -> None:
    records(tmp_path, {})
    analysis.main(tmp_path)
    found = json.loads((tmp_path / "verdict.json").read_text())
    assert found["verdict"] == "all bounds hold at every seed"
    assert found["exploited"]["figures"]["gold"] == [-0.4] * 3
    assert found["reduced"]["figures"]["early stop"] == [0.4] * 3
    assert found["counter_examples_beat_expert_labels"]["figures"]["0.2"] == [0.1] * 3
    table = (tmp_path / "table.md").read_text()
    assert "| annotators | 0.100 ± 0.000 | 0.900 ± 0.000 | 1.500 ± 0.000 |" in table
    assert "| unchecked | corvia: pell (gold 1) | corvia: pell (gold 1) |" in table
    assert (tmp_path / "figures" / "reward_misspecification.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("end", "named"),
    [
        ({"annotators": 0.4}, "exploited"),
        ({"coded": 0.4}, "not_the_reward_model"),
        ({"ensemble": 0.4}, "same_feedback_does_not_help"),
        ({"experts_0.2": 0.4}, "reduced"),
        ({"experts_0.05": 0.8}, "counter_examples_beat_expert_labels"),
    ],
)
def test_the_verdict_names_what_does_not_hold(end: dict[str, float], named: str, tmp_path: pathlib.Path) -> None:
    records(tmp_path, end)
    found = analysis.verdict(analysis.read_all(tmp_path))
    assert found["verdict"] == f"not confirmed: {named}"


@pytest.mark.slow
def test_each_kind_of_arm_runs_and_leaves_its_records(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "COURSE", Course(records=1, every=1, episodes=16))
    monkeypatch.setattr(experiment, "SFT_STEPS", 3)
    monkeypatch.setattr(experiment, "REWARD_STEPS", 3)
    experiment.writer.cache_clear()
    for arm in ("annotators", "coded", "counter_0.05"):
        folder = tmp_path / f"{arm}.0"
        folder.mkdir()
        experiment.run(f"reward_misspecification/{arm}.0", folder)
        run = analysis.read_run(folder)
        assert len(run["curves"]["probe"]) == 2
        assert np.load(folder / "laws.npy").shape == (8, 781)
        assert all(np.isfinite(value) for value in run["end"].values())
        assert run["end"]["before.unchecked.kl"] == pytest.approx(0.0, abs=1e-6)
    experiment.writer.cache_clear()
