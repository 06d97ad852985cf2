"""One ranking under many reward laws, exactly; then PPO against reward models of other reward distributions.

As a config file, ``--config=experiments/policy_effect/experiment.py:NAME``, it is the second part.
"""

import shutil
from pathlib import Path

from ml_collections import ConfigDict

from experiments.policy_effect.sweep import PPO, SCALED
from rlhf_jax.config import default_config, utility
from rlhf_jax.main import main
from rlhf_jax.metrics import update_summary


def get_config(arg: str = "sft") -> ConfigDict:
    """``sft``: the policy that all start from. A name of ``sweep.PPO``: reward model and PPO under that utility.

    A name of ``sweep.SCALED``: PPO alone, against the reward model that the command line names.
    """
    config = default_config()
    config.log.tensorboard = False
    config.log.samples = 256  # every held-out answer is kept, for the analysis
    if arg == "sft":
        config.stages = ("sft",)
        return config
    config.stages = ("reward", "ppo") if arg in PPO else ("ppo",)

    config.reward.utility = utility(**PPO.get(arg, PPO["even"]))
    config.reward.balance_utilities = True  # one learning rate for utilities of very different slopes
    config.reward.steps = 500
    config.reward.eval_every = 500
    config.checkpoint.every = 500

    config.ppo.iterations = 20
    config.ppo.prompts_per_iteration = 64
    config.ppo.kl.coefficient = 0.1  # the same for all
    config.checkpoint.every_iterations = 20
    return config


def run(setting: str, folder: Path) -> None:
    """One of ``sweep.SETTINGS``; ``folder`` becomes a run directory of the program, or gets a ``summary.json``."""
    name, _, seed = setting.rpartition("/")[2].partition(".")
    if name == "exact":
        from experiments.policy_effect.exact import run_exact  # here: as a config file this one should load no JAX

        update_summary(folder, run_exact())
        return
    words = [f"--config={__file__}:{name}", f"--workdir={folder}"]
    if seed:
        words += [f"--config.seed={seed}", f"--config.parents.sft={folder.parent / 'sft'}"]
    if name in SCALED:
        parent = folder / "parent"
        if not parent.is_dir():
            scale_rewards(folder.parent / f"even.{seed}", parent, SCALED[name])
        words.append(f"--config.parents.reward={parent}")
    main(words)


def scale_rewards(source: Path, target: Path, factor: float) -> None:
    """A run directory with the reward model of ``source``, its logits times ``factor``: a head times ``factor``."""
    import jax
    import orbax.checkpoint as ocp

    from rlhf_jax.checkpoints import Checkpoints
    from rlhf_jax.types import TrainState

    stage = Path("checkpoints") / "reward"
    with Checkpoints(source / stage) as checkpoints:
        step = checkpoints.latest()
    params = ocp.PyTreeCheckpointer().restore((source / stage / str(step) / "params").absolute())
    params["head"] = jax.tree.map(lambda leaf: factor * leaf, params["head"])
    target.mkdir(parents=True)
    shutil.copy(source / "config.json", target)
    shutil.copytree(source / "tokenizer", target / "tokenizer")
    nothing = jax.numpy.zeros(())
    with Checkpoints(target / stage) as checkpoints:
        checkpoints.save(TrainState(jax.numpy.int32(step), params, nothing, jax.random.key(0), {"none": nothing}), {})
