"""Runs on a slice of the embedded world in processes of their own, which can be killed at any moment.

They are forked from a process that has imported everything and started nothing, so that each begins at once.
"""

import dataclasses
import functools
import json
import multiprocessing
import os
import pathlib
import signal
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import jax
import numpy as np

import rlhf_jax.run
from rlhf_jax.metrics import MetricWriter
from tests.end_to_end import tiny

STEP = 0.04  # seconds more for each step: those of so small a model are over before a checkpoint is on disk
# What is imported here, the processes need not import. Reading the world is most of what is left.
forked = multiprocessing.get_context("forkserver")
forked.set_forkserver_preload([__name__])
tiny.small_world("classic", "broken", 8)


class Child:
    """A run under way: where it began, and how far it has come."""

    def __init__(
        self, words: Sequence[str], printed: pathlib.Path, *, cores: Iterable[int] = (), log: str = ""
    ) -> None:
        """Start it; what it prints is appended to a file, and ``log`` is a file for the examples of each step.

        With ``cores`` it has those alone, and compiles its programs itself.
        """
        self._ears, mouth = forked.Pipe(duplex=False)
        self.printed = printed
        self.process = forked.Process(target=_run, args=(tuple(words), str(printed), tuple(cores), log, mouth))
        self.process.start()
        mouth.close()
        self.started: int | None = None  # the step that its stage went on from
        self.ended = False

    def follow(self, step: int) -> int:
        """Wait until the row of that step is written, or of a later one; returns the last (-1: it has ended)."""
        while True:
            try:
                what, number = self._ears.recv()
            except EOFError:
                self.ended = True
                return -1
            if what == "start" and self.started is None:
                self.started = number
            if what == "row" and number >= step:
                return number

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal, whatever it is at, and wait for its end."""
        os.kill(self.process.pid, number)
        self.end()

    def end(self) -> int:
        """Wait for its end; returns its exit code, negative by a signal."""
        self.follow(1 << 30)
        self.process.join()
        return self.process.exitcode


def _run(words: tuple[str, ...], printed: str, cores: tuple[int, ...], log: str, mouth: Connection) -> None:
    with open(printed, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    # Before the first device is asked for.
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=1"
    if cores:
        os.sched_setaffinity(0, cores)
        os.environ["NPROC"] = str(len(cores))  # of threads that XLA computes with
        jax.config.update("jax_enable_compilation_cache", False)  # programs may depend on it
    write, rewind, make = MetricWriter.write, MetricWriter.rewind, rlhf_jax.run.make_task

    def telling(self: MetricWriter, stage: str, step: int, metrics: Any) -> None:
        write(self, stage, step, metrics)
        mouth.send(("row", step))
        time.sleep(STEP)

    def beginning(self: MetricWriter, stage: str, step: int, **settings: Any) -> None:
        rewind(self, stage, step, **settings)
        mouth.send(("start", step))

    MetricWriter.write, MetricWriter.rewind = telling, beginning
    if log:
        rlhf_jax.run.make_task = functools.partial(_logging, make, log)
    tiny.launch(*words, report=False)


def _logging(make: Callable[..., Any], log: str, context: Any, stage: str) -> Any:
    task = make(context, stage)

    def step(state: Any, batch: Any) -> Any:
        line = json.dumps([int(state.step) + 1, examples_of(batch)]) + "\n"
        with open(log, "ab", buffering=0) as file:
            file.write(line.encode())
        return task.step(state, batch)

    return dataclasses.replace(task, step=step)


def examples_of(batch: Any) -> list[int]:
    """A number for each example of a batch: its place among all, or a checksum of a row of tokens."""
    batch = batch[0] if isinstance(batch, tuple) else batch
    batch = getattr(batch, "lists", batch)
    if hasattr(batch, "index"):
        return np.asarray(batch.index).tolist()
    return [zlib.crc32(np.asarray(row).tobytes()) for row in batch.ids]
