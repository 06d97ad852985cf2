"""The errors a user is meant to read, and the exit code of each."""

# Exit codes, for those who start runs; 0 is done, 1 anything else.
USER_ERROR = 2  # a UserError: starting again would not help
BAD_NUMBERS = 65  # a BadNumbers: starting again would come to the same end
INTERRUPTED = 75  # the same command goes on from the last checkpoint


class UserError(Exception):
    """Bad input from outside: a configuration, a file, a checkpoint that does not fit. The program ends with 2.

    Its text is one line that a terminal only shows: what it quotes may hold ends of lines, control characters and lone
    surrogates, which are escaped.
    """

    def __str__(self) -> str:
        text = super().__str__()
        return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


class DiskError(UserError):
    """A disk that is full, gone or closed has ended a run, which goes on by the same command when that is mended. The
    program ends with ``code``: 2, or 75 where another start may mend it.
    """

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class BadNumbers(Exception):
    """``stage`` gives up after ``step`` steps on numbers that are not finite, or on a loss that leaps. The program ends
    with 65; the last checkpoint is sound.
    """

    def __init__(self, stage: str, step: int, reason: str) -> None:
        super().__init__(f"{stage}: step {step}: {reason}")
        self.stage, self.step = stage, step


def exit_code(error: BaseException) -> int:
    """What the program ends with."""
    if isinstance(error, DiskError):
        return error.code
    codes = {UserError: USER_ERROR, BadNumbers: BAD_NUMBERS}
    return next((code for kind, code in codes.items() if isinstance(error, kind)), 1)
