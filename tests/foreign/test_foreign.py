"""What errors of others say."""

import pytest

from rlhf_jax.foreign import said


@pytest.mark.parametrize(
    ("error", "plain", "typed"),
    [
        (ValueError("\n one\x1b[31m line \nand more"), "one line ", "ValueError: one line "),
        (KeyError("x"), "'x'", "KeyError: 'x'"),
        (SystemExit(), "SystemExit", "SystemExit"),
        (OSError("x" * 400), f"{'x' * 150} … {'x' * 150}", f"OSError: {'x' * 150} … {'x' * 150}"),
    ],
)
def test_what_an_error_says_is_its_first_line(error: BaseException, plain: str, typed: str) -> None:
    assert said(error) == plain
    assert said(error, typed=True) == typed
