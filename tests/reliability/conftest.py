"""The reliability matrix: every promise is tried many times, more often by ``make torture``, and a table tells of all.

A test is marked ``reliability("R4", tries=50, torture=300)`` and works through ``tally.tries``, each try inside
``with tally.one("what is tried"):``. A try that fails is counted and the others go on; the test fails at its end.
"""

import collections
import contextlib
import json
import pathlib
import time
from collections.abc import Iterator

import pytest

PROPERTY = "reliability"
# Of one row of the table: the words that a promise is known by.
PROMISES = {
    "R1": "killed at random times, the run ends bit for bit as one that was not",
    "R2": "killed inside a save, the newest committed step can be restored",
    "R3": "a signal saves and ends with 75; the run goes on bit for bit",
    "R4": "a flipped bit in a checkpoint is noticed, the step before it is used",
    "R5": "truncated, deleted or zeroed files of a checkpoint are noticed",
    "R6": "a full disk is told with path and bytes; nothing older is lost",
    "R7": "a run directory that cannot be written ends with 2 and one line",
    "R8": "what is not finite reaches neither parameters nor checkpoint",
    "R9": "a spike of the loss is rewound and skipped, the same way every time",
    "R10": "a malformed row is found, with file, line, field and reason",
    "R11": "a wrong setting ends with 2 before any device is touched",
    "R12": "a checkpoint of another configuration is refused with what differs",
    "R13": "another tokenizer or chat template is refused",
    "R14": "lengths at their limits: counted, never dropped in silence",
    "R15": "responses that never end, or are empty: finite, equal steps everywhere",
    "R16": "degenerate rankings and utilities at their limits: finite losses and gradients",
    "R17": "a lost, failed or stuck process ends the others in time; the run goes on",
    "R18": "one run directory has one owner",
    "R19": "each leaf of a saved state matters to the run that goes on",
    "R20": "every example is consumed exactly once a pass, however often the run was killed",
    "R21": "the same bits again: on one core or two, under load, whatever the batch mates",
    "R22": "a hostile model folder runs nothing and writes nothing",
    "R23": "a hostile chat template runs nothing and is ended in time",
    "R24": "secrets of the environment are in no file and no output",
    "R25": "hostile text is escaped wherever it is shown",
    "R26": "a sweep whose workers are killed and whose files are torn loses no trial",
    "R27": "random bytes give readers typed errors, in time and in memory",
    "R28": "a long run: memory, open files and compiled programs stay what they were",
    "R29": "checkpoints of every released format are restored bit for bit",
    "R30": "an export that is killed leaves nothing half done under its name",
    "R31": "out of memory is told with what would help",
    "R32": "no pickle, no eval, no remote code, no shell",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--torture", action="store_true", help="the reliability matrix at its full size")
    parser.addoption("--torture-table", type=pathlib.Path, help="write the table of the matrix there, as Markdown")


class Tally:
    """The tries of one test, of the promise that it is marked with, and of others that the same runs show."""

    def __init__(self, promise: str, count: int) -> None:
        self.promise = promise
        self.tries = range(count)
        self.seconds: dict[str, list[float]] = collections.defaultdict(list)
        self.failures: dict[str, list[str]] = collections.defaultdict(list)

    @contextlib.contextmanager
    def one(self, what: str, within: float | None = None, of: str = "") -> Iterator[None]:
        """One try (``of`` another promise); it fails by an exception, or if it takes longer than ``within`` seconds."""
        promise, begun = of or self.promise, time.monotonic()
        try:
            yield
        except Exception as error:
            self.failures[promise].append(f"{what}: {type(error).__name__}: {error}")
        taken = time.monotonic() - begun
        self.seconds[promise].append(taken)
        if within is not None and taken > within:
            self.failures[promise].append(f"{what}: took {taken:.1f} s, more than {within:g} s")


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """What the marked test counts its tries with."""
    marker = request.node.get_closest_marker("reliability")
    (promise,), sizes = marker.args, marker.kwargs
    full = request.config.getoption("--torture", default=False)
    found = Tally(promise, sizes.get("torture", sizes["tries"]) if full else sizes["tries"])
    yield found
    assert found.seconds.keys() <= PROMISES.keys()
    for name, seconds in found.seconds.items():
        row = (name, len(seconds), len(found.failures[name]), max(seconds))
        request.node.user_properties.append((PROPERTY, json.dumps(row)))
    made, failures = len(found.seconds[promise]), [line for lines in found.failures.values() for line in lines]
    if failures or made < len(found.tries):
        listed = "\n".join(failures[:20])
        pytest.fail(f"{len(failures)} tries failed; {made} of {len(found.tries)} were made\n{listed}", pytrace=False)


class _Table:
    """Rows from all workers, put together by the process that reports."""

    def __init__(self) -> None:
        self.rows: dict[str, list[tuple[int, int, float]]] = collections.defaultdict(list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, value in report.user_properties:
            if name == PROPERTY and report.when == "teardown":
                identifier, *counts = json.loads(str(value))
                self.rows[identifier].append(tuple(counts))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.rows:
            return
        lines = ["| id | promise | tries | failures | longest, s |", "| --- | --- | ---: | ---: | ---: |"]
        for identifier in sorted(self.rows, key=lambda name: int(name[1:])):
            tries, failures, longest = zip(*self.rows[identifier], strict=True)
            lines.append(
                f"| {identifier} | {PROMISES[identifier]} | {sum(tries)} | {sum(failures)} | {max(longest):.1f} |"
            )
        terminalreporter.write_line("\n" + "\n".join(lines))
        if path := terminalreporter.config.getoption("--torture-table", default=None):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(lines) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Table(), "reliability_table")
