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
