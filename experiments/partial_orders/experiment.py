"""One setting: a member of the family on every order and in a shared network, or the program."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from experiments.partial_orders.orders import SIZE, TIERS, better, ranks_of
from experiments.partial_orders.sweep import MEMBERS, ORDERS, PROGRAM, SEEDS
from experiments.partial_orders.trainer import TYPES, Prompts, draw, rewards_of, train_free, train_shared
from rlhf_jax.diagnostics.rewards import pair_accuracy_of_lists, wasserstein_1
from rlhf_jax.main import main
from rlhf_jax.metrics import update_summary, write_text_atomically
from rlhf_jax.objectives.utilities import Utility, make_utility
from rlhf_jax.theory.optimum import Optimum, best_rewards_of_order, best_rewards_of_tiers

FREE_STEPS, SHARED_STEPS = 3000, 2500
TRAINING, HELD_OUT = 384, 300  # prompts


def run(setting: str, folder: Path) -> None:
    """Train and measure the setting; figures go to ``summary.json``, rewards to ``rewards.json``."""
    name = setting.rpartition("/")[2]
    if name in PROGRAM:
        ties, seed = PROGRAM[name]
        config = Path(__file__).with_name("program.py")
        main([f"--config={config}:{ties}", f"--workdir={folder}", f"--config.seed={seed}"])
        return
    member, parameters = MEMBERS[name]
    utility = make_utility(member, **parameters)
    free, rewards = _free(utility)
    update_summary(folder, free | _shared(utility))
    write_text_atomically(folder / "rewards.json", json.dumps(rewards) + "\n")


def solved(utility: Utility, order: str, trained: bool) -> Optimum:
    """The solver's best rewards of an order."""
    if order in TIERS:
        return best_rewards_of_tiers(utility, TIERS[order], trained=trained)
    return best_rewards_of_order(utility, SIZE, better(order), trained=trained)


def _pair_weights(utility: Utility, order: str) -> Float[np.ndarray, "K K"]:
    """The utility's own weights of the pairs; of orders that are no tiers it knows none."""
    found = None
    if order in TIERS:
        found = utility.pair_weights(jnp.asarray(ranks_of(TIERS[order])), jnp.ones(SIZE, bool))
    return np.ones((SIZE, SIZE)) if found is None else np.asarray(found)


def _free(utility: Utility) -> tuple[dict[str, float], dict[str, dict[str, list[float]]]]:
    """``free.ORDER.gap``: largest |trained - solver's| over responses and starts; ``spread``: between starts."""
    trained = train_free(
        utility,
        np.stack([better(order) for order in ORDERS]),
        np.stack([_pair_weights(utility, order) for order in ORDERS]),
        len(SEEDS),
        FREE_STEPS,
    )
    summary, rewards = {}, {}
    for order, found in zip(ORDERS, trained, strict=True):
        as_trained, ideal = solved(utility, order, True), solved(utility, order, False)
        for seed, one in zip(SEEDS, found, strict=True):
            summary[f"free.{order}.{seed}.gap"] = float(np.abs(one - as_trained.rewards).max())
        summary[f"free.{order}.unique"] = float(as_trained.unique)
        rewards[order] = {
            "trained": found.mean(axis=0).tolist(),
            "solver": as_trained.rewards.tolist(),
            "ideal": ideal.rewards.tolist(),
        }
    return summary, rewards


def _shared(utility: Utility) -> dict[str, float]:
    """``TIES.SEED.NAME`` of the shared network on held-out prompts, with ties kept and broken."""
    summary = {}
    for ties in ("kept", "broken"):
        each = [draw(seed, TRAINING, ties) for seed in SEEDS]
        prompts = Prompts(*(np.stack(leaves) for leaves in zip(*each, strict=True)))
        params = train_shared(utility, prompts, np.array(SEEDS), SHARED_STEPS)
        held_out = draw(1000, HELD_OUT, "kept")
        rewards = np.asarray(jax.vmap(lambda p: rewards_of(p, jnp.asarray(held_out.features)))(params), float)  # noqa: B023
        for seed, found in zip(SEEDS, rewards, strict=True):
            pooled = {kind: found[held_out.kind == place].ravel() for place, kind in enumerate(TYPES)}
            correct, pairs = pair_accuracy_of_lists(found, held_out.ranks, np.ones(found.shape, bool))
            ends = np.minimum(pooled["closed"], 1.0 - pooled["closed"])
            middle = found[held_out.kind == list(TYPES).index("graded")][:, 2:5]
            summary |= {
                f"{ties}.{seed}.w1_open_closed": wasserstein_1(pooled["open"], pooled["closed"]),
                f"{ties}.{seed}.w1_open_graded": wasserstein_1(pooled["open"], pooled["graded"]),
                f"{ties}.{seed}.closed_from_ends": float(ends.mean()),
                f"{ties}.{seed}.graded_middle": float(middle.mean()),
                f"{ties}.{seed}.open_std": float(pooled["open"].std()),
                f"{ties}.{seed}.accuracy": correct / pairs,
            }
    return summary
