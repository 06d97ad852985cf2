"""DPO on pairs with a prompt of 256 tokens and two responses of 64: ours beside TRL.

    python -m benchmarks.dpo [--model=small] [--rounds=5] [--threads=1] [--only=SIDE,...] [--quick]

Both sides know the reference's log-probabilities before the first step. A round is a step on all pairs (of a tiny model
four), the same in every step, so that ``check``, the loss, is the same number on both sides.
"""

from pathlib import Path
from typing import Any

from benchmarks import reward_pairs
from benchmarks.harness.parents import prepare
from benchmarks.harness.shapes import MODELS, TRAINING
from benchmarks.harness.stage import Side, Stage, Target, main
from benchmarks.reward_pairs import PROMPT, RESPONSE


def case(model: str) -> dict[str, Any]:
    """The pairs that a reward model is trained on."""
    return {**reward_pairs.case(model), "stage": "dpo"}


def sides(model: str) -> list[Side]:
    """TRL in the same settings; padding-free is switched off in its DPO."""
    return [side for side in reward_pairs.sides(model) if side.module == "by_trl"]


def flops(case: dict[str, Any], folder: Path) -> float:
    """Of a pair: its prompt read once, the responses after it, logits of the responses alone."""
    shape, tokens = MODELS[case["model"]], 2 * RESPONSE
    return TRAINING * (shape.reading([PROMPT], 0, 0) + shape.reading([RESPONSE] * 2, tokens, tokens, after=PROMPT))


STAGE = Stage(
    "DPO",
    "pairs",
    case,
    sides,
    (Target("TRL best setting", ("TRL", "TRL, no checkpointing", "TRL, in parts"), 1.5),),
    flops,
    prepare=prepare,
)

if __name__ == "__main__":
    main([STAGE], __doc__)
