r"""One setting: the lists are written into its folder, the program trains a reward model on them.

Command of one run (the lists are in the folder of a finished setting).
  python -m rlhf_jax --config=experiments/reward_collapse/experiment.py:world.log --workdir=runs/log \
    --config.data.path=runs/reproduce/reward_collapse/world_log_seed0/lists.jsonl \
    --config.tokenizer.path=runs/reproduce/reward_collapse/world_log_seed0/words
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from experiments.reward_collapse.lists import VALIDATION_FRACTION, find_texts, write_lists, write_tokenizer
from experiments.reward_collapse.sweep import PREFIXES, SETTINGS, SOURCES, STARTS, UTILITIES
from rlhf_jax.config import default_config, utility
from rlhf_jax.errors import UserError
from rlhf_jax.main import main
from rlhf_jax.metrics import write_text_atomically
from rlhf_jax.objectives.utilities import make_utility
from rlhf_jax.theory.limits import quantile
from rlhf_jax.theory.optimum import best_rewards

LISTS = {"texts": 120, "world_prefixes": 100, "world": 100}
SIZE = 8


def get_config(name: str = "world.log") -> ConfigDict:
    """``SOURCE.UTILITY``, names of the sweep: a reward model, one stage."""
    source, _, title = name.partition(".")
    if source not in SOURCES or title not in UTILITIES:
        raise UserError(
            f"--config: no setting {name!r}; sources {', '.join(SOURCES)}, utilities {', '.join(UTILITIES)}"
        )
    (member, parameters), closed = UTILITIES[title]
    config = default_config()
    config.stages = ("reward",)

    config.data.format = "lists"
    config.data.list_size = SIZE
    config.data.validation_fraction = VALIDATION_FRACTION
    config.model.width = 48
    config.model.mlp_width = 96
    config.model.positions = "learned"
    config.model.max_positions = 96
    config.tokenizer.kind = "pretrained"
    # The end of a prompt, where its type is said. A prompt shorter than that moves its responses by some positions.
    config.data.max_prompt = 12
    config.data.max_response = 81 if source in PREFIXES else 20
    config.model.depth = 1 if source in PREFIXES else 2
    config.reward.batch_size = 4 if source in PREFIXES else 8
    config.reward.steps = 400 if source in PREFIXES else 700

    config.reward.init = "reward" if (source, title) in STARTS else "scratch"
    config.reward.bounded = "yes"
    config.reward.utility = utility(member, **parameters)
    if closed is not None:
        config.reward.utility_by_type.closed = utility(closed[0], **closed[1])
    config.reward.balance_utilities = True
    rate = 3e-3 if source in PREFIXES else 1e-3
    config.reward.optimizer.learning_rate = 0.2 * rate if (source, title) in STARTS else rate
    config.reward.optimizer.beta2 = 0.98
    config.reward.eval_every = config.reward.steps // 4
    config.reward.eval_train = 64

    config.log.every = 100
    config.log.samples = 0
    config.log.tensorboard = False
    config.checkpoint.every = config.reward.steps // 2
    return config


def predictions(title: str) -> dict[str, Any]:
    """By prompt type, best first: ``trained``, the best rewards of the utility as trained; ``ideal``, of the utility
    without its shift, which the paper draws; ``limit``, the quantiles of the limit law, None where none is known.
    """
    everywhere, closed = UTILITIES[title]
    found = {}
    for kind, (member, parameters) in {"open": everywhere, "closed": closed or everywhere}.items():
        own = make_utility(member, **parameters)
        law = own.limit_law()
        places = (np.arange(SIZE)[::-1] + 0.5) / SIZE
        found[kind] = {
            "trained": best_rewards(own, SIZE, trained=True).rewards.tolist(),
            "ideal": best_rewards(own, SIZE).rewards.tolist(),
            "limit": None if law is None else quantile(law, places).tolist(),
        }
    return found


def run(setting: str, folder: Path) -> None:
    """Train the setting; without texts those on texts are left out."""
    source, title, seed = SETTINGS[setting]
    lists = folder / "lists.jsonl"
    if source == "texts" and find_texts() is None:
        print("no texts: set RLHF_JAX_DATA or LONGFORM; left out")
        return
    if not lists.is_file():
        write_lists(source, lists, LISTS[source])
        write_tokenizer(lists, folder / "words")
    write_text_atomically(folder / "predictions.json", json.dumps(predictions(title)) + "\n")
    words = [f"--config={Path(__file__)}:{source}.{title}", f"--workdir={folder}", f"--config.seed={seed}"]
    words += [f"--config.data.path={lists}", f"--config.tokenizer.path={folder / 'words'}"]
    if (source, title) in STARTS:
        start = folder.with_name(f"{source}_{STARTS[source, title]}_seed{seed}")
        words.append(f"--config.parents.reward_start={start}")
    main(words)
