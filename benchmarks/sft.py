"""Supervised fine-tuning of one list of examples, of 32 to 512 tokens: ours beside TRL and PyTorch by hand.

    python -m benchmarks.sft [--model=small] [--rounds=5] [--threads=1] [--only=SIDE,...] [--quick]

A round is an optimizer step (of a tiny model ten); rates are of tokens that are no padding. ``check`` is the loss of
the held-out examples before the first step, the same number on all sides.
"""

import json
from pathlib import Path
from typing import Any

from benchmarks.harness.shapes import MODELS, TRAINING
from benchmarks.harness.stage import Side, Stage, Target, main


def case(model: str) -> dict[str, Any]:
    """Rows of 512 tokens."""
    return {
        "stage": "sft",
        "prompt": [16, 128],
        "response": [16, 384],
        "responses": 1,
        "records": 256,
        "rows": 4,
        "row_length": 512,
        "steps": 10 if model == "tiny" else 1,
        "check_first": True,
    }


def sides(model: str) -> list[Side]:
    """TRL as it comes, and in every setting that could be its best on a CPU."""
    packed = {"per_device_train_batch_size": 4, "packing": True, "gradient_checkpointing": False}
    grouped = {"per_device_train_batch_size": 8, "train_sampling_strategy": "group_by_length"}
    return [
        Side("TRL", "by_trl", {"per_device_train_batch_size": 8}, "defaults, float32"),
        Side("TRL, grouped", "by_trl", grouped | {"gradient_checkpointing": False}, "by length, no checkpointing"),
        Side("TRL, bfd", "by_trl", packed | {"packing_strategy": "bfd"}, "packed without padding, no checkpointing"),
        Side("TRL, wrapped", "by_trl", packed | {"packing_strategy": "wrapped"}, "packed and cut, no checkpointing"),
        Side("by hand", "by_hand", {}, "packed, SDPA, logits of targets alone, fused AdamW"),
    ]


def flops(case: dict[str, Any], folder: Path) -> float:
    """Of a token, on average: read in its own example, logits where there is a loss."""
    shape, records = MODELS[case["model"]], json.loads((folder / "ids.json").read_text())["train"]
    responses = [len(one["responses"][0]) for one in records]
    lengths = [len(one["prompt"]) + own for one, own in zip(records, responses, strict=True)]
    return TRAINING * shape.reading(lengths, sum(responses), sum(responses)) / sum(lengths)


STAGE = Stage(
    "sft",
    "tokens",
    case,
    sides,
    (
        Target("TRL default", ("TRL",), 2.4),
        Target("TRL best setting", ("TRL", "TRL, grouped", "TRL, bfd", "TRL, wrapped"), 1.3),
        Target("PyTorch by hand", ("by hand",), 1.0),
    ),
    flops,
)

if __name__ == "__main__":
    main([STAGE], __doc__)
