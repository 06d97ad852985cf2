"""Sampling after prompts of 64 tokens: ours beside transformers' ``generate``.

    python -m benchmarks.sampling [--model=small] [--rounds=5] [--threads=1] [--only=SIDE,...] [--quick]

128 tokens each in batches of 8, 32 and 64, which no response ends before; and 64 responses of which each token ends one
with a probability of 1/64, at most 128 tokens again. Rates are of sampled tokens, the end of sequence among them.
``check`` is the mean log-probability of what each side sampled last, by PyTorch: equal up to the chance of sampling.
"""

from typing import Any

from benchmarks.harness.shapes import MODELS
from benchmarks.harness.stage import Side, Stage, Target, main

PROMPT, RESPONSE = 64, 128


def stage(name: str, rows: int, stop: float, targets: tuple[Target, ...]) -> Stage:
    """So many responses at once."""

    def case(model: str) -> dict[str, Any]:
        return {
            "stage": "sampling",
            "prompt": [PROMPT, PROMPT],
            "response": [RESPONSE, RESPONSE],
            "responses": 1,
            "records": rows,
            "rows": rows,
            "stop": stop,
            "check_last": True,
        }

    def bytes_of(case: dict[str, Any]) -> float:
        return 0.0 if stop else MODELS[case["model"]].decoding_bytes(rows, PROMPT, RESPONSE)

    return Stage(name, "tokens", case, sides, targets, bytes=bytes_of)


def sides(model: str) -> list[Side]:
    """Its two caches."""
    return [
        Side("generate", "by_generate", {}, "dynamic cache"),
        Side("generate, static", "by_generate", {"cache_implementation": "static"}, "static cache"),
    ]


def best(ratio: float) -> tuple[Target, ...]:
    """Against the faster one."""
    return (Target("transformers generate", ("generate", "generate, static"), ratio),)


STAGES = [
    stage("sampling, 8 rows", 8, 0.0, best(1.5)),
    stage("sampling, 32 rows", 32, 0.0, ()),
    stage("sampling, 64 rows", 64, 0.0, best(2.0)),
    stage("sampling, 64 rows, lengths vary", 64, 1 / 64, best(3.0)),
]

if __name__ == "__main__":
    main(STAGES, __doc__)
