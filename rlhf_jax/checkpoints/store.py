"""Checkpoints on disk, by Orbax: asynchronous, atomic, and with all that a resumed run needs.

A step holds four items, so that parameters can be read without the optimizer: ``params``, ``rest`` (step, optimizer
state, random key, the learner's own scalars), ``meta`` (JSON: the data iterator's state) and ``digest`` (JSON: the
format, what the checkpoint was made by, and the type, shape and checksum of every array and of ``meta``). Nothing else
in the house touches this format.

Orbax itself knows no checksums: of 300 checkpoints with one bit flipped it restores most without a word.
"""

import contextlib
import dataclasses
import functools
import logging
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from rlhf_jax import foreign
from rlhf_jax.checkpoints.digest import Leaf, digest, fingerprint, forms, from_json, plain, to_json
from rlhf_jax.checkpoints.identity import refuse
from rlhf_jax.console import clean_text, say
from rlhf_jax.errors import UserError
from rlhf_jax.parallel import all_say, is_first, wait_for_all
from rlhf_jax.resources import what_ran_out
from rlhf_jax.types import Params, TrainState

FORMAT = 1  # of what a step holds; one that is released stays readable
SHOWN = 8  # arrays that an error names
UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of a step that is being saved
T = TypeVar("T")


class Damaged(UserError):
    """A checkpoint that is not what was saved, or cannot be read."""


@dataclasses.dataclass(frozen=True)
class Restored:
    """What a run goes on from; ``notes`` say what was passed over or accepted on the way."""

    step: int
    state: TrainState
    meta: dict[str, Any]
    notes: tuple[str, ...]


def quiet_orbax() -> None:
    """Keep Orbax's progress notes out of a run's output, and the errors that it raises from being told twice."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", message="coroutine .* was never awaited", category=RuntimeWarning)
    _quiet_leftovers()
    warnings.filterwarnings("ignore", message=".*[Ss]harding.*", module="orbax.*")


@functools.cache
def _quiet_leftovers() -> None:
    """Reading a damaged checkpoint fails in many tasks at once. Orbax hears one of them, and closes its event loop; the
    others would print their tracebacks when they are collected, or when they find the loop closed.
    """
    logging.getLogger("asyncio").addFilter(lambda record: "exception was never retrieved" not in record.getMessage())
    others = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        code = getattr(unraisable.object, "cr_code", None)  # of a coroutine
        late = code is not None and "orbax" in code.co_filename
        if not late and str(unraisable.exc_value) != "Event loop is closed":
            others(unraisable)

    sys.unraisablehook = hook


def remove_unfinished(directory: Path) -> None:
    """Remove what was cut off in a save, of which there may be nothing."""
    for half_done in directory.glob(f"*{UNFINISHED}*"):
        shutil.rmtree(half_done, ignore_errors=True)


def _items(state: TrainState) -> dict[str, Any]:
    rest = {"step": state.step, "opt_state": state.opt_state, "key": state.key, "extra": state.extra}
    return {"params": state.params, "rest": rest}


class Checkpoints:
    """The checkpoints of one stage of one run."""

    def __init__(
        self,
        directory: Path | str,
        *,
        keep: int | None = None,
        identity: Mapping[str, Any] | None = None,
        accept: Sequence[str] | None = None,
    ) -> None:
        """Open (and create) the directory. ``keep`` newest steps survive, and what was cut off in a save goes; None, of
        which two survive, is for whoever reads: the run may be under way, and what it is saving is left alone.

        ``identity`` is written into every step, and whatever is restored must have the same (see identity.py), but for
        what ``accept`` names; None where nobody is to be told of that way out.
        """
        quiet_orbax()
        self.directory = Path(directory).absolute()
        self._identity, self._accept = plain(dict(identity or {})), accept
        if keep is not None and is_first():
            # Not by Orbax, which would do it behind our back and give up where another has been faster.
            remove_unfinished(self.directory)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.LatestN(2 if keep is None else keep),
            lightweight_initialize=True,  # or files of damaged steps would be read here
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def latest(self) -> int | None:
        """The newest complete step, None before the first; those set aside as damaged do not count.

        Raises:
          UserError: the directory holds something, but no step that can be read as one.
        """
        step = self._manager.latest_step()
        strangers = [p for p in self.directory.iterdir() if UNFINISHED not in p.name]
        if step is None and strangers:
            raise UserError(f"{self.directory}: not empty, but no checkpoint in it can be read; move it away")
        return step

    def save(self, state: TrainState, meta: dict[str, Any]) -> None:
        """Begin to write the state's step; the arrays are copied before this returns, the writing goes on behind."""
        items = _items(state)
        about: dict[str, Any] = {
            "format": FORMAT,
            "identity": self._identity,
            "meta": fingerprint(meta),
            **{name: to_json(digest(tree)) for name, tree in items.items()},
        }
        about["digest"] = fingerprint(about)
        self._manager.save(
            int(state.step),
            args=ocp.args.Composite(
                **{name: ocp.args.StandardSave(tree) for name, tree in items.items()},
                meta=ocp.args.JsonSave(meta),
                digest=ocp.args.JsonSave(about),
            ),
        )

    def restore_newest(self, like: TrainState) -> Restored | None:
        """The newest step that is what was saved, None before the first; see ``restore``.

        Damaged steps that are newer are renamed to STEP.corrupt, and are never looked at again.

        Raises:
          UserError: no step is sound, or the newest that is does not fit; names the one and what differs.
        """
        notes: list[str] = []
        while (step := self.latest()) is not None:
            try:
                found = self._restored(step, like)
            except Damaged as error:
                if step == min(self._manager.all_steps()):
                    text = f"{error}; no step before it is left: move {self.directory} away to begin the stage anew"
                    raise UserError(text) from error
                kept = self._set_aside(step)
                notes.append(f"{error}; kept as {kept}, going on from the step before")
                continue
            return dataclasses.replace(found, notes=(*notes, *found.notes))
        return None

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The state of ``step``, with the shapes, types and shardings of ``like``, and what was saved with it.

        Raises:
          Damaged: it is not what was saved.
          UserError: it does not fit, or was made by another run.
        """
        found = self._restored(step, like)
        return found.state, found.meta

    def _restored(self, step: int, like: TrainState) -> Restored:
        items = _items(like)
        about, notes = self._about(step, items)

        def checked(folder: Any) -> dict[str, Any]:
            meta = ocp.JsonCheckpointHandler().restore(folder)
            if fingerprint(meta) != about["meta"]:
                raise ValueError("its checksum differs")
            return meta

        meta = self._read(step, "meta", checked)
        found = {name: self._arrays(step, name, tree, about) for name, tree in items.items()}
        rest = found["rest"]
        state = TrainState(rest["step"], found["params"], rest["opt_state"], rest["key"], rest["extra"])
        return Restored(step, state, meta, notes)

    def go_back(self, step: int, like: TrainState) -> Restored:
        """``restore_newest`` of ``step`` and those before it; all later ones are deleted.

        Raises:
          UserError: there is none, or none that is sound.
        """
        self.wait()
        found = None
        if any(one <= step for one in self._manager.all_steps()):
            self.drop(lambda one: one > step)
            found = self.restore_newest(like)
        if found is None:
            raise UserError(f"{self.directory}: no step up to {step} is left to go back to")
        for note in found.notes:
            say(note)
        return found

    def drop(self, unwanted: Callable[[int], bool]) -> None:
        """Delete the steps that are."""
        self.wait()
        for step in self._manager.all_steps():
            if unwanted(step):
                self._manager.delete(step)

    def mark(self, step: int) -> str:
        """What tells this step from all others that were ever saved."""
        return f"step {step} {fingerprint(self._about(step, {})[0])[:16]}"

    def restore_params(self, step: int, like: Params) -> Params:
        """Only the parameters of ``step``, placed as ``like`` (arrays or shapes with shardings).

        Raises:
          Damaged: they are not what was saved.
          UserError: they do not fit, or were made by another run.
        """
        with _with_advice():
            about, notes = self._about(step, {"params": like})
            for note in notes:  # beside what is printed for a program to read
                print(clean_text(note), file=sys.stderr)
            return self._arrays(step, "params", like, about)

    def read_params(self, step: int) -> Params:
        """The parameters of ``step`` as they were saved, all on the first device, wherever they were in training.

        Raises:
          Damaged: they are not what was saved.
          UserError: they were made by another run.
        """
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])

        def shapes(folder: Any) -> Any:
            saved = ocp.StandardCheckpointHandler().metadata(folder).tree
            return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), saved)

        with _with_advice():
            about, _ = self._about(step, {})
            like = self._read(step, "params", shapes)
            if _misfits("params", from_json(about["params"]), forms(like)):
                raise self._damaged(step, "params: its metadata differ")
            return self._arrays(step, "params", like, about)

    def wait(self) -> None:
        """Return when everything saved is on disk; raises what the writing raised."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait, and release the directory."""
        self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _about(self, step: int, wanted: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The digest of a step whose items fit what is wanted, and notes on what was accepted."""
        folder = self.directory / str(step)

        def checked(item: Any) -> dict[str, Any]:
            found = dict(ocp.JsonCheckpointHandler().restore(item))
            if found.pop("digest") != fingerprint(found):
                raise ValueError("its checksum differs")
            return found

        about = self._read(step, "digest", checked)
        if about["format"] != FORMAT:
            raise UserError(f"{folder}: has format {about['format']}, and this version reads {FORMAT}")
        notes = refuse(str(folder), about["identity"], self._identity, self._accept)
        for name, like in wanted.items():
            if misfits := _misfits(name, from_json(about[name]), forms(like)):
                more = f" and {len(misfits) - SHOWN} more" if len(misfits) > SHOWN else ""
                listed = "; ".join(misfits[:SHOWN]) + more
                raise UserError(f"{folder}: does not fit and cannot be restored (old -> new): {listed}")
        return about, notes

    def _arrays(self, step: int, name: str, like: Any, about: Mapping[str, Any]) -> Any:
        """An item of arrays, each of which is what was saved."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        found = self._read(
            step,
            name,
            lambda folder: ocp.StandardCheckpointHandler().restore(folder, args=ocp.args.StandardRestore(abstract)),
        )
        saved, own, said = from_json(about[name]), digest(found), ""
        if broken := [leaf for leaf in own if own[leaf] != saved[leaf]]:
            more = f" and {len(broken) - 1} more" if broken[1:] else ""
            first, wanted = own[broken[0]], saved[broken[0]]
            what = "another checksum than" if str(first) == str(wanted) else f"{first}, not {wanted} as"
            said = f"{name}.{broken[0]}{more}: {what} when it was saved"
        # Of an array that each process has whole, the copy of one alone may be another.
        if failed := next(filter(None, all_say("checked", said)), ""):
            raise self._damaged(step, failed)
        return found

    def _read(self, step: int, name: str, how: Callable[[Any], T]) -> T:
        """An item of a step.

        Raises Damaged, in all processes, whatever may have befallen one of them; and what says that a disk is gone or
        memory short as it is, for then the step may be sound.
        """
        found: T | None = None
        said, error = "", None
        try:
            # By the handler of the item: a manager waits for all processes, of which one may have failed.
            found = how(self._manager.directory / str(step) / name)
        except Exception as caught:  # Orbax and TensorStore raise whatever there is
            said, error = f"{name}: cannot be read: {foreign.said(caught)}", caught
        elsewhere = error is not None and what_ran_out(error, self.directory, "") is not None
        all_said = all_say("read", f"!{said}" if elsewhere else said)
        if error is not None and elsewhere:
            raise error
        if failed := next((one for one in all_said if one.startswith("!")), ""):
            raise UserError(f"{self.directory / str(step)}: in another process, {failed[1:]}")
        if failed := next(filter(None, all_said), ""):
            raise self._damaged(step, failed)
        return found  # type: ignore[return-value]

    def _damaged(self, step: int, what: str) -> UserError:
        if not (self.directory / str(step)).is_dir():
            return UserError(f"{self.directory / str(step)}: was removed while it was read, by the run; try again")
        return Damaged(f"{self.directory / str(step)}: damaged: {what}")

    def _set_aside(self, step: int) -> str:
        """Rename a step to what the manager takes for no step; returns the name."""
        taken = {path.name for path in self.directory.iterdir()}
        names = (f"{step}.corrupt", *(f"{step}.corrupt.{number}" for number in range(2, len(taken) + 2)))
        name = next(name for name in names if name not in taken)
        wait_for_all("set_aside")  # until all have seen which names are taken
        if is_first():
            try:
                (self.directory / str(step)).rename(self.directory / name)
            except OSError as error:
                text = f"damaged, and cannot be renamed to {name} ({error.strerror})"
                raise UserError(f"{self.directory / str(step)}: {text}") from error
        wait_for_all("set_aside")
        self._manager.reload()
        return name


@contextlib.contextmanager
def _with_advice() -> Iterator[None]:
    """Of a checkpoint that is only read here: nothing is renamed, and nothing else taken in its place unasked."""
    try:
        yield
    except Damaged as error:
        raise Damaged(f"{error}; to use the step before it, move that folder away") from error


def _misfits(item: str, saved: Mapping[str, Leaf], wanted: Mapping[str, Leaf]) -> list[str]:
    """The arrays whose type or shape is another, as "old -> new"."""
    both = {
        name: [str(tree[name]) if name in tree else "none" for tree in (saved, wanted)]
        for name in sorted(saved.keys() | wanted.keys())
    }
    return [f"{item}.{name}: {old} -> {new}" for name, (old, new) in both.items() if old != new]
