"""The process that renders chat templates, from outside: started for one pass over dialogues, and ended after it."""

import json
import os
import selectors
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from rlhf_jax.data.records import Message
from rlhf_jax.errors import UserError

CPU_SECONDS = 2  # of processor time for the template, and for each batch
WALL_SECONDS = 30.0  # for an answer, on the clock: the process may have to wait for a processor
BATCH_DIALOGUES, BATCH_CHARACTERS = 256, 2**20  # of one batch, at most; a longer dialogue is a batch of its own
MOST_BYTES = 2**28  # of an answer
LIBRARIES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")

# A dialogue to render, and whether the beginning of the assistant's next turn is to follow.
Request = tuple[Sequence[Message], bool]
# What became of it: the text, or None and why the template refuses it.
Rendered = tuple[str | None, str]


class Process:
    """A template that is ready to render, in a process of its own."""

    def __init__(self, pipes: subprocess.Popen[bytes], named: str) -> None:
        self._pipes, self._named = pipes, named
        self._source, self._sink = cast(IO[bytes], pipes.stdin), cast(IO[bytes], pipes.stdout)

    def wait(self) -> None:
        """Until the process is ready. Raises UserError if it ends before, with what it said last."""
        try:
            self._read(8 + len("{}"), time.monotonic() + WALL_SECONDS)
        except UserError as error:
            self._pipes.kill()
            _, said = self._pipes.communicate()
            last = said.decode(errors="replace").strip().rpartition("\n")[2] or str(error)
            raise UserError(f"data.chat: the process that renders chat templates does not start ({last})") from None

    def render(self, requests: Sequence[Request]) -> list[Rendered]:
        """One answer to each request, in order. Raises UserError if the template goes beyond its limits."""
        found: list[Rendered] = []
        for batch in _batches(requests):
            answers = self.ask(
                [
                    [[{"role": turn.role, "content": turn.content} for turn in turns], generate]
                    for turns, generate in batch
                ]
            )
            if not isinstance(answers, list) or len(answers) != len(batch):
                raise self._fault("gives an answer that is none")
            found += [(None if text is None else str(text), "" if why is None else str(why)) for text, why in answers]
        return found

    def ask(self, message: Any) -> Any:
        """The answer to a message. Raises UserError where there is none, naming the template."""
        data = json.dumps(message).encode()
        deadline = time.monotonic() + WALL_SECONDS
        try:
            self._source.write(struct.pack(">Q", len(data)) + data)
            self._source.flush()
        except BrokenPipeError:
            raise self._ended() from None
        (size,) = struct.unpack(">Q", self._read(8, deadline))
        if size > MOST_BYTES:
            raise self._fault(f"writes {size:,} bytes")
        answer = json.loads(self._read(size, deadline))
        if isinstance(answer, dict) and "failed" in answer:
            raise self._fault(str(answer["failed"]))
        return answer

    def _read(self, size: int, deadline: float) -> bytes:
        parts: list[bytes] = []
        with selectors.DefaultSelector() as selector:
            selector.register(self._sink, selectors.EVENT_READ)
            while size:
                if not selector.select(max(deadline - time.monotonic(), 0)):
                    raise self._fault(f"gives no answer within {WALL_SECONDS:g} s")
                part = os.read(self._sink.fileno(), min(size, 2**20))
                if not part:
                    raise self._ended()
                parts.append(part)
                size -= len(part)
        return b"".join(parts)

    def _ended(self) -> UserError:
        try:
            code = self._pipes.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return self._fault("closed its pipe")
        if code in (-signal.SIGXCPU, -signal.SIGKILL):
            return self._fault(f"takes more than {CPU_SECONDS} s of processor time for a batch of dialogues")
        return self._fault(f"ended the process that rendered it (exit status {code})")

    def _fault(self, what: str) -> UserError:
        return UserError(f"data.chat: the chat template of {self._named} {what}")


@contextmanager
def renderer(template: str, variables: dict[str, Any], named: str) -> Iterator[Process]:
    """A process with the template and what it may read besides the dialogue, ended when the context is left.

    ``named`` is where the template is from. Raises UserError if it cannot be compiled.
    """
    program = Path(__file__).with_name("child.py")
    # Isolated: no paths and settings of the user's but where jinja2 is, no variables of the environment but those by
    # which the interpreter finds its libraries, none of this process's files.
    pipes = subprocess.Popen(  # noqa: S603 this package's own program
        [sys.executable, "-I", str(program), *_folders()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/",
        env={name: os.environ[name] for name in LIBRARIES if name in os.environ},
    )
    try:
        process = Process(pipes, named)
        process.wait()
        process.ask({"template": template, "variables": variables, "seconds": CPU_SECONDS})
        yield process
    finally:
        pipes.kill()
        pipes.communicate()


def _batches(requests: Sequence[Request]) -> Iterator[list[Request]]:
    batch: list[Request] = []
    size = 0
    for request in requests:
        own = sum(len(turn.content) for turn in request[0])
        if batch and (len(batch) == BATCH_DIALOGUES or size + own > BATCH_CHARACTERS):
            yield batch
            batch, size = [], 0
        batch.append(request)
        size += own
    if batch:
        yield batch


def _folders() -> list[str]:
    """Where this process found jinja2 and what it imports, which need not be where an isolated one looks."""
    import jinja2
    import markupsafe

    return sorted({str(Path(str(module.__file__)).resolve().parents[1]) for module in (jinja2, markupsafe)})
