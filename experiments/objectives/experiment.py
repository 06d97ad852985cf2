"""Every objective of the program from the same SFT policies and reward models, and PPO under every divergence."""

from pathlib import Path

from experiments.objectives.sweep import CURVATURE, OBJECTIVES, STRENGTHS
from rlhf_jax.main import main

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
ITERATIONS = 16  # of configs/ppo.py; the others run as their configs say


def words_of(setting: str, folder: Path) -> list[str]:
    """The command line of one of ``sweep.SETTINGS``, without the workdir."""
    name, _, seed = setting.rpartition("/")[2].rpartition(".")
    words = [f"--config.seed={seed}", "--config.log.tensorboard=False"]
    if name == "parents":
        return [f"--config={CONFIGS / 'quickstart.py'}", "--config.stages=sft,reward", *words]
    parents = folder.parent / f"parents.{seed}"
    words += [f"--config.parents.sft={parents}", f"--config.parents.reward={parents}"]
    divergence, _, place = name.partition("-")
    if place:
        coefficient = STRENGTHS[int(place)] / CURVATURE[divergence]
        config = f"ppo.py:{divergence}"
        words.append(f"--config.ppo.kl.coefficient={coefficient}")
    else:
        config = OBJECTIVES[name]
    if config.startswith("ppo.py"):
        words.append(f"--config.ppo.iterations={ITERATIONS}")
    return [f"--config={CONFIGS / config}", *words]


def run(setting: str, folder: Path) -> None:
    """``folder`` becomes a run directory of the program."""
    main([*words_of(setting, folder), f"--workdir={folder}"])
