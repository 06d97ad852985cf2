"""A reward model on pairs with one prompt of 256 tokens and two responses of 64: ours beside TRL and PyTorch by hand.

    python -m benchmarks.reward_pairs [--model=small] [--rounds=5] [--threads=1] [--only=SIDE,...] [--quick]

A round is an optimizer step on all pairs (of a tiny model four steps); the pairs are the same in every step, so that
``check``, the loss of the first one, is the same number on all sides.
"""

from pathlib import Path
from typing import Any

from benchmarks.harness.shapes import MODELS, TRAINING
from benchmarks.harness.stage import Side, Stage, Target, main

PROMPT, RESPONSE = 256, 64


def case(model: str) -> dict[str, Any]:
    """Four pairs a step."""
    return {
        "stage": "reward",
        "prompt": [PROMPT, PROMPT],
        "response": [RESPONSE, RESPONSE],
        "responses": 2,
        "records": 4,
        "rows": 4,
        "steps": 4 if model == "tiny" else 1,
    }


def sides(model: str) -> list[Side]:
    """TRL reads both texts of a pair whole, prompt and all."""
    whole = {"per_device_train_batch_size": 4, "gradient_checkpointing": False}
    parts = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4, "gradient_checkpointing": False}
    return [
        Side("TRL", "by_trl", {"per_device_train_batch_size": 4}, "defaults, float32"),
        Side("TRL, no checkpointing", "by_trl", whole, "4 pairs at once"),
        Side("TRL, in parts", "by_trl", parts, "no checkpointing, a pair at a time"),
        Side("by hand", "by_hand", {}, "each text read once, SDPA, fused AdamW"),
    ]


def flops(case: dict[str, Any], folder: Path) -> float:
    """Of a list: its prompt read once, and the responses after it, whose last tokens are judged."""
    shape, count = MODELS[case["model"]], case["responses"]
    responses = shape.reading([RESPONSE] * count, count, 0, after=case["prompt"][0])
    return TRAINING * (shape.reading(case["prompt"][:1], 0, 0) + responses)


STAGE = Stage(
    "reward model, pairs",
    "pairs",
    case,
    sides,
    (
        Target("TRL best setting", ("TRL", "TRL, no checkpointing", "TRL, in parts"), 1.5),
        Target("PyTorch by hand", ("by hand",), 1.0),
    ),
    flops,
)

if __name__ == "__main__":
    main([STAGE], __doc__)
