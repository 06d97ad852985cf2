"""DPO on pairs with a prompt of 256 tokens and two responses of 64: ours beside TRL.

    python -m benchmarks.dpo [--model=small] [--rounds=5] [--threads=1] [--only=SIDE,...] [--quick]

Both sides know the reference's log-probabilities before the first step. A round is a step on all pairs (of a tiny model
four), the same in every step, so that ``check``, the loss, is the same number on both sides.
"""

from pathlib import Path
from typing import Any

from benchmarks.harness.parents import prepare
from benchmarks.harness.shapes import MODELS, TRAINING
from benchmarks.harness.stage import Side, Stage, Target, main

PROMPT, RESPONSE = 256, 64


def case(model: str) -> dict[str, Any]:
    """Four pairs a step."""
    return {
        "stage": "dpo",
        "prompt": [PROMPT, PROMPT],
        "response": [RESPONSE, RESPONSE],
        "responses": 2,
        "records": 4,
        "rows": 4,
        "steps": 4 if model == "tiny" else 1,
    }


def sides(model: str) -> list[Side]:
    """TRL reads both texts of a pair whole; padding-free is switched off in its DPO."""
    whole = {"per_device_train_batch_size": 4, "gradient_checkpointing": False}
    parts = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4, "gradient_checkpointing": False}
    return [
        Side("TRL", "by_trl", {"per_device_train_batch_size": 4}, "defaults, float32"),
        Side("TRL, no checkpointing", "by_trl", whole, "4 pairs at once"),
        Side("TRL, in parts", "by_trl", parts, "no checkpointing, a pair at a time"),
    ]


def flops(case: dict[str, Any], folder: Path) -> float:
    """Of a pair: its prompt read once, the responses after it, logits of the responses alone."""
    shape, tails = MODELS[case["model"]], [RESPONSE] * 2
    return TRAINING * (shape.reading([PROMPT], 0) + shape.reading(tails, 2 * RESPONSE, after=PROMPT))


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
