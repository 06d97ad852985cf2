"""One setting: SFT on writers, a reward model from annotators' lists, PPO; then the law of every response there is."""

import functools
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from experiments import stages
from experiments.measures import kl, tilted
from experiments.reward_misspecification import world
from experiments.reward_misspecification.sweep import ARMS, BETA, EVERY, LISTS, MEMBERS, RECORDS, SETTINGS
from rlhf_jax.metrics import update_summary, write_text_atomically
from rlhf_jax.types import Params

FORM = stages.make_form(world.VOCAB, world.PROMPT, world.HORIZON)
DEMONSTRATIONS, SFT_STEPS, SFT_RATE = 8000, 800, 3e-3
LIST_SIZE, REWARD_STEPS, REWARD_RATE = 4, 600, 2e-3
COURSE = stages.Course(RECORDS, EVERY)
PROBE = 64  # responses to unchecked prompts that experts judge at each record, for early stopping
SAMPLES = 4  # responses of each kind of prompt that are kept as text
FRONTIER = np.geomspace(0.05, 20.0, 40)  # beta, reward per nat

UNCHECKED = world.OF_KIND["unchecked"]
TOLD = world.responses()
ASKED = np.repeat(world.PROMPTS[:, None], len(TOLD), axis=1)  # (prompts, responses, 2)
ANSWERS = np.broadcast_to(TOLD, (len(world.PROMPTS), *TOLD.shape))
IDS, MASK = (leaf.reshape(-1, leaf.shape[-1]) for leaf in stages.rows(ASKED, ANSWERS))
GOLD, SEEN = (np.asarray(judge(ASKED, ANSWERS), float) for judge in (world.gold, world.seen))
SOURCES = np.broadcast_to(np.asarray(world.sources(TOLD), float), GOLD.shape)
Laws = Float[np.ndarray, "Q M"]  # one of ``TOLD`` to each prompt; what a policy says beyond the words is missing


@functools.cache
def writer(seed: int) -> Params:
    """The SFT policy."""
    rng = np.random.default_rng([seed, 1])
    prompts = world.PROMPTS[rng.integers(len(world.PROMPTS), size=DEMONSTRATIONS)]
    return stages.fine_tune(FORM, prompts, world.write(rng, prompts), seed, SFT_STEPS, SFT_RATE)


def laws(policy: Params) -> Laws:
    """The probability of every response to every prompt."""
    return np.exp(np.asarray(stages.log_probabilities(FORM, policy, IDS, MASK), float)).reshape(GOLD.shape)


def told_by(rng: np.random.Generator, law: Laws, places: Int[np.ndarray, "L"], size: int) -> Int[np.ndarray, "L K R"]:
    """``size`` responses to each of the prompts at ``places``."""
    shares = law / law.sum(axis=1, keepdims=True)
    return np.stack([TOLD[rng.choice(len(TOLD), size, p=shares[place])] for place in places])


Lists = tuple[Int[np.ndarray, "L P"], Int[np.ndarray, "L K R"], Int[np.ndarray, "L K"]]


def annotated(rng: np.random.Generator, count: int) -> Lists:
    """Lists of writers' responses, in the order of what annotators see."""
    prompts = world.PROMPTS[rng.integers(len(world.PROMPTS), size=count)]
    each = np.repeat(prompts, LIST_SIZE, axis=0)
    shape = (count, LIST_SIZE, world.HORIZON)
    told = world.write(rng, each).reshape(shape)
    return prompts, told, world.ranked(rng, np.asarray(world.seen(prompts[:, None], told)), world.NOISE)


def expert(rng: np.random.Generator, count: int, found: Laws | None) -> Lists:
    """Lists on unchecked prompts, right above wrong: of writers, or half of them what a policy says by its laws."""
    places = rng.choice(np.flatnonzero(UNCHECKED), count)
    prompts = world.PROMPTS[places]
    each = np.repeat(prompts, LIST_SIZE, axis=0)
    told = world.write(rng, each).reshape(count, LIST_SIZE, world.HORIZON)
    if found is not None:
        told[:, : LIST_SIZE // 2] = told_by(rng, found, places, LIST_SIZE // 2)
    return prompts, told, 1 - np.asarray(world.gold(prompts[:, None], told), int)


def lists_of(arm: str, seed: int, exploited: Laws | None) -> Lists:
    """What the reward model of an arm learns from."""
    options = ARMS[arm]
    found = annotated(np.random.default_rng([seed, 2]), int(options.get("lists", LISTS)))
    share = float(options.get("experts", options.get("counter", 0.0)))
    if not share:
        return found
    more = expert(np.random.default_rng([seed, 3]), round(share * LISTS), exploited if "counter" in options else None)
    prompts, told, ranks = (np.concatenate(both) for both in zip(found, more, strict=True))
    return prompts, told, ranks


def _coded(judge: Any, ids: Array, mask: Array) -> Array:
    prompts, told = ids[:, : world.PROMPT], jnp.where(mask[:, world.PROMPT :], ids[:, world.PROMPT :], world.END)
    return judge["gain"] * (world.seen(prompts, told) - judge["bias"])


def judge_of(arm: str, seed: int, reference: Laws, exploited: Laws | None) -> tuple[stages.Score, Any, Laws]:
    """(score, its parameters, what it gives to every response) of an arm: deviation 1 under the SFT policy."""
    kind = ARMS[arm].get("reward", "model")
    if kind == "coded":
        judge = stages.scaled({}, SEEN, reference)
        return _coded, judge, np.asarray(judge["gain"] * (SEEN - judge["bias"]), float)
    members = MEMBERS if kind == "ensemble" else 1
    params = stages.train_reward(
        FORM, *lists_of(arm, seed, exploited), seed, REWARD_STEPS, REWARD_RATE, members=members
    )
    each = np.asarray(stages.member_rewards(FORM, members, params, IDS, MASK), float).reshape(members, *GOLD.shape)
    used = each.min(axis=0)
    judge = stages.scaled(params, used, reference)
    score = stages.reward_score(FORM, members)
    return score, judge, np.asarray(judge["gain"] * (used - judge["bias"]), float)


def measure(law: Laws, reference: Laws, proxy: Laws) -> dict[str, float]:
    """``KIND.NAME``: means over the prompts of a kind of what a policy is worth and does."""
    found: dict[str, float] = {}
    for kind in world.KINDS:
        part = world.OF_KIND[kind]
        for name, values in (("gold", GOLD), ("seen", SEEN), ("proxy", proxy), ("sources", SOURCES)):
            found[f"{kind}.{name}"] = float((law * values)[part].sum(axis=1).mean())
        rest = np.maximum(1.0 - np.stack([law, reference]).sum(axis=2), 1e-12)  # everything else, as one response
        both = [np.concatenate([one, more[:, None]], axis=1) for one, more in zip((law, reference), rest, strict=True)]
        found[f"{kind}.kl"] = float(np.mean([kl(p, q) for p, q in zip(both[0][part], both[1][part], strict=True)]))
        found[f"{kind}.outside"] = float(rest[0][part].mean())
    return found


def probe(rng: np.random.Generator, law: Laws) -> float:
    """Gold of a few responses to unchecked prompts, as experts would find it."""
    places = rng.choice(np.flatnonzero(UNCHECKED), PROBE)
    told = told_by(rng, law, places, 1)[:, 0]
    return float(np.mean(world.gold(world.PROMPTS[places], told)))


def optima(reference: Laws, proxy: Laws) -> dict[str, list[float]]:
    """Measures of the exact KL-regularised optima of a proxy over ``FRONTIER``."""
    rows = [measure(optimum(reference, proxy, beta), reference, proxy) | {"beta": beta} for beta in FRONTIER]
    return {name: [row[name] for row in rows] for name in rows[0]}


def optimum(reference: Laws, proxy: Laws, beta: float) -> Laws:
    """The laws that maximise E[proxy] - beta KL, among the responses there are words for."""
    return np.stack([tilted(r, p / p.sum(), beta) for r, p in zip(proxy, reference, strict=True)])


def texts(rng: np.random.Generator, law: Laws) -> list[dict[str, Any]]:
    """Responses drawn from the laws, and their gold."""
    found = []
    for kind in world.KINDS:
        places = rng.choice(np.flatnonzero(world.OF_KIND[kind]), SAMPLES)
        for place, words in zip(places, told_by(rng, law, places, 1)[:, 0], strict=True):
            asked = world.WORDS[int(world.PROMPTS[place][1])]
            own = float(world.gold(world.PROMPTS[place], words))
            found.append({"kind": kind, "asked": asked, "response": world.text(words), "gold": own})
    return found


def run(setting: str, folder: Path) -> None:
    """Figures at the end to ``summary.json``, those on the way to ``curves.json``, some texts to ``texts.json``."""
    arm, seed = SETTINGS[setting]
    before = writer(seed)
    reference = laws(before)
    path = folder.parent / f"annotators.{seed}" / "laws.npy"
    exploited = np.load(path, allow_pickle=False) if "counter" in ARMS[arm] else None
    score, judge, proxy = judge_of(arm, seed, reference, exploited)
    beta = float(ARMS[arm].get("beta", BETA))
    asked = UNCHECKED if "prompts" in ARMS[arm] else np.ones(len(UNCHECKED))
    policies = stages.optimise(FORM, COURSE, score, judge, world.PROMPTS, asked / asked.sum(), before, beta, seed)
    found = [laws(policy) for policy in policies]
    rng = np.random.default_rng([seed, 4])
    rows = [measure(law, reference, proxy) | {"probe": probe(rng, law)} for law in found]
    best = optimum(reference, proxy, beta)
    apart = 0.5 * np.abs(found[-1] - best).sum(axis=1)
    summary = rows[-1] | {f"before.{name}": value for name, value in rows[0].items()}
    summary |= {f"optimum.{name}": value for name, value in measure(best, reference, proxy).items()}
    summary |= {f"{kind}.tv": float(apart[world.OF_KIND[kind]].mean()) for kind in world.KINDS}
    _write(folder / "curves.json", {name: [row[name] for row in rows] for name in rows[0]})
    _write(folder / "frontier.json", optima(reference, proxy))
    _write(folder / "texts.json", {"before": texts(rng, found[0]), "after": texts(rng, found[-1])})
    np.save(folder / "laws.npy", found[-1])
    update_summary(folder, summary)


def _write(path: Path, found: dict[str, Any]) -> None:
    write_text_atomically(path, json.dumps(found) + "\n")
