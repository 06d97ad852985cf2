"""What every test stands on: eight host devices, a compilation cache, the golden files and the real data."""

import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping

import jaxtyping
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
HOST_DEVICES = "--xla_force_host_platform_device_count"


def _prepare_environment() -> None:
    """Has to run before jax is imported; child processes inherit it. What the caller has set stays."""
    flags = os.environ.get("XLA_FLAGS", "")
    if HOST_DEVICES not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {HOST_DEVICES}=8".strip()
    # Workers share the cores: without a limit each would start a pool as wide as the machine. NPROC is XLA's own.
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    for name in ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, threads)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    # Many programs are compiled here and each runs for an instant: XLA is to spend little on them.
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    os.environ.setdefault("RLHF_JAX_CACHE", str(ROOT / ".cache" / "rlhf_jax"))
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("MPLBACKEND", "agg")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _check_shapes() -> None:
    """Have arrays checked against the shapes in signatures, in every module that names shapes, before it is imported.

    In other modules a check would repeat mypy's, and cost more than the functions of the embedded world themselves.
    """
    sources = [path for path in sorted((ROOT / "rlhf_jax").rglob("*.py")) if "jaxtyping" in path.read_text()]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in sources]
    jaxtyping.install_import_hook(names, "beartype.beartype")


_prepare_environment()
_check_shapes()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden/*.json, printing old -> new")


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
    """The folder with real preference files: RLHF_JAX_DATA, or ../shared/data beside the repository."""
    folder = pathlib.Path(os.environ.get("RLHF_JAX_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set RLHF_JAX_DATA to a folder that has it")
    return folder


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[..., None]:
    """``golden(name, metrics, rtol=1e-4)`` compares a row of metrics with ``tests/golden/<name>.json``."""
    update = request.config.getoption("--update-golden")

    def compare(name: str, metrics: Mapping[str, float], rtol: float = 1e-4) -> None:
        path = ROOT / "tests" / "golden" / f"{name}.json"
        new = {key: float(value) for key, value in sorted(metrics.items())}
        old = json.loads(path.read_text()) if path.exists() else {}
        moved = [
            f"{key}: {old.get(key)} -> {new.get(key)}"
            for key in sorted(old.keys() | new.keys())
            if key not in old or key not in new or not math.isclose(old[key], new[key], rel_tol=rtol, abs_tol=1e-7)
        ]
        if update:
            print(f"{path.name}: " + ("; ".join(moved) or "unchanged"))
            if moved:
                path.write_text(json.dumps(new, indent=2) + "\n")
            return
        if moved:
            pytest.fail(
                f"{name}: one step no longer gives the stored metrics: {'; '.join(moved)}. If the change is meant, run "
                "`make golden` and say in the commit why they moved; if it is not, the last change broke this learner.",
                pytrace=False,
            )

    return compare
