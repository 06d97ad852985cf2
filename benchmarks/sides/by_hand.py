"""A training step written by hand in PyTorch, by someone who knows how.

Attention by the fused kernel, AdamW fused, each text encoded once, rows packed as ours are and masked apart, logits for
the tokens of the loss alone, nothing computed twice.
"""

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import torch

from benchmarks.harness.worker import Answer, Case, Line, measured, serve
from benchmarks.sides import pytorch
from benchmarks.sides.pytorch import Record


def main(line: Line, case: Case) -> None:
    """Serve the stage of ``case``."""
    pytorch.begin(case)
    actions = supervised(case) if case["stage"] == "sft" else ranked(case)
    serve(line, actions | pytorch.machine())


def stepper(model: torch.nn.Module, loss_of: Callable[[Any], torch.Tensor]) -> Callable[[Any], float]:
    """One update on a batch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.0, fused=True)
    model.train()

    def step(batch: Any) -> float:
        loss = loss_of(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def supervised(case: Case) -> dict[str, Callable[[], Answer]]:
    """Fine-tuning on packed rows."""
    model = pytorch.policy(case)
    train, held_out = pytorch.read_ids(case)
    batches = packed_batches(train, case["rows"], case["row_length"])

    def loss_of(batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        ids, positions, segments, targets = batch
        alike = (segments[:, :, None] == segments[:, None, :]).tril()
        hidden = model.base_model(input_ids=ids, position_ids=positions, attention_mask=alike[:, None], use_cache=False)
        before = hidden.last_hidden_state[:, :-1][targets[:, 1:]]
        return torch.nn.functional.cross_entropy(model.get_output_embeddings()(before), ids[:, 1:][targets[:, 1:]])

    step = stepper(model, loss_of)

    def one_round() -> Answer:
        found: Answer = {"units": 0}
        with measured(found):
            for _ in range(case["steps"]):
                batch = next(batches)
                found["units"] += int((batch[2] > 0).sum())
                found["check"] = step(batch)
        return found

    return {"round": one_round, "check": lambda: {"check": pytorch.nll(model, held_out)}}


def packed_batches(records: list[Record], rows: int, length: int) -> Iterator[tuple[torch.Tensor, ...]]:
    """Endless batches of (ids, positions, segments, targets): the longest record first, each into the fullest row that
    has room for it.
    """
    texts = sorted((one["prompt"], one["responses"][0]) for one in records)
    texts.sort(key=lambda text: -len(text[0]) - len(text[1]))
    filled: list[list[tuple[list[int], list[int]]]] = []
    used: list[int] = []
    for prompt, response in texts:
        size = len(prompt) + len(response)
        room = [row for row, taken in enumerate(used) if taken + size <= length]
        if room:
            row = max(room, key=used.__getitem__)
        else:
            row = len(filled)
            filled.append([])
            used.append(0)
        filled[row].append((prompt, response))
        used[row] += size
    made = torch.zeros(4, len(filled), length, dtype=torch.long)
    for row, own in enumerate(filled):
        start = 0
        for segment, (prompt, response) in enumerate(own, start=1):
            end, size = start + len(prompt) + len(response), len(prompt) + len(response)
            made[0, row, start:end] = torch.tensor(prompt + response)
            made[1, row, start:end] = torch.arange(size)
            made[2, row, start:end] = segment
            made[3, row, start + len(prompt) : end] = 1
            start = end
    ids, positions, segments, targets = made
    while True:
        for chosen in torch.randperm(len(filled)).split(rows):
            if len(chosen) == rows:
                yield ids[chosen], positions[chosen], segments[chosen], targets[chosen].bool()


def ranked(case: Case) -> dict[str, Callable[[], Answer]]:
    """A reward model on lists, best first: -log sigma of all gaps, each response read once with its prompt."""
    model = pytorch.reward_model(case)
    lists = pytorch.read_ids(case)[0][: case["rows"]]
    texts = [one["prompt"] + response for one in lists for response in one["responses"]]
    sizes, longest = torch.tensor([len(text) for text in texts]), max(map(len, texts))
    ids = torch.tensor([text + [0] * (longest - len(text)) for text in texts])
    mask = torch.arange(longest) < sizes[:, None]
    attention = None if bool(mask.all()) else mask.long()  # without padding the kernel needs no mask
    above, below = torch.tensor(list(combinations(range(case["responses"]), 2))).T

    def loss_of(_: None) -> torch.Tensor:
        hidden = model.base_model(input_ids=ids, attention_mask=attention, use_cache=False).last_hidden_state
        rewards = model.score(hidden[torch.arange(len(ids)), sizes - 1]).reshape(len(lists), -1)
        return -torch.nn.functional.logsigmoid(rewards[:, above] - rewards[:, below]).mean()

    step = stepper(model, loss_of)

    def one_round() -> Answer:
        found: Answer = {"units": case["steps"] * len(lists)}
        with measured(found):
            for _ in range(case["steps"]):
                found["check"] = step(None)
        return found

    return {"round": one_round}
