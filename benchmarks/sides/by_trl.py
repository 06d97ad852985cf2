"""TRL's trainers. They keep their own loop: a callback holds it between rounds.

What a round takes is all that the loop does from one step's end to the next one's: drawing and collating the batch,
the step, its metrics.
"""

import tempfile
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback

from benchmarks.harness.worker import Answer, Case, Line, processor_seconds
from benchmarks.sides import pytorch

# Float32 on a CPU, and nothing written anywhere; all else is TRL's default, where the settings of a side say nothing.
COMMON = {
    "bf16": False,
    "use_cpu": True,
    "max_steps": 10_000,
    "learning_rate": 1e-5,
    "lr_scheduler_type": "constant",
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
    "seed": 0,
}


def main(line: Line, case: Case) -> None:
    """Serve the stage of ``case``."""
    pytorch.begin(case)
    with tempfile.TemporaryDirectory() as out:
        hold = Hold(line, case, pytorch.machine())
        {"sft": supervised, "reward": ranked, "dpo": direct, "ppo": policy_gradient}[case["stage"]](case, out, hold)


class Hold(TrainerCallback):
    """Holds a trainer's loop until the driver asks for a round, and answers when its steps are done."""

    def __init__(self, line: Line, case: Case, actions: dict[str, Callable[[], Answer]]) -> None:
        self.actions, self.units = actions, 0
        self._line, self._steps, self._online = line, case["steps"], case["stage"] == "ppo"
        self._left, self._before, self._logs = 0, (0.0, 0.0), dict[str, Any]()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._line.say({"ready": True, "cpu": processor_seconds()})
        self._wait()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self._logs = {name: value for name, value in logs.items() if isinstance(value, int | float)}
        if not self._online and "loss" in logs:  # the last word of a step
            self._step_done()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if self._online:
            self._step_done()

    def _step_done(self) -> None:
        self._left -= 1
        if self._left:
            return
        cpu, wall = (now - then for now, then in zip(_clocks(), self._before, strict=True))
        answer = {"cpu": cpu, "wall": wall, "units": self.units, "metrics": self._logs}
        self._line.say(answer | {"check": self._logs.get("loss", self._logs.get("objective/scores"))})
        self._wait()

    def _wait(self) -> None:
        while (command := self._line.hear()) != "round":
            if command == "end":
                raise SystemExit
            self._line.say(self.actions[command]())
        self._left, self.units, self._before = self._steps, 0, _clocks()


def _clocks() -> tuple[float, float]:
    return processor_seconds(), time.perf_counter()


def counting(trainer: type, hold: Hold, count: Callable[[dict[str, Any]], int]) -> type:
    """The trainer, which adds up what its steps read."""

    class Counting(trainer):  # type: ignore[misc, valid-type]
        def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **named: Any) -> Any:
            hold.units += count(inputs)
            return super().training_step(model, inputs, *args, **named)

    return Counting


def _tokens(inputs: dict[str, Any]) -> int:
    mask = inputs.get("attention_mask")
    return int(mask.sum()) if mask is not None else inputs["input_ids"].numel()


def supervised(case: Case, out: str, hold: Hold) -> None:
    """SFTTrainer on completions."""
    from trl import SFTConfig, SFTTrainer

    train, held_out = pytorch.read_ids(case)
    model = pytorch.policy(case)
    rows = [(one["prompt"], one["responses"][0]) for one in train]
    data = Dataset.from_list([{"input_ids": p + r, "completion_mask": [0] * len(p) + [1] * len(r)} for p, r in rows])
    settings = {"max_length": case["row_length"], "completion_only_loss": True, **case["settings"]}
    hold.actions["check"] = lambda: {"check": pytorch.nll(model, held_out)}
    counting(SFTTrainer, hold, _tokens)(
        model=model,
        args=SFTConfig(output_dir=out, **COMMON, **settings),
        train_dataset=data,
        processing_class=pytorch.tokenizer(case),
        callbacks=[hold],
    ).train()


def ranked(case: Case, out: str, hold: Hold) -> None:
    """RewardTrainer on the pairs of lists: a step is all of them."""
    from trl import RewardConfig, RewardTrainer

    lists = pytorch.read_ids(case)[0][: case["rows"]]
    pairs = [
        {"chosen_ids": one["prompt"] + better, "rejected_ids": one["prompt"] + worse}
        for one in lists
        for better, worse in combinations(one["responses"], 2)
    ]
    each = len(pairs) // len(lists)
    counting(RewardTrainer, hold, lambda inputs: len(inputs["input_ids"]) // 2)(
        model=pytorch.reward_model(case),
        args=RewardConfig(output_dir=out, **COMMON, **case["settings"]),
        train_dataset=Dataset.from_list(pairs),
        processing_class=pytorch.tokenizer(case),
        callbacks=[_PairsAsLists(hold, each)],
    ).train()


class _PairsAsLists(TrainerCallback):
    """Hands on to ``hold``, having made pairs lists."""

    def __init__(self, hold: Hold, each: int) -> None:
        self._hold, self._each = hold, each
        self.on_train_begin = hold.on_train_begin

    def on_log(self, *args: Any, **named: Any) -> None:
        self._hold.units //= self._each
        self._hold.on_log(*args, **named)


def direct(case: Case, out: str, hold: Hold) -> None:
    """DPOTrainer, the reference's log-probabilities known beforehand."""
    from trl import DPOConfig, DPOTrainer

    def text(ids: list[int]) -> str:  # it takes texts alone, and adds the end of sequence itself
        return " ".join(f"w{i}" for i in ids)

    pairs = [
        {"prompt": text(one["prompt"]), "chosen": f" {text(better[:-1])}", "rejected": f" {text(worse[:-1])}"}
        for one in pytorch.read_ids(case)[0]
        for better, worse in [one["responses"]]
    ]
    counting(DPOTrainer, hold, lambda inputs: len(inputs["input_ids"]) // 2)(
        model=pytorch.policy(case),
        args=DPOConfig(output_dir=out, beta=0.1, precompute_ref_log_probs=True, **COMMON, **case["settings"]),
        train_dataset=Dataset.from_list(pairs),
        processing_class=pytorch.tokenizer(case),
        callbacks=[hold],
    ).train()


def policy_gradient(case: Case, out: str, hold: Hold) -> None:
    """PPOTrainer of the last release that has one."""
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    prompts = [{"input_ids": one["prompt"]} for one in pytorch.read_ids(case)[0]]
    words = pytorch.tokenizer(case)
    words.padding_side = "left"
    own = {name: value for name, value in COMMON.items() if name not in ("max_steps", "lr_scheduler_type")}
    trainer = PPOTrainer(
        args=PPOConfig(
            output_dir=str(Path(out)),
            total_episodes=10_000 * case["rows"],
            per_device_train_batch_size=case["rows"],
            num_mini_batches=case["minibatches"],
            num_ppo_epochs=case["epochs"],
            response_length=case["response"][1],
            num_sample_generations=0,
            temperature=1.0,  # its default of 0.7 would end responses earlier than ours do
            **own,
            **case["settings"],
        ),
        processing_class=words,
        model=pytorch.policy(case),
        ref_model=pytorch.policy(case),
        reward_model=pytorch.reward_model(case),
        value_model=pytorch.reward_model(case),
        train_dataset=Dataset.from_list(prompts),
        callbacks=[_Episodes(hold, case["rows"])],
    )
    torch.manual_seed(0)
    trainer.train()


class _Episodes(TrainerCallback):
    """Hands on to ``hold``, whose units are episodes."""

    def __init__(self, hold: Hold, rows: int) -> None:
        self._hold, self._rows = hold, rows
        self.on_train_begin, self.on_log = hold.on_train_begin, hold.on_log

    def on_step_end(self, *args: Any, **named: Any) -> None:
        self._hold.units += self._rows
        self._hold.on_step_end(*args, **named)
