"""What is saved comes back bit for bit, on any sharding; what cannot come back says so in one line."""

import dataclasses
import errno
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf_jax.checkpoints import Checkpoints
from rlhf_jax.errors import UserError
from rlhf_jax.learners.optimizer import OptimizerSpec, make_optimizer
from rlhf_jax.learners.step import init_state
from rlhf_jax.parallel import Executor, MeshExecutor, PmapExecutor
from rlhf_jax.types import TrainState

OPTIMIZER = optax.adamw(0.1)


def make_state(width: int = 16, step: int = 3) -> TrainState:
    """A state with the paths that the partition rules split, moments and a key that are not at their start."""
    values = jax.random.normal(jax.random.key(step), (8, width))
    params = {"embedding": values, "layers": {"up": {"kernel": values[None] * 2}}, "final_norm": {"scale": values[0]}}
    state = init_state(params, OPTIMIZER, jax.random.fold_in(jax.random.key(5), step), {"beta": jnp.float32(0.1)})
    opt_state = OPTIMIZER.update(jax.tree.map(jnp.sin, params), state.opt_state, params)[1]
    return TrainState(jnp.int32(step), params, opt_state, state.key, state.extra)


def blank(width: int = 16) -> TrainState:
    return jax.tree.map(jnp.zeros_like, make_state(width))


def data(tree: Any) -> list[np.ndarray]:
    return [
        np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)
        for leaf in jax.tree.leaves(tree)
    ]


def assert_same(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(data(a), data(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def saved(directory: Path, *steps: int, **options: int) -> None:
    with Checkpoints(directory, **options) as checkpoints:
        for step in steps:
            checkpoints.save(make_state(step=step), {"batches": {"next": step}})


def test_a_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    saved(tmp_path / "c", 3)
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.latest() == 3
        state, meta = checkpoints.restore(3, blank())
    assert_same(state, make_state())
    assert meta == {"batches": {"next": 3}}
    # The key goes on where it would have.
    assert jax.random.normal(state.key) == jax.random.normal(make_state().key)


SHARDINGS = {
    "one": lambda: MeshExecutor(jax.devices()[:1]),
    "pmap": lambda: PmapExecutor(jax.devices()),
    "fsdp8": lambda: MeshExecutor(jax.devices(), fsdp=8),
    "mixed": lambda: MeshExecutor(jax.devices(), fsdp=2, tensor=4),
}


@pytest.mark.parametrize(
    ("before", "after"), [("fsdp8", "mixed"), ("mixed", "one"), ("one", "fsdp8"), ("fsdp8", "pmap")]
)
def test_a_state_comes_back_on_another_sharding(tmp_path: Path, before: str, after: str) -> None:
    then: Executor = SHARDINGS[before]()
    now: Executor = SHARDINGS[after]()
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(then.place(make_state(), "state"), {})
    like = now.place(blank(), "state")
    with Checkpoints(tmp_path / "c") as checkpoints:
        state, _ = checkpoints.restore(3, like)
    assert_same(state, make_state())
    for found, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(like), strict=True):
        assert found.sharding.is_equivalent_to(wanted.sharding, found.ndim)


@pytest.mark.parametrize("name", ["adafactor", "muon"])
def test_other_optimizers_go_on_as_if_they_had_never_stopped(tmp_path: Path, name: str) -> None:
    """Factored moments, momentum and counts: the next update is the same to the last bit, on another sharding."""
    optimizer = make_optimizer(OptimizerSpec(0.1, 20, weight_decay=0.1, name=name, factored_from=8))
    update = jax.jit(optimizer.update)

    def after(state: TrainState) -> TrainState:
        updates, opt_state = update(jax.tree.map(jnp.sin, state.params), state.opt_state, state.params)
        params = jax.tree.map(jnp.add, state.params, updates)
        return TrainState(state.step + 1, params, opt_state, state.key, {})

    start = init_state(make_state().params, optimizer, jax.random.key(5))
    begun = after(after(start))
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(SHARDINGS["fsdp8"]().place(begun, "state"), {})
    with Checkpoints(tmp_path / "c") as checkpoints:
        found, _ = checkpoints.restore(2, SHARDINGS["one"]().place(start, "state"))
    assert_same(found, begun)
    assert_same(after(found), after(begun))


def test_parameters_of_few_bits_come_back_bit_for_bit(tmp_path: Path) -> None:
    """The types of a quantised decoder, split over devices."""
    bits = np.random.default_rng(0).integers(0, 256, (2, 16, 8))
    layer = {"kernel_codes": jnp.asarray(bits, jnp.uint8), "kernel_scale": jnp.ones((2, 1, 8))}
    down = {"kernel_codes": jnp.asarray(bits - 128, jnp.int8), "kernel_scale": jnp.ones((2, 1, 8))}
    params = {"embedding": jnp.asarray(bits[0] / 7, jnp.bfloat16), "layers": {"up": layer, "down": down}}
    state = TrainState(jnp.int32(3), params, (), jax.random.key(0), {})
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(SHARDINGS["fsdp8"]().place(state, "state"), {})
    with Checkpoints(tmp_path / "c") as checkpoints:
        found, _ = checkpoints.restore(3, SHARDINGS["mixed"]().place(jax.tree.map(jnp.zeros_like, state), "state"))
        assert_same(checkpoints.read_params(3), params)
    assert_same(found, state)
    assert found.params["layers"]["down"]["kernel_codes"].addressable_shards[0].data.shape == (2, 4, 4)


def test_parameters_come_back_alone(tmp_path: Path) -> None:
    """From shapes and shardings only, without knowing the optimizer."""
    saved(tmp_path / "c", 3)
    executor = MeshExecutor(jax.devices(), fsdp=8)
    shapes = jax.eval_shape(lambda: make_state().params)
    like = jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        shapes,
        executor.shardings(shapes, "state"),
    )
    with Checkpoints(tmp_path / "c") as checkpoints:
        params = checkpoints.restore_params(3, like)
    assert_same(params, make_state().params)
    assert params["embedding"].addressable_shards[0].data.shape == (8, 2)


def one_line(error: pytest.ExceptionInfo[UserError], *parts: str) -> None:
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 500
    assert all(part in message for part in parts), message


def test_another_width_is_told_in_one_line(tmp_path: Path) -> None:
    saved(tmp_path / "c", 3)
    with Checkpoints(tmp_path / "c") as checkpoints:
        with pytest.raises(UserError) as whole:
            checkpoints.restore(3, blank(width=8))
        with pytest.raises(UserError) as part:
            checkpoints.restore_params(3, blank(width=8).params)
    for error in (whole, part):
        one_line(error, str(tmp_path / "c" / "3"), "cannot be restored")


def without_norm(params: dict) -> dict:
    return {name: leaf for name, leaf in params.items() if name != "final_norm"}


def with_more(params: dict) -> dict:
    return {**params, "head": {"kernel": jnp.zeros(16)}}


@pytest.mark.parametrize("change", [without_norm, with_more])
def test_another_model_is_told_in_one_line(tmp_path: Path, change: Any) -> None:
    saved(tmp_path / "c", 3)
    with Checkpoints(tmp_path / "c") as checkpoints, pytest.raises(UserError) as error:
        checkpoints.restore_params(3, change(blank().params))
    one_line(error, "cannot be restored")


def test_nothing_saved_is_a_start_from_scratch(tmp_path: Path) -> None:
    with Checkpoints(tmp_path / "new" / "c") as checkpoints:
        assert checkpoints.latest() is None


def test_what_a_killed_run_was_writing_is_ignored(tmp_path: Path) -> None:
    """A step is written under a temporary name: with it alone a run starts anew, beside a whole step it counts for
    nothing.
    """
    saved(tmp_path / "one", 3)
    half = tmp_path / "half"
    shutil.copytree(tmp_path / "one" / "3", half / "5.orbax-checkpoint-tmp-17")
    with Checkpoints(half) as checkpoints:
        assert checkpoints.latest() is None
    shutil.copytree(tmp_path / "one" / "3", tmp_path / "one" / "5.orbax-checkpoint-tmp-17")
    with Checkpoints(tmp_path / "one") as checkpoints:
        assert checkpoints.latest() == 3


def test_a_directory_that_cannot_be_read_is_no_start_from_scratch(tmp_path: Path) -> None:
    (tmp_path / "c" / "step_three").mkdir(parents=True)
    with Checkpoints(tmp_path / "c") as checkpoints, pytest.raises(UserError) as error:
        checkpoints.latest()
    one_line(error, str(tmp_path / "c"), "not empty", "move it away")


@pytest.mark.parametrize("lost", ["params", "rest", "meta", "rest/d", "params/manifest.ocdbt"])
def test_a_damaged_step_is_told_in_one_line(tmp_path: Path, lost: str) -> None:
    saved(tmp_path / "c", 3)
    path = tmp_path / "c" / "3" / lost
    assert path.exists()
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    with Checkpoints(tmp_path / "c") as checkpoints, pytest.raises(UserError) as error:
        checkpoints.restore(checkpoints.latest() or 0, blank())
    one_line(error, str(tmp_path / "c"))


def test_truncated_arrays_are_told_in_one_line(tmp_path: Path) -> None:
    saved(tmp_path / "c", 3)
    for path in (tmp_path / "c" / "3").rglob("d/*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with Checkpoints(tmp_path / "c") as checkpoints, pytest.raises(UserError) as error:
        checkpoints.restore(3, blank())
    one_line(error, str(tmp_path / "c"))


@pytest.mark.parametrize("keep", [1, 2])
def test_the_newest_steps_are_kept(tmp_path: Path, keep: int) -> None:
    saved(tmp_path / "c", 1, 2, 5, 9, keep=keep)
    assert sorted(int(path.name) for path in (tmp_path / "c").iterdir()) == [1, 2, 5, 9][-keep:]


@pytest.mark.parametrize("donate", [(), (0,)])
def test_a_step_right_after_a_save_does_not_touch_what_is_saved(tmp_path: Path, donate: tuple[int, ...]) -> None:
    """Large enough that the writing is still going on when the arrays are overwritten."""

    def large(step: int) -> TrainState:
        params = {"embedding": jnp.full((1024, 1024), 1.0)}
        return TrainState(jnp.int32(step), params, jax.tree.map(jnp.copy, params), jax.random.key(0), {})

    @partial(jax.jit, donate_argnums=donate)
    def step(state: TrainState) -> TrainState:
        params = jax.tree.map(lambda x: x + 1, state.params)
        return TrainState(state.step + 1, params, jax.tree.map(lambda x: x * 3, params), state.key, {})

    state = step(large(0))
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(state, {})
        for _ in range(5):
            state = step(state)
        jax.block_until_ready(state)
    with Checkpoints(tmp_path / "c") as checkpoints:
        found, _ = checkpoints.restore(1, large(0))
    np.testing.assert_array_equal(found.params["embedding"], 2.0)
    np.testing.assert_array_equal(found.opt_state["embedding"], 6.0)


def test_who_reads_leaves_alone_what_a_run_is_saving(tmp_path: Path) -> None:
    saved(tmp_path, 3)
    half = tmp_path / "4.orbax-checkpoint-tmp"
    (half / "params").mkdir(parents=True)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() == 3
        checkpoints.read_params(3)
    assert (half / "params").is_dir()
    saved(tmp_path, 5, keep=2)
    assert not half.exists()


def test_another_type_is_refused_by_name(tmp_path: Path) -> None:
    """Orbax would cast it without a word."""
    saved(tmp_path / "c", 3)
    like = blank()
    like.params["final_norm"]["scale"] = like.params["final_norm"]["scale"].astype(jnp.bfloat16)
    with Checkpoints(tmp_path / "c") as checkpoints, pytest.raises(UserError) as error:
        checkpoints.restore(3, like)
    one_line(error, "params.final_norm.scale: float32[16] -> bfloat16[16]")


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


def break_step(directory: Path, step: int) -> None:
    """One bit of the checksum of an array, as if the array had another."""
    path = directory / str(step) / "digest" / "metadata"
    flip(path, path.read_bytes().index(b"float32", 0) + 20)


def test_a_damaged_step_is_set_aside_again_and_again(tmp_path: Path) -> None:
    """It keeps its content under another name, and its number can be saved anew."""
    folder = tmp_path / "c"
    saved(folder, 2, 4)
    for name in ("4.corrupt", "4.corrupt.2"):
        break_step(folder, 4)
        broken = (folder / "4" / "digest" / "metadata").read_bytes()
        with Checkpoints(folder) as checkpoints:
            found = checkpoints.restore_newest(blank())
            assert found is not None
            assert found.step == 2
            (note,) = found.notes
            assert str(folder / "4") in note
            assert f"kept as {name}" in note
            assert checkpoints.latest() == 2
            assert (folder / name / "digest" / "metadata").read_bytes() == broken
            checkpoints.save(make_state(step=4), {"batches": {"next": 4}})
            checkpoints.wait()
            assert checkpoints.latest() == 4
    with Checkpoints(folder) as checkpoints:
        whole = checkpoints.restore_newest(blank())
        assert whole is not None
        assert (whole.step, whole.notes) == (4, ())
        checkpoints.save(make_state(step=6), {})
    assert sorted(path.name for path in folder.iterdir()) == ["4", "4.corrupt", "4.corrupt.2", "6"]


def test_where_no_sound_step_is_left_the_run_does_not_begin_anew(tmp_path: Path) -> None:
    """The last one stays where it is, and is refused again."""
    folder = tmp_path / "c"
    saved(folder, 2, 4)
    break_step(folder, 2)
    break_step(folder, 4)
    for _ in range(2):
        with Checkpoints(folder) as checkpoints, pytest.raises(UserError) as error:
            checkpoints.restore_newest(blank())
        one_line(error, str(folder / "2"), "no step before it is left", f"move {folder} away")
        assert sorted(path.name for path in folder.iterdir()) == ["2", "4.corrupt"]


def test_damaged_parameters_of_another_run_are_refused_and_stay(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    saved(folder, 2, 4)
    break_step(folder, 4)
    with Checkpoints(folder) as checkpoints:
        for read in (lambda: checkpoints.read_params(4), lambda: checkpoints.restore_params(4, blank().params)):
            with pytest.raises(UserError) as error:
                read()
            one_line(error, str(folder / "4"), "damaged", "move that folder away")
    assert sorted(path.name for path in folder.iterdir()) == ["2", "4"]


IDENTITY = {"stage": "sft", "data": "a" * 64, "config": {"sft.steps": 3, "seed": 1}}


@pytest.mark.parametrize(
    ("other", "said", "accept"),
    [
        ({"data": "b" * 64}, "data: aaaaaaaaaaaa... -> bbbbbbbbbbbb...", "data"),
        ({"config": {"sft.steps": 3}}, "config.seed: 1 -> default", "config"),
        ({"data": "b" * 64, "config": {"sft.steps": 4, "seed": 1}}, "config.sft.steps: 3 -> 4", "config,data"),
        ({"stage": "reward"}, "stage: 'sft' -> 'reward'", ""),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_unless_that_is_accepted(
    tmp_path: Path, other: dict, said: str, accept: str
) -> None:
    folder, now = tmp_path / "c", {**IDENTITY, **other}
    with Checkpoints(folder, identity=IDENTITY) as checkpoints:
        checkpoints.save(make_state(), {})
    with Checkpoints(folder, identity=now, accept=()) as checkpoints, pytest.raises(UserError) as error:
        checkpoints.restore_newest(blank())
    one_line(error, str(folder / "3"), said)
    assert ("--config.checkpoint.accept=" in str(error.value)) == bool(accept)
    if accept:
        assert str(error.value).endswith(f"--config.checkpoint.accept={accept}")
        with Checkpoints(folder, identity=now, accept=accept.split(",")) as checkpoints:
            found = checkpoints.restore_newest(blank())
            assert found is not None
            assert any(note.endswith(f"accepted: {said}") for note in found.notes)
            checkpoints.save(dataclasses.replace(make_state(), step=jnp.int32(4)), {})
        with Checkpoints(folder, identity=now, accept=()) as checkpoints:
            again = checkpoints.restore_newest(blank())
            assert again is not None
            assert again.notes == ()


def test_a_later_format_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf_jax.checkpoints.store.FORMAT", 2)
    saved(tmp_path / "c", 3)
    monkeypatch.undo()
    with Checkpoints(tmp_path / "c") as checkpoints, pytest.raises(UserError) as error:
        checkpoints.restore_newest(blank())
    one_line(error, "format 2, and this version reads 1")
    assert (tmp_path / "c" / "3").is_dir()


@pytest.mark.parametrize(
    ("item", "old", "new"),
    [("meta", b'"next": 4', b'"next": 5'), ("digest", b'"stage": "sft"', b'"stage": "ppo"')],
)
def test_what_is_saved_beside_the_arrays_is_checked_too(tmp_path: Path, item: str, old: bytes, new: bytes) -> None:
    """Still JSON, and nothing else would notice."""
    folder = tmp_path / "c"
    with Checkpoints(folder, identity={"stage": "sft"}) as checkpoints:
        for step in (2, 4):
            checkpoints.save(make_state(step=step), {"batches": {"next": step}})
    path = folder / "4" / item / "metadata"
    assert path.read_bytes().count(old) == 1
    path.write_bytes(path.read_bytes().replace(old, new))
    with Checkpoints(folder) as checkpoints:
        found = checkpoints.restore_newest(blank())
    assert found is not None
    assert found.step == 2
    assert f"damaged: {item}: " in found.notes[0]


@pytest.mark.parametrize(
    "error",
    [MemoryError(), OSError(errno.ESTALE, "Stale file handle"), RuntimeError("RESOURCE_EXHAUSTED: out of memory")],
    ids=lambda error: type(error).__name__,
)
def test_a_disk_that_is_gone_or_memory_that_is_short_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """What was saved may be sound: it is left where it is, and the error goes on to who tells of it."""
    saved(tmp_path / "c", 2, 4)

    def failing(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr("orbax.checkpoint.StandardCheckpointHandler.restore", failing)
    with Checkpoints(tmp_path / "c") as checkpoints, pytest.raises(type(error)):
        checkpoints.restore_newest(blank())
    monkeypatch.undo()
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.latest() == 4
        assert_same(checkpoints.restore(4, blank())[0], make_state(step=4))


def test_a_step_that_its_run_removes_meanwhile_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "c", 4)

    def removed(*_: Any, **__: Any) -> Any:
        shutil.rmtree(tmp_path / "c" / "4")
        raise FileNotFoundError("4")

    with Checkpoints(tmp_path / "c") as checkpoints:
        monkeypatch.setattr("orbax.checkpoint.StandardCheckpointHandler.restore", removed)
        with pytest.raises(UserError) as error:
            checkpoints.restore_params(4, blank().params)
    one_line(error, "was removed while it was read")


def test_whoever_goes_back_to_a_damaged_step_goes_further_back(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    saved(tmp_path / "c", 2, 4, 6, keep=3)
    break_step(tmp_path / "c", 4)
    with Checkpoints(tmp_path / "c") as checkpoints:
        found = checkpoints.go_back(5, blank())
        assert (found.step, found.meta) == (2, {"batches": {"next": 2}})
        with pytest.raises(UserError) as error:
            checkpoints.go_back(1, blank())
        one_line(error, "no step up to 1 is left to go back to")
        assert checkpoints.latest() == 2
    assert "kept as 4.corrupt" in capsys.readouterr().out
