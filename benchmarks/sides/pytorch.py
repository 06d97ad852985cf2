"""What the sides in PyTorch share: models and ids of a benchmark's folder, the machine's limits, losses to compare."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.harness.worker import Answer, Case
from benchmarks.sides.limits import FLOATS, SIDE, limits

Record = dict[str, Any]


def begin(case: Case) -> None:
    """Threads, seed and silence."""
    torch.set_num_threads(case["threads"])
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()


def read_ids(case: Case) -> tuple[list[Record], list[Record]]:
    """(records to train on, held-out ones)."""
    found = json.loads((Path(case["folder"]) / "ids.json").read_text())
    return found["train"], found["held_out"]


def policy(case: Case) -> transformers.PreTrainedModel:
    """The language model; attention by PyTorch's fused kernel."""
    folder = case.get("policy") or Path(case["folder"]) / "model"
    return _without_dropout(
        transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="sdpa", trust_remote_code=False
        )
    )


def reward_model(case: Case) -> transformers.PreTrainedModel:
    """The reward model that rlhf_jax began with, or ended with."""
    folder = case.get("reward") or Path(case["folder"]) / "reward"
    return _without_dropout(
        transformers.AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="sdpa", trust_remote_code=False
        )
    )


def _without_dropout(model: transformers.PreTrainedModel) -> transformers.PreTrainedModel:
    """Ours has none; GPT-2 in transformers has, unless its settings say otherwise."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def tokenizer(case: Case) -> transformers.PreTrainedTokenizerBase:
    """Of the folder."""
    return transformers.AutoTokenizer.from_pretrained(Path(case["folder"]) / "model", trust_remote_code=False)


def nll(model: transformers.PreTrainedModel, records: list[Record]) -> float:
    """Mean negative log-likelihood of the tokens of the responses, in nats."""
    total, tokens = 0.0, 0
    with torch.no_grad():
        for one in records:
            prompt, response = one["prompt"], one["responses"][0]
            logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
            total += torch.nn.functional.cross_entropy(logits, torch.tensor(response), reduction="sum").item()
            tokens += len(response)
    return total / tokens


def machine() -> dict[str, Callable[[], Answer]]:
    """Its limits by PyTorch."""
    one, many = torch.ones(SIDE, SIDE), torch.ones(FLOATS)
    return limits(lambda: torch.mm(one, one), lambda: many.sum())
