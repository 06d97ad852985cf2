"""The experiment on fine-grained rewards: its configs, and its analysis on records made by hand."""

import json
import pathlib

import numpy as np
import pytest

from experiments.fine_grained import analysis
from experiments.fine_grained.experiment import get_config
from experiments.fine_grained.sweep import ARMS, SEEDS, SETTINGS
from rlhf_jax.config import validate
from rlhf_jax.data.world_local import KINDS

PROMPT = "describe the sea of arvania at dawn ."
BAD, BETTER = "old rain .", "golden rain , crimson light , velvet wind , ghostly sky , fragrant song ."


@pytest.mark.parametrize("arm", ["sft", *ARMS])
def test_configs_validate_and_every_arm_sees_as_many_labelled_responses(arm: str, tmp_path: pathlib.Path) -> None:
    config = get_config(arm)
    if arm != "sft":
        config.parents.sft = str(tmp_path)
        seen = {
            "reward": config.reward.steps * config.reward.batch_size * config.data.list_size,
            "segments": config.segments.steps * config.segments.batch_size,
        }
        assert seen["reward"] == seen["segments"]
    if arm == "dense_at_end":
        config.ppo.dense.models = (str(tmp_path),)
    validate(config)


def test_what_a_setting_starts_from_comes_before_it() -> None:
    order = list(SETTINGS)
    for seed in SEEDS:
        for arm in ARMS:
            assert order.index("fine_grained/sft") < order.index(f"fine_grained/{arm}.{seed}")
        assert order.index(f"fine_grained/dense.{seed}") < order.index(f"fine_grained/dense_at_end.{seed}")


def records(root: pathlib.Path, gain: dict[str, float]) -> None:
    """Runs of 4 iterations: at iteration 2 a share of 100 answers is good (1.0), at the end all are; KL is 2 and 4."""
    for arm in ARMS:
        for seed in SEEDS:
            folder = root / f"{arm}.{seed}"
            (folder / "samples" / "ppo").mkdir(parents=True)
            good = int(100 * gain[arm]) + seed
            for step, count in ((2, good), (4, 100)):
                rows = [
                    {"prompt": PROMPT, "response": BETTER if place < count else BAD, "before": BAD}
                    for place in range(100)
                ]
                (folder / "samples" / "ppo" / f"{step}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
            metrics = [
                {"stage": "ppo", "step": step, "time": 0.0, "metrics": {"validation.kl": float(step)}}
                for step in (2, 4)
            ]
            (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
            summary = {f"segments.{figure}.{kind}": 0.5 for figure in analysis.FIGURES for kind in KINDS}
            (folder / "summary.json").write_text(json.dumps({**summary, "reward.pair_accuracy": 0.75}))


def test_the_analysis_reads_areas_and_equal_kl_off_the_records(tmp_path: pathlib.Path) -> None:
    records(tmp_path, {"dense": 0.5, "dense_at_end": 0.3, "scores": 0.7})
    analysis.main(tmp_path)
    found = json.loads((tmp_path / "verdict.json").read_text())
    # Gold goes 0, share, 1 at iterations 0, 2, 4: the area is (share + (share + 1)) / 4.
    run = analysis.course(tmp_path / "dense.0")
    np.testing.assert_allclose(run["gold"], [0, 0.5, 1])
    np.testing.assert_allclose(run["short"], [0.8, 0.4, 0])
    measures = analysis.measures(run)
    assert measures["gold, mean over iterations"] == pytest.approx(0.5)
    assert measures["gold at 1 nats"] == pytest.approx(0.25)
    assert measures["gold at 4 nats"] == pytest.approx(1.0)
    clear = {arm: found[f"dense against {arm}"] for arm in ARMS if arm != "dense"}
    assert clear["dense_at_end"]["gold, mean over iterations"] == "better (+0.100 ± 0.000)"
    assert clear["scores"]["gold at 1 nats"] == "worse (-0.100 ± 0.000)"
    assert clear["scores"]["gold at 4 nats"] == "no clear difference (+0.000 ± 0.000)"
    assert (tmp_path / "figures" / "fine_grained.png").is_file()
    assert "| gold at the end | 1.000 ± 0.000" in (tmp_path / "table.md").read_text()
