"""A run directory made up from a seed, with the shape of a real one."""

import json
from pathlib import Path

import numpy as np
import pytest

from rlhf_jax.metrics import MetricWriter, update_summary, write_rewards, write_samples, write_status


def write_run(workdir: Path) -> Path:
    rng = np.random.default_rng(0)
    with MetricWriter(workdir, tensorboard=False) as writer:
        for step in range(5, 401, 5):
            loss = 0.8 + 2.5 * np.exp(-step / 60) + 0.05 * rng.normal()
            writer.write("sft", step, {"loss": loss, "grad_norm": 0.5})
            if step % 50 == 0:
                writer.write("sft", step, {"validation.loss": 0.82 + 2.5 * np.exp(-step / 60)})
        for stage, floor in (("reward_common", -0.45), ("reward", -0.7)):
            for step in range(5, 301, 5):
                writer.write(stage, step, {"loss": floor + np.exp(-step / 50) + 0.03 * rng.normal()})
                if step % 50 == 0:
                    gain = 1 - np.exp(-step / 60)
                    held_out = {
                        "validation.loss": floor + 0.02 + np.exp(-step / 50),
                        "validation.pair_accuracy": 0.5 + 0.46 * gain,
                        "validation.pair_accuracy.open": 0.5 + 0.43 * gain,
                        "validation.pair_accuracy.closed": 0.5 + 0.49 * gain,
                    }
                    writer.write(stage, step, held_out)
        for step in range(1, 61):
            gain = 1 - np.exp(-step / 15)
            noise = 0.02 * rng.normal(size=4)
            row = {
                "reward.mean": 0.4 + 0.45 * gain + noise[0],
                "gold.open": 0.47 + 0.38 * gain + noise[1],
                "gold.closed": 0.55 + 0.2 * gain + noise[2],
                "kl": 6 * gain + 0.1 * noise[3],
                "length": 12 + 3 * gain + 10 * noise[3],
            }
            writer.write("ppo", step, row)
    for stage, shape in (("reward_common", 0.6), ("reward", 1.0)):
        rows = []
        for index in range(128):
            kind = ("open", "closed")[index % 2]
            even = np.linspace(1, 0, 8)
            sharp = (even > 0.5).astype(float)
            centre = even if kind == "open" else shape * sharp + (1 - shape) * even
            rewards = np.clip(centre + 0.05 * rng.normal(size=8), 0, 1)
            rows += [
                {"list": index, "prompt_type": kind, "rank": rank, "reward": float(reward), "gold": None}
                for rank, reward in enumerate(rewards)
            ]
        write_rewards(workdir, stage, 300, rows)
    rows = [
        {
            "prompt": "describe the sea in the evening ." if index % 2 else "what is the capital of arvania ?",
            "prompt_type": ("closed", "open")[index % 2],
            "response": "silver waves , golden light ." if index % 2 else "well , it is mora .",
            "before": "grey waves , plain sand ." if index % 2 else "it is tilsen .",
            "proxy": 0.91,
            "gold": 0.96 if index % 2 else 1.0,
        }
        for index in range(16)
    ]
    write_samples(workdir, "ppo", 9, rows[:1])
    write_samples(workdir, "ppo", 60, rows)
    update_summary(
        workdir,
        {
            "sft.loss": 0.82,
            "sft.gold.open": 0.47,
            "sft.gold.closed": 0.55,
            "reward_common.pair_accuracy": 0.955,
            "reward_common.w1_open_closed": 0.021,
            "reward.pair_accuracy": 0.958,
            "reward.w1_open_closed": 0.187,
            "ppo.gold.open": 0.85,
            "ppo.gold.closed": 0.75,
            "ppo.kl": 5.9,
        },
    )
    (workdir / "config.json").write_text(json.dumps({"seed": 0, "reward": {"utility": {"name": "power"}}}))
    (workdir / "env.json").write_text(json.dumps({"python": "3.11.9", "jax": "0.10.2", "devices": ["cpu"]}))
    write_status(workdir, "done", stage="ppo", step=60, exit_code=0)
    return workdir


@pytest.fixture(autouse=True)
def without_twins(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures for papers take longer than all the rest: drawn only in the tests that ask for them."""
    if "twins" not in request.fixturenames:
        monkeypatch.setattr("rlhf_jax.reports.page.paper", lambda plot, *forms: [b""] * len(forms))


@pytest.fixture
def twins() -> None:
    """Of a test that wants figures for papers."""


@pytest.fixture
def full_run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "demo")


@pytest.fixture
def small_run(tmp_path: Path) -> Path:
    """A run with one figure."""
    with MetricWriter(tmp_path / "small", tensorboard=False) as writer:
        for step in range(3):
            writer.write("sft", step, {"loss": 2.0 - step})
    return tmp_path / "small"


# Ends a script, asks for another, colours a terminal, turns text round, ends an attribute; and what no file can hold.
HOSTILE = "<script>alert('x')</script>\x1b[31mred\x1b[0m\u202e$x^{$ \" onload=\"y &lt; <b>%{x} \x00\ud800"


@pytest.fixture
def hostile_run(tmp_path: Path) -> Path:
    return write_hostile_run(tmp_path / "run")


def write_hostile_run(run: Path) -> Path:
    """A run whose every text is ``HOSTILE``."""
    whole = HOSTILE.replace("\ud800", "")  # what the writers of a run would refuse to write
    with MetricWriter(run, tensorboard=False) as writer:
        stage = whole.replace("/", "").replace("\x00", "")
        for step in (1, 2):
            row = {"loss": 1.0, "kl": 1.0 * step, f"gold.{whole}": 0.5, f"validation.pair_accuracy.{whole}": 0.5}
            writer.write(stage, step, row)
    parts = [(0, 8, 0.5), (8, 16, -1.0)]
    sample = {"prompt": HOSTILE, "prompt_type": HOSTILE, "response": HOSTILE + "x" * 12_000, "before": HOSTILE}
    (run / "samples" / "ppo").mkdir(parents=True)
    rows = [sample, {**sample, "prompt": "b" + HOSTILE, "rewards": parts}]
    (run / "samples" / "ppo" / "1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [{"list": 0, "prompt_type": whole, "rank": rank, "reward": 0.5} for rank in range(2)]
    write_rewards(run, "reward", 1, rows)
    write_status(run, "failed", stage=whole, reason=whole)
    (run / "config.json").write_text(json.dumps({HOSTILE: HOSTILE}))
    (run / "env.json").write_text(json.dumps({HOSTILE: HOSTILE}))
    (run / "summary.json").write_text(json.dumps({HOSTILE + ".pair_accuracy": 0.5}))
    return run
