"""A reward model on one list of 8 responses of 64 tokens after a prompt of 256: ours beside TRL and PyTorch by hand.

    python -m benchmarks.reward_lists [--model=small] [--rounds=5] [--threads=1] [--only=SIDE,...] [--quick]

TRL knows pairs alone and is given all 28 of the list, in one step; by hand each response is read once, with its prompt.
A round is a step (of a tiny model four), on the same list each time: ``check``, the loss of the first step, is the same
number on all sides.
"""

from typing import Any

from benchmarks.harness.stage import Side, Stage, Target, main
from benchmarks.reward_pairs import PROMPT, RESPONSE, flops

PAIRS = 28


def case(model: str) -> dict[str, Any]:
    """One list a step."""
    return {
        "stage": "reward",
        "prompt": [PROMPT, PROMPT],
        "response": [RESPONSE, RESPONSE],
        "responses": 8,
        "records": 1,
        "rows": 1,
        "steps": 4 if model == "tiny" else 1,
    }


def sides(model: str) -> list[Side]:
    """A few pairs at a time leave more of the cache to each."""

    def parts(pairs: int) -> dict[str, Any]:
        steps = PAIRS // pairs
        return {"per_device_train_batch_size": pairs, "gradient_accumulation_steps": steps}

    fast = {"gradient_checkpointing": False}
    return [
        Side("TRL", "by_trl", parts(4) | fast, "28 pairs, 4 at a time, no checkpointing"),
        Side("by hand", "by_hand", {}, "8 texts read once, SDPA, fused AdamW"),
    ]


STAGE = Stage(
    "reward model, a list of 8",
    "lists",
    case,
    sides,
    (Target("TRL, 28 pairs", ("TRL",), 15.0), Target("PyTorch, each once", ("by hand",), 2.5)),
    flops,
)

if __name__ == "__main__":
    main([STAGE], __doc__)
