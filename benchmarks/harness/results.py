"""From the answers of the rounds to medians, spreads and ratios, and to a table."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

OURS, AGAIN = "ours", "ours, again"


def rates(answers: Sequence[Mapping[str, Any]], seconds: str) -> list[float]:
    """Units a second, round by round."""
    return [answer["units"] / answer[seconds] for answer in answers]


def middle(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def peaks(found: Mapping[str, Sequence[Mapping[str, Any]]], what: str, amount: str) -> list[float]:
    """Of each round, FLOPs (or bytes) a CPU second by the better of the two libraries."""
    of_library = [
        [answer[amount] / answer["cpu"] for answer in answers]
        for name, answers in found.items()
        if name.startswith(f"{what}, ")
    ]
    return [max(one) for one in zip(*of_library, strict=True)]


def summary(
    about: Mapping[str, Any],
    found: Mapping[str, Sequence[Mapping[str, Any]]],
    targets: Sequence[Any],
    notes: Mapping[str, str],
) -> dict[str, Any]:
    """All that is told of a stage. Ratios are of CPU seconds, of ours to each side, round by round."""
    sides = [name for name, answers in found.items() if "units" in answers[0]]
    own = rates(found[OURS], "cpu")
    peak, bandwidth = peaks(found, "gemm", "flops"), peaks(found, "bandwidth", "bytes")
    rows: dict[str, Any] = {}
    for name in sides:
        cpu, answers = rates(found[name], "cpu"), found[name]
        row = {
            "cpu": middle(cpu),
            "wall": middle(rates(answers, "wall")),
            "seconds": statistics.median(answer["cpu"] for answer in answers),
            "ratio": middle([ours / theirs for ours, theirs in zip(own, cpu, strict=True)]),
            "note": notes.get(name, ""),
        }
        if about["flops"]:
            row["of peak"] = statistics.median(rate * about["flops"] / top for rate, top in zip(cpu, peak, strict=True))
        if about["bytes"]:
            row["of bandwidth"] = statistics.median(
                about["bytes"] / answer["cpu"] / top for answer, top in zip(answers, bandwidth, strict=True)
            )
        check = about["first"].get(name, [{}])[0].get("check")  # after the first round others have drawn other batches
        if check is not None:
            row["check"] = check
        rows[name] = row
    met = []
    for target in targets:
        against = [name for name in target.against if name in rows]
        if against:
            fastest = max(against, key=lambda name: rows[name]["cpu"]["median"])
            ratio = rows[fastest]["ratio"]
            met.append({"name": target.name, "side": fastest, "target": target.ratio, "ratio": ratio})
    limits = {"gemm, GFLOP/s": statistics.median(peak) / 1e9, "bandwidth, GB/s": statistics.median(bandwidth) / 1e9}
    rounds = len(own)
    return {**about, "rows": rows, "targets": met, "limits": limits, "rounds": rounds, "answers": dict(found)}


def text(whole: Mapping[str, Any], *, with_targets: bool = True) -> str:
    """The table of a stage, in Markdown."""
    case, unit = whole["case"], whole["unit"]
    lines = [
        f"**{whole['stage']}**, model {case['model']}, {case['threads']} thread(s) a side, {whole['rounds']} rounds; "
        f"in a CPU second at most {whole['limits']['gemm, GFLOP/s']:.0f} GFLOP (2048³) and "
        f"{whole['limits']['bandwidth, GB/s']:.1f} GB read",
        "",
        f"| side | {unit} a CPU second (least to most) | a wall second | CPU s a round | ours is (least to most) "
        "| of the limit | check |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in sorted(whole["rows"].items(), key=lambda item: -item[1]["cpu"]["median"]):
        cpu, ratio = row["cpu"], row["ratio"]
        limit = f"{row['of peak']:.0%} of GEMM" if "of peak" in row else ""
        if "of bandwidth" in row:
            limit = f"{row['of bandwidth']:.0%} of bandwidth"
        check = f"{row['check']:.6f}" if "check" in row else ""
        named = f"{name}: {row['note']}" if row["note"] else name
        lines.append(
            f"| {named} | {number(cpu['median'])} ({number(cpu['least'])} to {number(cpu['most'])}) "
            f"| {number(row['wall']['median'])} | {row['seconds']:.2f} "
            f"| {ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['most']:.2f}) | {limit} | {check} |"
        )
    if whole["checks"]:
        values = [f"{name} {value:.6f}" for name, value in checks(whole["checks"])]
        lines += ["", "check: " + ", ".join(values)]
    return "\n".join([*lines, "", targets([whole])] if with_targets else lines)


def checks(found: Mapping[str, Mapping[str, float]]) -> list[tuple[str, float]]:
    """What sides say of the same thing, by name; what a side says of ours by that."""
    told = [(name, answer["check"]) for name, answer in found.items()]
    return told + [
        (f"ours by {name}", value) for name, answer in found.items() for key, value in answer.items() if key != "check"
    ]


def targets(wholes: Sequence[Mapping[str, Any]]) -> str:
    """What was aimed at, and what was reached, in Markdown."""
    lines = ["| work | against | ours is | target | |", "| --- | --- | --- | --- | --- |"]
    for whole in wholes:
        for one in whole["targets"]:
            ratio = one["ratio"]
            verdict = "met" if ratio["median"] >= one["target"] else "missed"
            lines.append(
                f"| {whole['stage']} | {one['name']} ({one['side']}) "
                f"| {ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['most']:.2f}) | {one['target']} | {verdict} |"
            )
    return "\n".join(lines)


def number(value: float) -> str:
    """Three figures."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
