"""Train an ensemble on 200 lists, then read its spread on shifted lists and what it chooses among many answers."""

import functools
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from experiments.ensembles import lists
from experiments.ensembles.sweep import AGGREGATES, ARMS, BEST_OF, MEMBERS, SETTINGS, SHIFTS
from rlhf_jax.data.examples import ListExample
from rlhf_jax.data.lists import sizes_of
from rlhf_jax.data.loader import rank_batches, rank_eval_batches
from rlhf_jax.data.tokenizers import Tokenizer, build_tokenizer
from rlhf_jax.diagnostics.best_of_n import best_of_n
from rlhf_jax.diagnostics.spread import auroc, measure_spread
from rlhf_jax.learners import ensemble, reward
from rlhf_jax.learners.optimizer import OptimizerSpec, make_optimizer
from rlhf_jax.learners.step import init_state, train_step
from rlhf_jax.metrics import update_summary
from rlhf_jax.models import DecoderSpec, EnsembleSpec, init_reward_model
from rlhf_jax.objectives.aggregation import aggregate
from rlhf_jax.objectives.utilities import Log
from rlhf_jax.types import Params, RankBatch

TRAINING, HELD_OUT = 200, 64  # lists; held out of each shift
STEPS, BATCH = 200, 8
PROMPTS, ANSWERS = 32, 128  # of best-of-n
OPTIMIZER = OptimizerSpec(learning_rate=2e-3, steps=STEPS, warmup=20)


@functools.cache
def tokenizer() -> Tokenizer:
    """The words of the world."""
    return build_tokenizer("word")


def spec() -> reward.RewardSpec:
    """Rewards in [0, 1]: their scale and zero are the same for every member."""
    decoder = DecoderSpec(tokenizer().vocab_size, width=32, depth=2, heads=4, kv_heads=2, mlp_width=64)
    return reward.RewardSpec(decoder, bounded=True, utilities=(Log(epsilon=0.1),))


@functools.cache
def compiled(arm: str) -> tuple[Any, Any]:
    """(step, rewards of a batch (M, B, K)) of an arm, for every seed."""
    kind, bootstrap = ARMS[arm]
    form = EnsembleSpec(MEMBERS, kind)  # type: ignore[arg-type]
    rewards_of = partial(reward.member_rewards, spec(), form)
    loss = partial(ensemble.loss_sums, rewards_of, partial(reward.loss_of_rewards, spec()))
    optimizer = optimizer_of(kind)

    def step(state: Any, batch: RankBatch) -> Any:
        return train_step(partial(loss, state.key if bootstrap else None), optimizer, state, batch)

    return jax.jit(step), jax.jit(rewards_of)


def optimizer_of(kind: str) -> Any:
    """Whole models have one each."""
    optimizer = make_optimizer(OPTIMIZER)
    return ensemble.per_member(optimizer) if kind == "models" else optimizer


def train(arm: str, seed: int) -> Params:
    """An ensemble trained on the lists of its seed."""
    kind, _ = ARMS[arm]
    training = lists.examples(lists.sample(seed, "same", TRAINING, training=True), tokenizer())
    batches = rank_batches(training, {}, BATCH, sizes_of(training, lists.LIST_SIZE), seed, tokenizer().pad_id)
    key = jax.random.key(seed)
    form = EnsembleSpec(MEMBERS, kind)  # type: ignore[arg-type]
    params = jax.jit(partial(init_reward_model, spec().decoder, ensemble=form))(key)
    state = init_state(params, optimizer_of(kind), key)
    step, _ = compiled(arm)
    for _ in range(STEPS):
        state, _ = step(state, next(batches))
    return state.params


def score(arm: str, params: Params, examples: list[ListExample], size: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """(rewards (N, K, M), which response was judged better (N, K, K)), ``rows`` lists at once."""
    rewards, better = [], []
    for batch in rank_eval_batches(examples, {}, rows, sizes_of(examples, size), tokenizer().pad_id):
        rewards.append(np.moveaxis(np.asarray(compiled(arm)[1](params, batch), float), 0, -1))
        better.append(batch.better)
    return np.concatenate(rewards)[: len(examples)], np.concatenate(better)[: len(examples)]


def run(setting: str, folder: Path) -> None:
    """Measures of one arm and seed to ``summary.json``: SHIFT.KIND.NAME and bon.KIND.AGGREGATE.N."""
    arm, seed = SETTINGS[setting]
    params = train(arm, seed)
    summary: dict[str, float] = {}
    familiar: dict[str, np.ndarray] = {}
    for shift in SHIFTS:
        examples = lists.examples(lists.sample(seed, shift, HELD_OUT), tokenizer())
        rewards, better = score(arm, params, examples, lists.LIST_SIZE, HELD_OUT // 2)
        kinds = np.array([example.prompt_type for example in examples])
        for kind in sorted(set(kinds)):
            own, judged = rewards[kinds == kind], better[kinds == kind]
            apart = own.std(axis=2).ravel()
            familiar.setdefault(kind, apart)  # the first shift is none
            found = measure(own, judged) | {"detected": auroc(apart, familiar[kind]) or 0.5}
            summary |= {f"{shift}.{kind}.{name}": value for name, value in found.items()}
    update_summary(folder, summary | choose(arm, params, seed))


def measure(rewards: Float[np.ndarray, "N K M"], better: np.ndarray) -> dict[str, float]:
    """Accuracy of the mean and of single members, spread, and whether it tells the mis-ordered pairs."""
    reading = measure_spread(rewards, better, np.ones(rewards.shape[:2], bool))
    row, above, below = np.nonzero(better)
    gaps = rewards[row, above] - rewards[row, below]
    found = {
        "accuracy": float((gaps.mean(axis=1) > 0).mean()),
        "accuracy.single": float((gaps > 0).mean()),
        "spread": reading.spread,
        "pair_spread": reading.pair_spread,
        "auroc": reading.auroc,
        "error_correlation": reading.error_correlation,
    }
    # How sure the mean itself is, for comparison: mis-ordered pairs have small gaps.
    wrong, sure = gaps.mean(axis=1) <= 0, -np.abs(gaps.mean(axis=1))
    found["auroc.gap"] = auroc(sure[wrong], sure[~wrong])
    for place, one in enumerate(reading.bins):
        found |= {f"bin{place}.accuracy": one.accuracy, f"bin{place}.spread": one.spread}
    return {name: value for name, value in found.items() if value is not None}


def choose(arm: str, params: Params, seed: int) -> dict[str, float]:
    """Gold and proxy of best-of-n under each aggregate, and of single members, by kind of prompt."""
    pool = lists.pool(seed, PROMPTS, ANSWERS, tokenizer())
    rewards, _ = score(arm, params, pool.examples, ANSWERS, 1)
    members = np.moveaxis(rewards, -1, 0)
    proxies = {
        name: np.asarray(aggregate(jax.numpy.asarray(members), how, penalty), float)  # type: ignore[arg-type]
        for name, (how, penalty) in AGGREGATES.items()
    }
    proxies |= {f"member{place}": one for place, one in enumerate(members)}
    found: dict[str, float] = {}
    for kind in lists.KINDS:
        kept = [place for place, own in enumerate(pool.kinds) if own == kind]
        for name, proxy in proxies.items():
            for n in BEST_OF:
                for what, values in (("gold", pool.gold), ("proxy", proxy)):
                    found[f"bon.{kind}.{name}.{n}.{what}"] = float(
                        np.mean([best_of_n(proxy[place], values[place], n) for place in kept])
                    )
        for n in BEST_OF:
            found[f"bon.{kind}.single.{n}.gold"] = float(
                np.mean([found.pop(f"bon.{kind}.member{place}.{n}.gold") for place in range(MEMBERS)])
            )
            for place in range(MEMBERS):
                del found[f"bon.{kind}.member{place}.{n}.proxy"]
    return found
