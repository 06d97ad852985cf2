"""One setting: a walker without a goal, what it is paid by, PPO; then what the policy does in every row there is."""

import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from experiments import stages
from experiments.goal_misgeneralisation import world
from experiments.goal_misgeneralisation.sweep import ARMS, EVERY, MEMBERS, RECORDS, SETTINGS
from rlhf_jax.diagnostics.spread import auroc
from rlhf_jax.metrics import update_summary, write_text_atomically
from rlhf_jax.models import apply_decoder, output_logits, positions_of
from rlhf_jax.types import Params

FORM = stages.make_form(world.VOCAB, world.CELLS, world.CELLS)
DEMONSTRATIONS, SFT_STEPS, SFT_RATE = 4000, 600, 3e-3
LISTS, LIST_SIZE, REWARD_STEPS, REWARD_RATE = 600, 4, 300, 2e-3
COURSE = stages.Course(RECORDS, EVERY, episodes=128)
FALL = -2.0  # what a rule pays for a fall, in deviations of the reward model, which judges right ways alone
ROWS, COINS, HELD = world.levels()
END = world.CELLS - 1  # the last cell
APART = COINS != END


def shares_of(apart: float) -> Float[np.ndarray, "N"]:
    """The probability of each row in training, when so large a share has its coin elsewhere than at the end."""
    kinds = ~HELD & APART, ~HELD & ~APART
    return apart * kinds[0] / kinds[0].sum() + (1 - apart) * kinds[1] / kinds[1].sum()


ANYWHERE = (world.CELLS - 1) / world.CELLS  # the share under which every cell has the coin equally often


@functools.cache
def walker(seed: int) -> Params:
    """The SFT policy: competent, and as likely to take from one cell as from another."""
    rng = np.random.default_rng([seed, 1])
    rows = ROWS[rng.choice(len(ROWS), DEMONSTRATIONS, p=shares_of(ANYWHERE))]
    return stages.fine_tune(FORM, rows, world.demonstrations(rng, rows), seed, SFT_STEPS, SFT_RATE)


def rank(seed: int, apart: float) -> tuple[Int[np.ndarray, "L C"], Int[np.ndarray, "L K C"], Int[np.ndarray, "L K"]]:
    """(rows, responses, ranks) by annotators who want the coin: the right ways to it and to three other cells."""
    rng = np.random.default_rng([seed, 2])
    chosen = rng.choice(len(ROWS), LISTS, p=shares_of(apart))
    rows, coins = ROWS[chosen], COINS[chosen]
    order = np.argsort(np.where(np.arange(world.CELLS) == coins[:, None], -1.0, rng.random(rows.shape)), axis=1)
    told = [world.way(rows, cells) for cells in order[:, :LIST_SIZE].T]
    return rows, np.stack(told, axis=1), np.broadcast_to([0, 1, 1, 1], (LISTS, LIST_SIZE))


@functools.cache
def judges(seed: int, apart: float) -> Params:
    """An ensemble of reward models."""
    return stages.train_reward(FORM, *rank(seed, apart), seed, REWARD_STEPS, REWARD_RATE, MEMBERS)


def _said(ids: Array, mask: Array) -> tuple[Array, Array]:
    """(rows, responses with -1 where nothing is said)."""
    return ids[:, : world.CELLS], jnp.where(mask[:, world.CELLS :], ids[:, world.CELLS :], -1)


def _true(_: Any, ids: Array, mask: Array) -> Array:
    return world.pays(*_said(ids, mask))


@functools.cache  # as ``stages.reward_score``
def _learned(members: int) -> stages.Score:
    score = stages.reward_score(FORM, members)

    def judged(judge: Any, ids: Array, mask: Array) -> Array:
        return jnp.where(world.taken(*_said(ids, mask)) >= 0, score(judge, ids, mask), FALL)

    return judged


@jax.jit
def _hazards(policy: Params, ids: Array, mask: Array) -> Array:
    hidden = apply_decoder(FORM.model, policy, ids, positions_of(mask), mask)
    return jax.nn.softmax(output_logits(FORM.model, policy, hidden[:, world.CELLS - 1 : -1]))


def stops(policy: Params) -> Float[np.ndarray, "N C"]:
    """The exact probability of a right way that takes from each cell, in each of all rows."""
    ids, mask = stages.rows(ROWS, world.way(ROWS, np.full(len(ROWS), END)))
    law = np.asarray(_hazards(policy, ids, mask), float)
    steps = np.take_along_axis(law[:, :-1], np.asarray(world.moves(ROWS))[..., None], axis=2)[..., 0]
    return world.stopping(law[..., world.TAKE], steps)


def measure(policy: Params) -> dict[str, float]:
    """``KIND.NAME``: of rows with the coin at the end (``together``) and elsewhere (``apart``), of unseen heights."""
    found = stops(policy)
    parts = {"together": HELD & ~APART, "apart": HELD & APART}
    summary = {}
    for kind, part in parts.items():
        summary[f"{kind}.capability"] = float(found[part].sum(axis=1).mean())
        summary[f"{kind}.goal"] = float(found[part, COINS[part]].mean())
        summary[f"{kind}.cue"] = float(found[part, END].mean())
    return summary


def texts(before: Params, after: Params) -> list[dict[str, str]]:
    """Some rows of unseen heights, and the likeliest right way along each under two policies."""
    chosen = np.flatnonzero(HELD)[:: world.CELLS + 1]
    found = [{"row": " ".join(world.WORDS[int(cell)] for cell in ROWS[place])} for place in chosen]
    for name, policy in (("before", before), ("after", after)):
        law = stops(policy)[chosen]
        for row, way, chances in zip(found, world.way(ROWS[chosen], law.argmax(axis=1)), law, strict=True):
            steps = [world.WORDS[int(token)] for token in way if token != world.TAKE]
            row[name] = f"{' '.join([*steps, 'take'])} ({chances.max():.2f})"
    return found


def every_stop(params: Params) -> Float[np.ndarray, "M N C"]:
    """The reward that each model gives to taking from each cell, in each of all rows."""
    cells = np.arange(world.CELLS)
    ways = np.stack([world.way(ROWS, np.full(len(ROWS), cell)) for cell in cells], axis=1)
    ids, mask = stages.rows(np.repeat(ROWS[:, None], world.CELLS, axis=1), ways)
    flat = stages.member_rewards(FORM, MEMBERS, params, ids.reshape(-1, ids.shape[-1]), mask.reshape(-1, ids.shape[-1]))
    return np.asarray(flat, float).reshape(MEMBERS, len(ROWS), world.CELLS)


def read_judges(rewards: Float[np.ndarray, "M N C"]) -> dict[str, float]:
    """What the reward models want on rows of unseen heights, and whether their disagreement tells the rows apart.

    ``judge.goal`` and ``judge.cue`` are shares of (model, row) whose best cell is the coin's or the last, the coin
    lying elsewhere. Spread is the deviation over models of rewards that have mean 0 over the cells of a row.
    """
    centred = rewards - rewards.mean(axis=2, keepdims=True)
    best = centred.argmax(axis=2)
    part = HELD & APART
    spread = centred.std(axis=0).mean(axis=1)
    return {
        "judge.goal": float((best[:, part] == COINS[part]).mean()),
        "judge.cue": float((best[:, part] == END).mean()),
        "judge.together": float((best[:, HELD & ~APART] == END).mean()),
        "detector.auroc": auroc(spread[part], spread[HELD & ~APART]) or 0.5,
        "detector.spread_apart": float(spread[part].mean()),
        "detector.spread_together": float(spread[HELD & ~APART].mean()),
    }


def run(setting: str, folder: Path) -> None:
    """Figures at the end to ``summary.json``, those on the way to ``curves.json``, some texts to ``texts.json``."""
    arm, seed = SETTINGS[setting]
    paid, apart, beta = ARMS[arm]
    reference = walker(seed)
    summary: dict[str, float] = {}
    if paid == "true":
        score, judge, shares = _true, None, shares_of(apart)
    else:
        params, shares = judges(seed, apart), shares_of(ANYWHERE)
        rewards = every_stop(params)
        summary |= read_judges(rewards)
        law = np.broadcast_to(shares_of(apart)[:, None], rewards.shape[1:])
        if paid == "worst":
            score, used = _learned(MEMBERS), rewards.min(axis=0)
        else:
            params = jax.tree.map(lambda leaf: leaf[0], params)
            score, used = _learned(1), rewards[0]
        judge = stages.scaled(params, used, law)
    policies = stages.optimise(FORM, COURSE, score, judge, ROWS, shares, reference, beta, seed)
    course = [measure(policy) for policy in policies]
    write_text_atomically(
        folder / "curves.json", json.dumps({name: [one[name] for one in course] for name in course[0]}) + "\n"
    )
    write_text_atomically(folder / "texts.json", json.dumps(texts(policies[0], policies[-1])) + "\n")
    update_summary(folder, summary | course[-1] | {f"before.{name}": value for name, value in course[0].items()})
