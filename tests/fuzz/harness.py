"""Coverage-guided fuzzing by Atheris: ``make fuzz TARGET=rows SECONDS=300``.

A target is a function of bytes that may raise ``UserError`` and nothing else. libFuzzer stops at anything else, at more
than 5 s for one input and at more than 2 GiB, and leaves the input in ``build/fuzz/``; its path as the only argument
runs it again.
"""

import contextlib
import pathlib
import sys
from collections.abc import Callable, Iterable

import atheris

from rlhf_jax.errors import UserError


def fuzz(target: Callable[[bytes], object], seeds: Iterable[bytes]) -> None:
    """Try inputs that grow out of ``seeds``, with libFuzzer's options of the command line, until they end it."""
    name = pathlib.Path(sys.argv[0]).stem
    corpus = pathlib.Path("build") / "fuzz" / name
    corpus.mkdir(parents=True, exist_ok=True)
    for place, seed in enumerate(seeds):
        (corpus / f"seed-{place}").write_bytes(seed)

    def one(data: bytes) -> None:
        with contextlib.suppress(UserError):
            target(data)

    again = any(not word.startswith("-") for word in sys.argv[1:])
    limits = ["-timeout=5", "-rss_limit_mb=2048", "-max_len=4096", f"-artifact_prefix={corpus.parent}/{name}-"]
    atheris.Setup([*sys.argv[:1], *limits, *sys.argv[1:], *([] if again else [str(corpus)])], one)
    atheris.Fuzz()
