"""An iteration of PPO, 64 episodes of 64 + 64 tokens: ours beside TRL's PPOTrainer, of the last release that has it.

    python -m benchmarks.ppo [--model=small] [--rounds=5] [--threads=1] [--only=SIDE,...] [--quick]

Policy, reference, reward model and value model are networks of one size each. A round is an iteration: rollout, scores,
four epochs of a tiny model and one of the others, four minibatches each. Once no response ends before its 64 tokens,
and once each token ends one with a probability of 1/32: ours then has three more rounds before those that count, for it
compiles a program for each amount of tokens, in eighths, that it meets. ``check`` is the mean reward of the first
iteration.
"""

from typing import Any

from benchmarks.harness.parents import prepare
from benchmarks.harness.stage import LAST_WITH_PPO, Side, Stage, Target, main

PROMPT, RESPONSE, EPISODES = 64, 64, 64


def stage(name: str, stop: float, ratio: float) -> Stage:
    """Episodes that end so."""

    def case(model: str) -> dict[str, Any]:
        return {
            "stage": "ppo",
            "prompt": [PROMPT, PROMPT],
            "response": [RESPONSE, RESPONSE],
            "responses": 2,
            "records": EPISODES,
            "rows": EPISODES,
            "epochs": 4 if model == "tiny" else 1,
            "minibatches": 4,
            "stop": stop,
        }

    def sides(model: str) -> list[Side]:
        settings: dict[str, Any] = {"local_rollout_forward_batch_size": EPISODES, "gradient_checkpointing": False}
        note = "1.12, rollout in one batch, no checkpointing"
        if stop:
            settings["stop_token"] = "eos"
        return [Side("TRL", "by_trl", settings, note, str(LAST_WITH_PPO))]

    programs = 4 if stop else 1
    return Stage(name, "episodes", case, sides, (Target("TRL", ("TRL",), ratio),), prepare=prepare, programs=programs)


STAGES = [
    stage("PPO iteration", 0.0, 1.3),
    stage("PPO iteration, lengths vary", 1 / 32, 2.0),
]

if __name__ == "__main__":
    main(STAGES, __doc__)
