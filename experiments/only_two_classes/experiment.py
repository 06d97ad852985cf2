"""One setting: a reward model on synthetic prompts of known truth, or the program on real lists."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.only_two_classes import dispersion
from experiments.only_two_classes.family import quantiles, shape_of_moment
from experiments.only_two_classes.sweep import PROMPTS, REAL, SEEDS, STEPS, SYNTHETIC
from experiments.only_two_classes.trainer import (
    FEATURES,
    NOISE,
    Arm,
    Lists,
    Size,
    classes_of,
    draw_lists,
    rewards_of,
    shape_of,
    train,
    true_shape,
)
from rlhf_jax.main import main
from rlhf_jax.metrics import read_jsonl, update_summary, write_text_atomically

HELD_OUT, QUALITIES = 512, 64


def run(setting: str, folder: Path) -> None:
    """Train and measure the setting; everything goes to ``summary.json``, per prompt or list to ``prompts.json``."""
    name = setting.rpartition("/")[2]
    if name in REAL:
        _real(*REAL[name], folder)
    else:
        _synthetic(*SYNTHETIC[name], folder)


# ------------------------------------------------------------------------------------------------------ synthetic


@functools.cache
def _compiled(arm: Arm) -> Callable[..., Any]:
    return jax.jit(jax.vmap(lambda key, lists: train(arm, Size(steps=STEPS), key, lists)))


@functools.cache
def _lists(seed: int) -> tuple[Lists, np.ndarray]:
    return draw_lists(seed, PROMPTS)


def _synthetic(score: str, classes: int, folder: Path) -> None:
    batch = []
    for seed in SEEDS:
        lists, shape = _lists(seed)
        if score == "list_moment":
            seen = ((lists.scores - 0.5) ** 2).mean(axis=1) - NOISE**2
            lists = lists._replace(given=shape_of_moment(seen))
        elif classes:
            lists = lists._replace(given=classes_of(shape, classes))
        batch.append(lists)
    arm = Arm("", 0) if score in ("", "list_moment") else Arm(score, classes)
    stacked = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves), jnp.float32), *batch)
    keys = jnp.stack([jax.random.key(seed) for seed in SEEDS])
    rewards, gates = _compiled(arm)(keys, stacked)

    rng = np.random.default_rng(2)
    x = rng.uniform(-1.0, 1.0, (HELD_OUT, FEATURES))
    truth = true_shape(x)
    q = (np.arange(QUALITIES) + 0.5) / QUALITIES
    inputs = jnp.asarray(x, jnp.float32)
    found = jax.vmap(lambda p: jax.vmap(lambda one: rewards_of(p, one, jnp.asarray(q, jnp.float32)))(inputs))(rewards)
    # Of two samples of one size, sorted, the Wasserstein-1 distance is the mean absolute difference.
    w1 = np.abs(np.sort(np.asarray(found, float), axis=-1) - quantiles(truth[:, None], q)).mean(axis=-1)
    summary = {f"{seed}.w1": one.mean() for seed, one in zip(SEEDS, w1, strict=True)}
    table: dict[str, list[float]] = {"shape": truth.tolist(), "w1": w1.mean(axis=0).tolist()}
    if arm.gate:
        given = jax.vmap(lambda gate: jax.vmap(lambda one: shape_of(arm, gate, one))(inputs))(gates)
        off = np.abs(np.asarray(given, float) - truth).mean(axis=1)
        summary |= {f"{seed}.shape_error": one for seed, one in zip(SEEDS, off, strict=True)}
        table["gate"] = np.asarray(given, float)[0].tolist()
    update_summary(folder, summary)
    write_text_atomically(folder / "prompts.json", json.dumps(table) + "\n")


# ----------------------------------------------------------------------------------------------------------- real


def _utility_flags(prompt_type: str, shape: float) -> list[str]:
    """The member of the program's own family whose law is Beta(shape, shape), as flags."""
    key = f"--config.reward.utility_by_type.{prompt_type}"
    exponent = 1.0 - 2.0 * shape
    if abs(exponent) < 0.02:
        return [f"{key}.name=log", f"{key}.epsilon=0.02"]
    name = "power" if exponent > 0 else "negative_power"
    return [f"{key}.name={name}", f"{key}.gamma={abs(exponent):.4f}", f"{key}.epsilon=0.02"]


def _real(types: int, seed: int, folder: Path) -> None:
    path = dispersion.find_lists()
    if path is None:
        print(f"skipped: no {dispersion.LISTS} in RLHF_JAX_DATA or ../shared/data")
        return
    rows = dispersion.read_lists(path)
    scores = np.array([[response["score"] for response in row["responses"]] for row in rows])
    moment = dispersion.second_moment(dispersion.normalised_logits(scores))
    place = dispersion.types_of(moment, types)
    shapes = [float(shape_of_moment(moment[place == k].mean())) for k in range(types)]
    folder.mkdir(parents=True, exist_ok=True)
    typed = folder / "lists.jsonl"
    with typed.open("w", encoding="utf-8") as out:
        for row, k in zip(rows, place, strict=True):
            out.write(json.dumps(row | {"prompt_type": f"t{k}"}) + "\n")
    flags = [flag for k in range(types) for flag in _utility_flags(f"t{k}", shapes[k])]
    config = Path(__file__).with_name("real.py")
    main([f"--config={config}", f"--workdir={folder}", f"--config.data.path={typed}", f"--config.seed={seed}", *flags])
    update_summary(
        folder,
        _held_out(read_jsonl(folder / "rewards" / "reward.jsonl"), shapes)
        | {f"shape.t{k}": shape for k, shape in enumerate(shapes)}
        | {
            "reliability": dispersion.reliability(scores),
            "explained_by_source": dispersion.share_explained(moment, [row["source"] for row in rows]),
        },
    )


def _held_out(rows: list[dict[str, Any]], shapes: list[float]) -> dict[str, float]:
    """Distances between rewards and normalised scores of held-out lists, and what the types alone could reach.

    ``w1``: mean over lists of the distance between the two sets of eight. ``w1.ideal``: the same if the rewards of a
    list were exactly the quantiles of the law of its type.
    """
    lists: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        lists.setdefault(row["list"], []).append(row)
    w1, ideal, spread = [], [], []
    for one in lists.values():
        rewards = np.sort([row["reward"] for row in one])
        target = np.sort(dispersion.normalised_logits(np.array([row["gold"] for row in one])))
        law = quantiles(shapes[int(one[0]["prompt_type"][1:])], (np.arange(len(one)) + 0.5) / len(one))
        w1.append(np.abs(rewards - target).mean())
        ideal.append(np.abs(law - target).mean())
        spread.append((rewards.std(), target.std()))
    return {
        "w1": float(np.mean(w1)),
        "w1.ideal": float(np.mean(ideal)),
        "spread_correlation": float(np.corrcoef(np.array(spread).T)[0, 1]),
        "held_out_lists": float(len(lists)),
    }
