"""PPO against a fine-grained reward model and against one reward for the whole answer, on the local task.

As a config file: ``--config=experiments/fine_grained/experiment.py:ARM``.
"""

from pathlib import Path

from ml_collections import ConfigDict

from experiments.fine_grained.sweep import ARMS
from rlhf_jax.config import default_config, utility
from rlhf_jax.main import main

STEPS = 300  # updates of every reward model, 64 responses each
ITERATIONS, EVERY = 12, 2  # of PPO, and between evaluations
WEIGHT = 0.25  # of each kind of defect: the sum over an answer then has a deviation of about 1 under the SFT policy


def get_config(arm: str = "sft") -> ConfigDict:
    """``sft``: the policy that all start from. A name of ``sweep.ARMS``: its reward model (but for ``dense_at_end``,
    which takes that of ``dense`` from the command line) and PPO.
    """
    config = default_config()
    config.data.task = "local"
    config.data.max_response = 32
    config.log.tensorboard = False
    config.log.samples = 128  # every held-out answer is kept, for the analysis
    config.sft.steps = 300
    config.sft.eval_every = 300
    if arm == "sft":
        config.stages = ("sft",)
        return config
    first = {"dense": ("segments",), "dense_at_end": ()}.get(arm, ("reward",))
    config.stages = (*first, "ppo")
    config.checkpoint.every = STEPS

    config.segments.steps = STEPS
    config.segments.eval_every = STEPS
    config.segments.least_words = 2
    config.segments.optimizer.learning_rate = 2e-3

    config.reward.steps = STEPS
    config.reward.eval_every = STEPS
    config.reward.optimizer.learning_rate = 2e-3
    config.reward.utility = utility("log_sigmoid")  # unused, but asks for no bounds on the rewards
    config.reward.batch_size = 8  # lists of 8
    config.reward.weights.ranks = 0.0
    config.reward.weights.scores = 1.0
    config.reward.bounded = "no"

    config.ppo.iterations = ITERATIONS
    config.ppo.eval_every = EVERY
    config.ppo.samples_per_prompt = 1
    config.ppo.kl.coefficient = 0.1  # the same for all
    config.checkpoint.every_iterations = ITERATIONS
    if arm in ("dense", "dense_at_end"):
        config.ppo.dense.models = ("this",) if arm == "dense" else ()
        config.ppo.dense.at = "parts" if arm == "dense" else "end"
        config.ppo.dense.weights = tuple(f"{kind}:{WEIGHT}" for kind in ("plain", "repeated", "wrong_city", "short"))
        config.ppo.dense.sequence = 0.0
    else:
        config.ppo.normalize_reward = True  # to a deviation of 1 under the SFT policy as well
    return config


def run(setting: str, folder: Path) -> None:
    """One of ``sweep.SETTINGS``; ``folder`` becomes a run directory of the program."""
    name, _, seed = setting.rpartition("/")[2].partition(".")
    words = [f"--config={__file__}:{name}", f"--workdir={folder}"]
    if name in ARMS:
        words += [f"--config.seed={seed}", f"--config.parents.sft={folder.parent / 'sft'}"]
    if name == "dense_at_end":
        words.append(f"--config.ppo.dense.models={folder.parent / f'dense.{seed}'}")
    main(words)
