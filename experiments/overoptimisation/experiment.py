"""One proxy: best-of-n, the best policies, and PPO at several prices against it, from several seeds."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from experiments.overoptimisation import exact, policy, proxies, world
from experiments.overoptimisation.policy import Tables
from experiments.overoptimisation.sweep import BEST_OF, LINEAR, SAMPLED_BEST_OF, SAMPLES, SETTINGS
from rlhf_jax.diagnostics.best_of_n import best_of_n
from rlhf_jax.metrics import update_summary, write_text_atomically

PATH = tuple(np.geomspace(0.012, 2.0, 60))  # prices along the curve of the best policies


def run(setting: str, folder: Path) -> None:
    """``records.json``: ``start``, the curves ``optimum`` and ``best_of_n`` of each seed, and the runs of PPO."""
    name = setting.rpartition("/")[2]
    proxy, betas, seeds = SETTINGS[setting]
    if name in LINEAR:
        form, tables = proxy, _linear(len(seeds))
    else:
        form, tables = "free", proxies.make_tables(proxy, seeds)
        update_summary(folder, {"parameters": float(proxies.parameters(proxy["width"]) * proxy["members"])})
    found = judge(form, tables, seeds)
    runs = [(beta, seed, row) for row, seed in enumerate(seeds) for beta in betas]
    # The linear proxy is one and the same for all seeds, and three rows of it are what the program was compiled for.
    shared = Tables(*(leaf[:3] for leaf in tables))
    curves, ends = policy.train(form, shared, [(beta, seed, row % 3) for beta, seed, row in runs])
    found["ppo"] = [
        {
            "beta": beta,
            "seed": seed,
            "curves": {name: values[place] for name, values in curves.items()},
            "end": {name: values[place] for name, values in ends.items()},
        }
        for place, (beta, seed, _) in enumerate(runs)
    ]
    _write(folder / "records.json", found)


def _linear(rows: int) -> Tables:
    spices = world.responses().spices
    tables = exact.SLOPE * spices, world.coded_gold(spices), np.zeros(len(spices))
    return Tables(*(np.broadcast_to(table, (rows, len(table))) for table in tables))


def judge(form: str, tables: Tables, seeds: tuple[int, ...]) -> dict[str, Any]:
    """Everything but PPO, for the proxy of each seed."""
    law = world.law(form)
    found: dict[str, Any] = {"form": form, "start": [], "optimum": [], "best_of_n": [], "sampled": []}
    for row, seed in enumerate(seeds):
        proxy, gold = np.asarray(tables.proxy[row], float), np.asarray(tables.gold[row], float)
        mean = {"proxy": law @ proxy, "gold": law @ gold}
        spread = {
            f"{name}.deviation": np.sqrt(law @ (x - law @ x) ** 2) for name, x in (("proxy", proxy), ("gold", gold))
        }
        found["start"].append(mean | spread)
        found["optimum"].append({"beta": PATH} | exact.optimum(proxy, gold, law, np.array(PATH)))
        found["best_of_n"].append({"n": BEST_OF} | exact.best_of_n_curve(proxy, gold, law, BEST_OF))
        which = world.sample(form, np.random.default_rng([seed, 5]), (SAMPLES,))
        found["sampled"].append(
            {
                "n": SAMPLED_BEST_OF,
                "proxy": [best_of_n(proxy[which], proxy[which], n) for n in SAMPLED_BEST_OF],
                "gold": [best_of_n(proxy[which], gold[which], n) for n in SAMPLED_BEST_OF],
            }
        )
    return found


def _write(path: Path, found: Any) -> None:
    """JSON with six digits."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(one) for name, one in value.items()}
        if isinstance(value, list | tuple | np.ndarray):
            return [plain(one) for one in value]
        return float(f"{value:.6g}") if isinstance(value, float | np.floating) else value

    write_text_atomically(path, json.dumps(plain(found)) + "\n")
