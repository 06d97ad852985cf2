"""Checkpoints on disk, by Orbax: asynchronous, atomic, and with all that a resumed run needs.

A step holds three items, so that parameters can be read without the optimizer: ``params``, ``rest`` (step, optimizer
state, random key, the learner's own scalars) and ``meta`` (JSON: the data iterator's state). Nothing else in the house
touches this format.
"""

import logging
import warnings
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from rlhf_jax.errors import UserError
from rlhf_jax.types import Params, TrainState


def quiet_orbax() -> None:
    """Keep Orbax's progress notes out of a run's output, and the errors that it raises from being told twice."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", message=".*[Ss]harding.*", module="orbax.*")


def _rest(state: TrainState) -> dict[str, Any]:
    return {"step": state.step, "opt_state": state.opt_state, "key": state.key, "extra": state.extra}


class Checkpoints:
    """The checkpoints of one stage of one run."""

    def __init__(self, directory: Path | str, *, keep: int | None = None) -> None:
        """Open (and create) the directory. ``keep`` newest steps survive, and what was cut off in a save goes; None, of
        which two survive, is for whoever reads: the run may be under way, and what it is saving is left alone.
        """
        quiet_orbax()
        self.directory = Path(directory).absolute()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.LatestN(2 if keep is None else keep),
            cleanup_tmp_directories=keep is not None,
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def latest(self) -> int | None:
        """The newest complete step, None before the first.

        Raises:
          UserError: the directory holds something, but no step that can be read as one.
        """
        step = self._manager.latest_step()
        strangers = [p for p in self.directory.iterdir() if "orbax-checkpoint-tmp" not in p.name]
        if step is None and strangers:
            raise UserError(f"{self.directory}: not empty, but no checkpoint in it can be read; move it away")
        return step

    def save(self, state: TrainState, meta: dict[str, Any]) -> None:
        """Begin to write the state's step; the arrays are copied before this returns, the writing goes on behind."""
        self._manager.save(
            int(state.step),
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(state.params),
                rest=ocp.args.StandardSave(_rest(state)),
                meta=ocp.args.JsonSave(meta),
            ),
        )

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The state of ``step``, with the shapes, types and shardings of ``like``.

        Raises:
          UserError: the checkpoint does not fit.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, (like.params, _rest(like)))
        try:
            found = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardRestore(abstract[0]),
                    rest=ocp.args.StandardRestore(abstract[1]),
                    meta=ocp.args.JsonRestore(),
                ),
            )
        except (ValueError, KeyError, FileNotFoundError) as error:
            raise UserError(f"{self.directory / str(step)}: cannot be restored: {_first_line(error)}") from error
        rest = found["rest"]
        state = TrainState(rest["step"], found["params"], rest["opt_state"], rest["key"], rest["extra"])
        return state, found["meta"]

    def go_back(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """``restore`` of ``step``, or of the newest one before it that is left; all later ones are deleted."""
        self.wait()
        steps = sorted(self._manager.all_steps())
        step = max((one for one in steps if one <= step), default=steps[0])
        found = self.restore(step, like)
        self.drop_after(step)
        return found

    def drop_after(self, step: int) -> None:
        """Delete all later steps."""
        self.wait()
        for later in self._manager.all_steps():
            if later > step:
                self._manager.delete(later)

    def restore_params(self, step: int, like: Params) -> Params:
        """Only the parameters of ``step``, placed as ``like`` (arrays or shapes with shardings).

        Raises:
          UserError: the checkpoint does not fit.
        """
        try:
            found = self._manager.restore(step, args=ocp.args.Composite(params=ocp.args.StandardRestore(like)))
        except (ValueError, KeyError, FileNotFoundError) as error:
            raise UserError(f"{self.directory / str(step)}: cannot be restored: {_first_line(error)}") from error
        return found["params"]

    def read_params(self, step: int) -> Params:
        """The parameters of ``step`` as they were saved, all on the first device, wherever they were in training.

        Raises:
          UserError: the checkpoint cannot be read.
        """
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        try:
            with ocp.StandardCheckpointer() as reader:
                saved = reader.metadata(self.directory / str(step) / "params").item_metadata.tree
            like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), saved)
        except (ValueError, KeyError, OSError, AttributeError) as error:
            raise UserError(f"{self.directory / str(step)}: cannot be read: {_first_line(error)}") from error
        return self.restore_params(step, like)

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


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
