"""What a run writes about itself: metrics, samples, rewards, the summary and the status.

``metrics.jsonl`` is the source of truth, one JSON object a line::

    {"stage": "sft", "step": 20, "time": 1700000000.0, "metrics": {"loss": 1.23}}

TensorBoard files under ``tb/<stage>`` and trackers repeat it. Non-finite floats are written as the strings "nan",
"inf" and "-inf", so that every line is strict JSON. Whole files are replaced atomically. In a run of many
hosts only the first one writes.
"""

import io
import json
import math
import os
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, SupportsFloat

from rlhf_jax.errors import UserError
from rlhf_jax.foreign import json_object, read_json_object

LOSSES: dict[str, str] = {  # by stage
    "sft": "nats per token",
    "reward": "mean over lists: negative mean utility, or what config.reward.loss has for the feedback",
    "reward_common": "mean over lists: negative mean utility, or what config.reward.loss has for the feedback",
    "segments": "cross-entropy in nats per response; by kind: per part",
    "critique": "negative mean utility per list + nats per token of the critiques, by config.critique.lm_weight",
    "ppo": "surrogate + value loss per token",
    "dpo": "loss of the method per list",
    "online": "loss of the method per list",
}

UNITS: dict[str, str] = {
    "loss": "; ".join(f"{stage}: {unit}" for stage, unit in LOSSES.items()),
    "grad_norm": "global norm before clipping",
    "learning_rate": "step size",
    "skipped": "updates that were not made because something was not finite (in the summary: steps with such updates)",
    "rewound": "times that a stage went back to a checkpoint from a spike of its loss",
    "steps_per_second": "updates (ppo: iterations) per second of wall time",
    "time.input": "share of wall time in which the host makes batches, mostly while the device is at work",
    "time.sampling": "share of an iteration's wall time (since the end of the one before) in which it samples",
    "time.scoring": "the same of reference, value and reward models, which read what was sampled",
    "time.update": "the same of the updates of policy and value model",
    "time.rest": "the same before it begins: evaluations, checkpoints, the host; where programs compile, it is in all",
    "steps": "updates made (ppo: iterations)",
    "token_accuracy": "share of response tokens that were the most likely ones",
    "pair_accuracy": "share of non-tied pairs of the batch in the right order",
    "reward_mean": "mean reward of the batch's responses",
    "gap_mean": "mean reward gap of the batch's pairs, better minus worse",
    "truncated.prompts": "share of prompts that lost their beginning",
    "truncated.responses": "share of responses that lost their end",
    "validation.loss": "as loss, held-out",
    "validation.pair_accuracy": "share of non-tied held-out pairs in the right order",
    "validation.pair_accuracy.open": "share of pairs in the right order, open prompts",
    "validation.pair_accuracy.closed": "share of pairs in the right order, closed prompts",
    "validation.w1_open_closed": "Wasserstein-1 distance between rewards of open and closed prompts",
    "validation.w1": "Wasserstein-1 distance between the rewards of two prompt types",
    "validation.ks": "Kolmogorov-Smirnov distance between the rewards of two prompt types",
    "validation.collapse_index": "1: all types of prompt have one reward distribution, 0: they differ as they should",
    "validation.r_star_distance": "mean distance of the mean reward at each rank from the best rewards of the utility",
    "validation.kendall_tau": "Kendall's tau-b of rewards and ranks, mean over lists",
    "validation.ndcg": "normalised discounted cumulative gain, mean over lists",
    "validation.log_loss": "nats per held-out pair, probabilities sigma(reward gap)",
    "validation.accuracy": "share of held-out parts of responses judged as they were marked, by kind",
    "validation.accuracy_base": "the same of always saying what is more frequent",
    "validation.base_rate": "share of defective held-out parts, by kind",
    "validation.auc": "probability that a good held-out part gets a higher logit than a defective one, by kind",
    "validation.cross_entropy": "nats per held-out part, by kind",
    "validation.cross_entropy_base": "the same of always saying the base rate",
    "validation.gold_accuracy": "share of held-out pairs of different gold reward in the order of gold",
    "validation.three_way_accuracy": "share of judgements (better, worse, equal) whose most likely outcome it was",
    "validation.three_way_log_loss": "nats per held-out judgement (better, worse, equal)",
    "validation.label_accuracy": "share of held-out verdicts on the right side of probability 1/2",
    "validation.label_log_loss": "nats per held-out verdict",
    "validation.label_brier": "mean squared error of the probability of a good verdict",
    "validation.label_auc": "probability that a response called good has a higher reward than one called bad",
    "validation.score_rmse": "root mean squared error of held-out scores, in their units",
    "validation.score_spearman": "Spearman correlation of rewards and held-out scores",
    "validation.brier": "mean squared error of those probabilities",
    "validation.ece": "expected calibration error of those probabilities",
    "validation.temperature": "divisor of reward gaps that minimises the log-loss, in reward",
    "validation.log_loss_calibrated": "nats per held-out pair at that temperature",
    "validation.ece_calibrated": "expected calibration error at that temperature",
    "validation.length_correlation": "Spearman correlation of reward with tokens of the response",
    "validation.accuracy_at_distance": "share of pairs in the right order, by difference of ranks",
    "implicit.chosen": "mean implicit reward of the better response of each pair (kto: of good responses)",
    "implicit.rejected": "mean implicit reward of the worse response of each pair (kto: of bad responses)",
    "logprob.chosen": "nats, mean log-probability of the better response of each pair (kto: of good responses)",
    "logprob.rejected": "nats, mean log-probability of the worse response of each pair (kto: of bad responses)",
    "log_ratio": "nats, log of policy over reference, mean over given responses",
    "nll": "nats per token of the better response of each pair",
    "baseline": "z of kto, in units of implicit reward",
    "spread": "standard deviation of the reward over the members of an ensemble, mean over responses",
    "validation.spread": "standard deviation of the reward over the members of an ensemble, mean over responses",
    "validation.spread_error_correlation": "Spearman correlation of a pair's spread with its error 1 - sigma(mean gap)",
    "validation.spread_auroc": "probability that a mis-ordered pair has a larger spread than a well-ordered one",
    "reward.spread": "standard deviation of the reward over the members of an ensemble, mean over responses",
    "ranking_loss": "negative mean utility per list",
    "critique_loss": "nats per token of the given critiques",
    "critique_accuracy": "share of tokens of the given critiques that were the most likely ones",
    "critique_length": "tokens per critique that the reward is read after",
    "critique_exact": "share of held-out responses whose own critique is word for word the given one",
    "critique_verdict": "share of held-out responses whose own critique ends with the word of the given one",
    "critique_ended": "share of own critiques that ended by themselves",
    "critique_unique": "share of distinct texts among own critiques",
    "reward.mean": "mean proxy reward per response",
    "reward.mean.before": "mean proxy reward per response of the SFT policy",
    "reward.best": "mean over lists of the largest score in each",
    "reward.std": "standard deviation of the proxy reward over responses",
    "score.mean": "mean proxy reward per response after normalisation and the missing-EOS rule",
    "gold": "mean gold reward, prompts without a type",
    "validation.gap": "held-out answers: deviations that the reward gained more than the gold since the start",
    "gold.open": "mean gold reward in [0, 1], open prompts",
    "gold.closed": "mean gold reward in [0, 1], closed prompts",
    "kl": "nats per response, policy against the SFT policy: the estimate k1 = l, l = log pi / pi_ref of a token",
    "kl.k2": "the same by k2 = l^2 / 2",
    "kl.k3": "the same by k3 = e^-l - 1 + l, of least variance",
    "kl.exact": "the same, summed over the vocabulary before each token",
    "divergence": "per response, what config.ppo.kl prices by its own estimator, in units of the divergence",
    "kl_loss": "per token (or response), the part of that price that stands in the loss, before its coefficient",
    "kl_coefficient": "reward per nat",
    "length": "tokens per response",
    "clip_fraction": "share of tokens with a clipped ratio",
    "ratio.max": "largest ratio of a token's probability to that when it was sampled, over an iteration",
    "ratio.min": "smallest such ratio",
    "updates": "updates made of those of an iteration; fewer where config.ppo.stop_kl ended it",
    "pretraining_loss": "nats per token of the demonstrations mixed in",
    "value.rmse": "root mean squared error of the values against returns, in units of reward",
    "score.std": "standard deviation over responses of the proxy reward after normalisation and the missing-EOS rule",
    "reward.part": "mean per response of one source of the proxy reward, by its weight",
    "approx_kl": "nats per token, new policy against the sampling policy",
    "entropy": "nats per token",
    "unique": "share of distinct texts among the responses",
    "distinct_2": "distinct pairs of neighbouring words over all such pairs",
    "explained_variance": "share of the variance of returns",
    "value_loss": "half the mean squared error of returns, clipped",
    "policy_loss": "negative clipped surrogate per token",
    "eos_fraction": "share of responses that ended by themselves",
}

BY_TYPE = (
    "loss",
    "reward.part",
    "validation.pair_accuracy",
    "validation.w1",
    "validation.ks",
    "validation.r_star_distance",
    "validation.accuracy_at_distance",
    "validation.accuracy",
    "validation.accuracy_base",
    "validation.base_rate",
    "validation.auc",
    "validation.cross_entropy",
    "validation.cross_entropy_base",
)


def unit_of(name: str, stage: str = "") -> str:
    """Unit of a metric; "" if unknown. ``name`` is one of a row of ``stage``, or of the summary, ``STAGE.NAME``, which
    holds what was measured on held-out data; ``validation.`` may be left out there.
    """
    first, _, tail = name.partition(".")
    stage, own = (first, tail) if not stage and first in LOSSES else (stage, name)
    if stage in LOSSES and own.removeprefix("validation.").removeprefix("train.").split(".")[0] == "loss":
        return LOSSES[stage]
    for candidate in (name, tail):
        if candidate.startswith("bayes."):
            unit = unit_of(f"validation.{candidate.removeprefix('bayes.')}")
            return unit and f"{unit}; expected of one who knows the truth and the annotators' noise"
        if candidate.startswith("train."):
            return unit_of(f"validation.{candidate.removeprefix('train.')}").replace("held-out", "training")
    for candidate in (name, f"validation.{name}", f"validation.{tail}", tail):
        words = candidate.split(".")
        families = (".".join(words[:2]), words[0])  # w1.TYPE.TYPE, r_star_distance.TYPE; loss.KIND
        for known in (candidate, *(family for family in families if family in BY_TYPE)):
            if known in UNITS:
                return UNITS[known]
    return ""


def write_text_atomically(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` (UTF-8): a reader sees the old file or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Containers often have one and the same process id.
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except Exception as error:
        temporary.unlink(missing_ok=True)  # on a full disk it would keep its room
        if isinstance(error, OSError):
            error.filename = error.filename or str(path)
        raise


def _append(file: io.FileIO, data: bytes) -> None:
    """Write all of ``data``: on a disk that is nearly full the system takes a part, and tells only the next write."""
    left = memoryview(data)
    try:
        while left:
            left = left[file.write(left) or 0 :]
    except OSError as error:
        error.filename = error.filename or file.name
        raise


def read_jsonl(path: Path, *, torn: bool = True) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file: none if it is missing, a torn last line (no line end) left out if such may occur.

    Raises UserError ``file:line: reason`` at any other line that is not a JSON object.
    """
    if not path.exists():
        return []
    rows = []
    data = path.read_bytes()
    for number, line in enumerate(_whole_lines(data) if torn else data.splitlines(), start=1):
        rows.append(json_object(line, f"{path}:{number}"))
    return rows


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; {} if there is none. Raises UserError if it is anything else."""
    return read_json_object(path) if path.exists() else {}


class Mirror(Protocol):
    """Whatever else wants every row."""

    def log(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """One row."""


class MetricWriter:
    """Appends rows to ``metrics.jsonl`` (each in one write call), and to TensorBoard files and a mirror if wanted."""

    def __init__(self, workdir: Path | str, tensorboard: bool = True, mirror: Mirror | None = None) -> None:
        self._workdir = Path(workdir)
        self._mirror = mirror
        self._mirrored: set[tuple[str, int, bool]] = set()  # rows that a mirror has been told of
        self._workdir.mkdir(parents=True, exist_ok=True)
        self._path = self._workdir / "metrics.jsonl"
        self._tensorboard = tensorboard
        self._boards: dict[str, _Board] = {}
        self._purge_steps: dict[str, int] = {}
        _drop_torn_line(self._path)
        self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115

    def write(self, stage: str, step: int, metrics: Mapping[str, SupportsFloat]) -> None:
        """Record the metrics of one step; NumPy and JAX scalars are taken as floats."""
        values = {name: float(value) for name, value in metrics.items()}
        now = time.time()
        row = {"stage": stage, "step": step, "time": now, "metrics": values}
        _append(self._file, _dump(row).encode() + b"\n")
        if self._tensorboard:
            self._board(stage).write(step, now, values)
        if self._mirror is not None and (stage, step, _is_held_out(values)) not in self._mirrored:
            self._mirror.log(stage, step, values)

    def rewind(self, stage: str, step: int, *, held_out: bool = True) -> None:
        """Forget what ``stage`` wrote after ``step``, so that a resumed run leaves no overlapping rows.

        Rows, rewards and sample files with a larger step go, and a torn last line; TensorBoard is told to
        hide its own, and a mirror, which cannot forget, will not be told of them again. Of ``step`` itself, held-out
        rows and rewards go unless ``held_out``: a stage that was cut off while it closed is evaluated again.
        """
        self._file.close()
        rows = read_jsonl(self._path)
        last = step if held_out else step - 1  # of the held-out rows
        kept = [
            row
            for row in rows
            if row["stage"] != stage or row["step"] <= (last if _is_held_out(row["metrics"]) else step)
        ]
        self._mirrored |= {(row["stage"], row["step"], _is_held_out(row["metrics"])) for row in rows}
        write_text_atomically(self._path, "".join(_dump(row) + "\n" for row in kept))
        self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115
        rewards = self._workdir / "rewards" / f"{stage}.jsonl"
        if rewards.exists():
            scored = [row for row in read_jsonl(rewards) if row.get("step", 0) <= last]
            write_text_atomically(rewards, "".join(_dump(row) + "\n" for row in scored))
        for path in (self._workdir / "samples" / stage).glob("*.jsonl"):
            if path.stem.isdigit() and int(path.stem) > step:
                path.unlink()
        if stage in self._boards:
            self._boards.pop(stage).close()
        self._purge_steps[stage] = step + 1

    def close(self) -> None:
        """Flush and close every file. Closing twice is allowed."""
        self._file.close()
        for board in self._boards.values():
            board.close()
        self._boards.clear()

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _board(self, stage: str) -> "_Board":
        if stage not in self._boards:
            self._boards[stage] = _Board(self._workdir / "tb" / stage, stage, self._purge_steps.get(stage))
        return self._boards[stage]


class _Board:
    """A file of TensorBoard, written here and now: a thread that writes it, as tensorboardX's ``SummaryWriter`` has,
    ends at the first error of the disk, and the run then waits for it.
    """

    def __init__(self, folder: Path, stage: str, purge: int | None) -> None:
        self._stage = stage
        # Imported here: a run without TensorBoard should not pay for protobuf.
        from tensorboardX import summary
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        folder.mkdir(parents=True, exist_ok=True)
        self._event, self._scalar = Event, summary.scalar
        self._writer = EventsWriter(str(folder / "events"))
        if purge is not None:
            self._writer.write_event(Event(step=purge, file_version="brain.Event:2"))
            self._writer.write_event(Event(step=purge, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, now: float, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            told = self._scalar(name, value, "", unit_of(name, self._stage))
            self._writer.write_event(self._event(step=step, wall_time=now, summary=told))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def read_metrics(workdir: Path | str) -> list[dict[str, Any]]:
    """Rows of ``metrics.jsonl`` in the order written, the metrics as floats; [] if there is none."""
    rows = read_jsonl(Path(workdir) / "metrics.jsonl")
    for row in rows:
        row["metrics"] = {name: float(value) for name, value in row["metrics"].items()}
    return rows


def write_samples(workdir: Path | str, stage: str, step: int, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write ``samples/<stage>/<step>.jsonl``.

    A row has "prompt", "prompt_type", "response", "proxy", "gold" and "before" (the SFT policy's
    completion of the same prompt); the last three may be null. Where parts of a response were paid, "rewards" has
    [first character, the one after the last, reward] of each. "stage" and "step" are added.
    """
    path = Path(workdir) / "samples" / stage / f"{step}.jsonl"
    lines = [_dump({"stage": stage, "step": step, **row}) + "\n" for row in rows]
    write_text_atomically(path, "".join(lines))
    return path


def write_rewards(workdir: Path | str, stage: str, step: int, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Append to ``rewards/<stage>.jsonl`` the reward of each response that was scored after ``step`` steps.

    A row has "split" ("validation" or "train"), "list" (its place in the split), "prompt_type", "rank" (0 = best),
    "reward", "length" (tokens), "gold" and "best" (the reward at the optimum of the list); the last two may be null.
    Rows of a partial order have "better_than" as well. "step" is added.
    """
    path = Path(workdir) / "rewards" / f"{stage}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [_dump({"step": step, **row}) + "\n" for row in rows]
    with open(path, "ab", buffering=0) as file:
        _append(file, "".join(lines).encode())
    return path


def write_skipped(workdir: Path | str, stage: str, row: Mapping[str, Any]) -> Path:
    """Append to ``skipped.jsonl`` a step that was skipped, or a rewind: see ``docs/run_directory.md``."""
    path = Path(workdir) / "skipped.jsonl"
    with open(path, "ab", buffering=0) as file:
        _append(file, _dump({"stage": stage, **row}).encode() + b"\n")
    return path


def rewind_skipped(workdir: Path | str, stage: str, drawn: int) -> None:
    """Forget those rows of ``stage`` that are of later batches than the first ``drawn``, and a torn last line."""
    path = Path(workdir) / "skipped.jsonl"
    if path.exists():
        kept = [row for row in read_jsonl(path) if row["stage"] != stage or row["batch"] <= drawn]
        write_text_atomically(path, "".join(_dump(row) + "\n" for row in kept))


def skipped_counts(workdir: Path | str, stage: str) -> dict[str, int]:
    """``STAGE.skipped`` and ``STAGE.rewound`` for the summary, those that are not 0."""
    rows = [row for row in read_jsonl(Path(workdir) / "skipped.jsonl") if row["stage"] == stage]
    rewound = sum("rewound_to" in row for row in rows)
    counts = {f"{stage}.skipped": len(rows) - rewound, f"{stage}.rewound": rewound}
    return {name: count for name, count in counts.items() if count}


def write_optimum(workdir: Path | str, stage: str, by_type: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write ``optimum/<stage>.json``, what the utility of each prompt type asks for: see ``docs/run_directory.md``."""
    path = Path(workdir) / "optimum" / f"{stage}.json"
    write_text_atomically(path, _dump(by_type, indent=2) + "\n")
    return path


def read_summary(workdir: Path | str) -> dict[str, float]:
    """The headline figures of the run's finished stages, by dotted name; {} if none has finished.

    Raises UserError if there is anything but numbers.
    """
    path = Path(workdir) / "summary.json"
    values = read_json(path)
    try:
        return {name: float(value) for name, value in values.items()}
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: {error}") from None


def update_summary(workdir: Path | str, values: Mapping[str, SupportsFloat]) -> None:
    """Merge dotted names such as ``sft.gold.open`` into ``summary.json``, sorted by name."""
    _write_summary(workdir, read_summary(workdir) | {name: float(value) for name, value in values.items()})


def rewind_alarms(workdir: Path | str, stage: str, step: int) -> None:
    """Forget those ``STAGE.alarm.*`` of the summary that are of later steps than ``step``."""
    values = read_summary(workdir)
    kept = {name: at for name, at in values.items() if not name.startswith(f"{stage}.alarm.") or at <= step}
    if kept != values:
        _write_summary(workdir, kept)


def _write_summary(workdir: Path | str, values: Mapping[str, float]) -> None:
    text = _dump(dict(sorted(values.items())), indent=2)
    write_text_atomically(Path(workdir) / "summary.json", text + "\n")


def write_status(
    workdir: Path | str,
    state: str,
    *,
    stage: str = "",
    step: int = 0,
    exit_code: int | None = None,
    reason: str = "",
) -> None:
    """Write ``STATUS.json``: a state, where, and why. The time is Unix time.

    States: "running", "done", "failed", "interrupted", "pruned". Raises ValueError for another.
    """
    if state not in ("running", "done", "failed", "interrupted", "pruned"):
        raise ValueError(f"unknown state {state!r}")
    status = {
        "state": state,
        "stage": stage,
        "step": step,
        "exit_code": exit_code,
        "reason": reason,
        "time": time.time(),
    }
    write_text_atomically(Path(workdir) / "STATUS.json", _dump(status, indent=2) + "\n")


def read_status(workdir: Path | str) -> str:
    """The state in ``STATUS.json``, "" if there is none. Raises UserError if it holds something else."""
    return str(read_json(Path(workdir) / "STATUS.json").get("state", ""))


def _is_held_out(metrics: Mapping[str, Any]) -> bool:
    return all(name.startswith(("validation.", "train.")) for name in metrics)


def _whole_lines(data: bytes) -> list[bytes]:
    return data.split(b"\n")[:-1]


def _drop_torn_line(path: Path) -> None:
    if path.exists():
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:
            write_text_atomically(path, whole.decode())


def _dump(value: Any, indent: int | None = None) -> str:
    return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, indent=indent)


def _finite(value: Any) -> Any:
    """The same value with every non-finite float as a string, which JSON has no number for."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value))
    return value
