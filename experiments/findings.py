"""What every analysis leaves behind."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_jax.metrics import write_text_atomically


def write_findings(root: Path, name: str, figure: bytes, table: str, verdict: Mapping[str, Any]) -> None:
    """Write ``figures/NAME.png``, ``table.md`` and ``verdict.json`` under ``root``."""
    (root / "figures").mkdir(parents=True, exist_ok=True)
    (root / "figures" / f"{name}.png").write_bytes(figure)
    write_text_atomically(root / "table.md", table)
    write_text_atomically(root / "verdict.json", json.dumps(verdict, indent=2) + "\n")


def verdict_of(checks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Each bound, its figures rounded, and in words which hold; a check has ``holds`` and ``figures``."""
    failed = [name for name, one in checks.items() if not one["holds"]]
    found = {
        bound: {**one, "figures": {name: [round(v, 3) for v in values] for name, values in one["figures"].items()}}
        for bound, one in checks.items()
    }
    return found | {"verdict": "all bounds hold at every seed" if not failed else f"not confirmed: {', '.join(failed)}"}
