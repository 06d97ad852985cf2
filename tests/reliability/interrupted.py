"""Runs as children of one server that has loaded the program and started nothing: a child costs a fork and its steps.

A hook is a function of this module, called in the child before the program, that has something befall it.
"""

import contextlib
import dataclasses
import errno
import fcntl
import functools
import json
import multiprocessing
import os
import pathlib
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from typing import Any

import rlhf_jax.run
from rlhf_jax import metrics, owner, resources
from rlhf_jax.checkpoints import Checkpoints
from rlhf_jax.loop import Task
from tests.end_to_end import tiny

STEPS = 10
MORE = (
    *tiny.SIZE,
    f"--config.sft.steps={STEPS}",
    f"--config.reward.steps={STEPS}",
    f"--config.ppo.iterations={STEPS}",
    "--config.log.every=1",
    "--config.log.tensorboard=False",
    "--config.sft.eval_every=1000",
    "--config.reward.eval_every=1000",
    "--config.ppo.eval_every=1000",
)
Hook = Callable[[], None]


@dataclasses.dataclass
class Child:
    """A run under way, or ended."""

    process: BaseProcess
    output: pathlib.Path  # what it prints
    began: float

    def wait(self, seconds: float = 120) -> int:
        """Its exit code; negative: the signal that ended it."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"it did not end within {seconds} s:\n{self.said()}")
        return self.process.exitcode

    def said(self) -> str:
        return self.output.read_text() if self.output.exists() else ""

    def error(self) -> str:
        """The one line that it ended with, which is all that it said on its standard error."""
        lines = pathlib.Path(f"{self.output}.err").read_text().splitlines()
        lines = [line for line in lines if not line.startswith("[transformers]")]
        assert len(lines) == 1, "\n".join(lines)
        assert lines[0].startswith("rlhf-jax: error: "), lines[0]
        return lines[0]


@functools.cache
def _server() -> Any:
    # A server is a new interpreter, which finds the tests by this alone.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(tiny.ROOT), os.environ.get("PYTHONPATH", "")])
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["tests.reliability.interrupted", "transformers", "orbax.checkpoint", "optax"])
    return server


def start(output: pathlib.Path, *words: str, hook: Hook | None = None) -> Child:
    """The program as a process of its own, with one device."""
    process = _server().Process(target=_main, args=(str(output), words, hook))
    process.start()
    return Child(process, output, time.monotonic())


def finish(output: pathlib.Path, *words: str, hook: Hook | None = None) -> Child:
    """The same, come to its end."""
    child = start(output, *words, hook=hook)
    child.wait()
    return child


def _main(output: str, words: tuple[str, ...], hook: Hook | None) -> None:
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=1"
    for name, number in ((output, 1), (f"{output}.err", 2)):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, number)
        os.close(file)
    # multiprocessing turns whatever is raised into an exit code, but prints what the interpreter would have printed.
    if hook is not None:
        hook()
    tiny.launch(*words, report=False)
    sys.stdout.flush()


def until(what: Callable[[], Any], seconds: float = 60) -> Any:
    """The first value of ``what`` that is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.005)
    raise AssertionError(f"not within {seconds} s")


def steps(workdir: pathlib.Path, stage: str) -> int:
    """Steps of a stage that are in the metrics of a run, which may be writing."""
    rows = metrics.read_jsonl(workdir / "metrics.jsonl")
    return max((row["step"] for row in rows if row["stage"] == stage), default=0)


@contextlib.contextmanager
def ended_with(*children: Child) -> Iterator[None]:
    """See that none is left behind."""
    try:
        yield
    finally:
        for child in children:
            if child.process.is_alive():
                child.process.kill()
                child.process.join()


# ------------------------------------------------------------------------- hooks


def _before_steps(befall: Callable[[str, int], None]) -> None:
    make_task = rlhf_jax.run.make_task

    def make(context: Any, name: str) -> Task:
        task = make_task(context, name)

        def step(state: Any, batch: Any) -> Any:
            befall(name, int(state.step) + 1)
            return task.step(state, batch)

        return dataclasses.replace(task, step=step)

    rlhf_jax.run.make_task = make


def slowly(seconds: float) -> None:
    """Every step takes so long."""
    _before_steps(lambda *_: time.sleep(seconds))


def at_once(took: str, gate: float, slow: float) -> None:
    """Begin when the others do, and tell how many seconds an end took from when the directory was asked for: what a
    loaded machine takes to start jax is none of it.
    """
    slowly(slow)
    launched, take, begun = tiny.launch, owner.Owner.take, [0.0]

    def taken(self: owner.Owner) -> str:
        begun[0] = time.monotonic()
        return take(self)

    def timed(*words: str, **settings: Any) -> None:
        time.sleep(max(0.0, gate - time.time()))
        try:
            launched(*words, **settings)
        except SystemExit:
            pathlib.Path(took).write_text(str(time.monotonic() - begun[0]))
            raise

    tiny.launch, owner.Owner.take = timed, taken  # type: ignore[method-assign]


def long_at(number: int, marker: str) -> None:
    """One step takes longer than anybody waits; a file tells that it has begun."""

    def befall(_: str, step: int) -> None:
        if step == number:
            pathlib.Path(marker).touch()
            time.sleep(3600)

    _before_steps(befall)


def without_locks(elsewhere: str) -> None:
    """On a file system that has none, as on another machine where it has a name; each step can be waited for."""

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    fcntl.flock = flock
    if elsewhere:
        owner.machine = lambda: elsewhere
    slowly(0.3)


def fill(path: pathlib.Path, number: int, workdir: pathlib.Path) -> None:
    """Before that step another fills the disk, once there is a checkpoint on it: they are written behind the steps."""

    def befall(_: str, step: int) -> None:
        if step == number:
            until(lambda: any(found.name.isdigit() for found in workdir.glob("checkpoints/*/*")))
            with contextlib.suppress(OSError), open(path, "wb", buffering=0) as file:
                while file.write(bytes(2**16)):
                    pass

    _before_steps(befall)


def no_memory(number: int, limit: int = 0) -> None:
    """Before that step the device is asked for more than there can be: 4 PiB, or 1 GiB where the process may have no
    more than ``limit`` bytes beside what it has.
    """
    import jax.numpy as jnp

    def befall(_: str, step: int) -> None:
        if step == number:
            if limit:
                pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
                most = pages * resource.getpagesize() + limit
                resource.setrlimit(resource.RLIMIT_AS, (most, most))
            jnp.zeros((2**28 if limit else 2**50,), jnp.float32).block_until_ready()

    _before_steps(befall)


def no_python_memory(number: int) -> None:
    """Before that step Python itself has none left."""

    def befall(_: str, step: int) -> None:
        if step == number:
            bytearray(2**62)

    _before_steps(befall)


def fault(what: str, number: int, workdir: str, at: int) -> None:
    """From that step on, the next time that the run writes ``what``, the system has this error, and again after it
    where the disk is full: rows of metrics, of which a part is written; whole files; checkpoints, as TensorStore tells.
    """
    begun, told = [False], [False]
    append, fsync, save = metrics._append, os.fsync, Checkpoints.save

    def befall(_: str, step: int) -> None:
        begun[0] |= step == at

    def error(path: str) -> OSError:
        told[0] = True
        return OSError(number, os.strerror(number), path)

    def torn(file: Any, data: bytes) -> None:
        if begun[0] and not told[0]:
            append(file, data[: len(data) // 2])
            raise error(file.name)
        append(file, data)

    def not_synced(handle: int) -> None:
        if begun[0] and not told[0]:
            raise error(os.readlink(f"/proc/self/fd/{handle}"))
        fsync(handle)

    def not_saved(self: Checkpoints, state: Any, meta: Any) -> None:
        if begun[0] and not told[0]:
            told[0] = True
            path = f'"{workdir}/checkpoints/sft/{at}.orbax-checkpoint-tmp/params/d/0"'
            raise ValueError(f"UNKNOWN: Error writing {path}: Failed to write 9 bytes [os_error_code='{number}']")
        save(self, state, meta)

    _before_steps(befall)
    if what == "rows":
        metrics._append = torn
    elif what == "files":
        os.fsync = not_synced
    else:
        Checkpoints.save = not_saved  # type: ignore[method-assign]


def no_room(free: int) -> None:
    """So many bytes are left on the disk, whatever it says."""
    resources._free = lambda _: free


def unwritable(number: int, folder: str) -> None:
    """Nothing can be made in a folder, not even by root."""
    mkdir, opened = os.mkdir, os.open

    def refused(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(path: Any, *args: Any, **settings: Any) -> Any:
            made = call is mkdir or (args and args[0] & os.O_CREAT)
            if made and not isinstance(path, int) and os.fspath(path).startswith(folder):
                raise OSError(number, os.strerror(number), os.fspath(path))
            return call(path, *args, **settings)

        return called

    os.mkdir, os.open = refused(mkdir), refused(opened)


def environment(**values: str) -> None:
    """Variables of the environment; "" has none. The program finds its caches by itself."""
    import jax

    for name, value in values.items():
        os.environ.pop(name, None)
        if value:
            os.environ[name] = value
    tempfile.tempdir = None
    jax.config.update("jax_compilation_cache_dir", None)


def status(workdir: pathlib.Path) -> dict[str, Any]:
    return json.loads((workdir / "STATUS.json").read_text())


def killed_at_change(folder: str, number: int, count: str) -> None:
    """An export is killed before its change of that number to what is below a folder; 0: never. ``count`` is a file
    for the number of all changes.
    """
    from rlhf_jax.commands import export

    write, made = export.write_folder, [-1]

    def change(event: str, args: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if made[0] < 0 or not (writes or event in ("os.rename", "os.mkdir", "os.rmdir", "os.remove")):
            return
        if any(str(one).startswith(folder) for one in args[:2]) or event in ("os.rmdir", "os.remove"):
            made[0] += 1
            if made[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)

    def watched(*args: Any, **settings: Any) -> None:
        made[0] = 0
        write(*args, **settings)
        pathlib.Path(count).write_text(str(made[0]))

    sys.addaudithook(change)
    export.write_folder = watched
