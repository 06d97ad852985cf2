"""What the stages of one run share: devices, data, tokenizer, and where parents' checkpoints are."""

import dataclasses
import filecmp
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import jax
from ml_collections import ConfigDict

from rlhf_jax.build.data import Data, fresh_tokenizer, load_data, run_tokenizer
from rlhf_jax.build.feedback import check_feedback, check_judgements
from rlhf_jax.build.language import check_separator, with_language
from rlhf_jax.build.lora import adapted, check_base
from rlhf_jax.build.pretrained import take_over_sizes
from rlhf_jax.build.shared import Shared
from rlhf_jax.build.sizes import check_lengths, check_model, check_rows, check_unpadding, notes_on
from rlhf_jax.build.specs import check_divergence, check_utilities, decoder_spec, ensemble_spec, settle_bounded
from rlhf_jax.checkpoints import Checkpoints, fingerprint
from rlhf_jax.config import (
    MEANS,
    adapter_problems,
    aggregate_problems,
    default_config,
    from_run,
    leaves,
    needed_parents,
    validate,
)
from rlhf_jax.console import say
from rlhf_jax.data.prepared import check_tokenizer, sha256_of, tokenizer_sha256
from rlhf_jax.data.tokenizers import Tokenizer, chat_template_in, save_tokenizer
from rlhf_jax.errors import UserError
from rlhf_jax.finite import not_finite
from rlhf_jax.foreign import MOST_JSON, check_file, check_run
from rlhf_jax.metrics import read_status, read_summary
from rlhf_jax.models import DecoderSpec, EnsembleSpec, init_decoder, init_reward_model, merge, unable
from rlhf_jax.parallel import Executor, MeshExecutor, PmapExecutor, first_goes_first, is_first
from rlhf_jax.types import DATA, FSDP, SEQUENCE, TENSOR, Params

# The number of each stage's random stream under one seed. A stage keeps its number, so that a new one moves no other.
STREAMS = {"sft": 0, "reward": 1, "reward_common": 2, "ppo": 3, "critique": 4, "segments": 5, "dpo": 6, "online": 7}


@dataclasses.dataclass(frozen=True)
class Context:
    """One run, ready to build its stages."""

    config: ConfigDict
    workdir: Path
    executor: Executor
    data: Data
    tokenizer: Tokenizer
    notes: tuple[str, ...] = ()
    read: dict[str, list[str]] = dataclasses.field(default_factory=dict)  # checkpoints that a stage has read, by stage

    def stage_key(self, stage: str) -> jax.Array:
        """The random key of a stage: stages of one seed share no randomness, and do not depend on their order."""
        return jax.random.fold_in(jax.random.key(self.config.seed), STREAMS[stage])


def make_executor(parallel: ConfigDict, devices: Sequence[jax.Device] | None = None) -> Executor:
    """The compiler of steps that ``config.parallel`` asks for, over the devices of all processes, or those given."""
    devices = jax.devices() if devices is None else devices
    if parallel.mode == "pmap":
        if jax.process_count() > 1:
            text = f"pmap runs in one process, and this run has {jax.process_count()}; choose mesh"
            raise UserError(f"config.parallel.mode: {text}")
        if parallel.data not in (-1, len(devices)):
            raise UserError(f"config.parallel.data: {parallel.data}, but there are {len(devices)} devices for pmap")
        return PmapExecutor(devices)
    try:
        return MeshExecutor(devices, **{axis: parallel[axis] for axis in (DATA, FSDP, TENSOR, SEQUENCE)})
    except ValueError as error:
        raise UserError(f"config.parallel: {error}") from error


def make_context(config: ConfigDict, workdir: Path, shared: Shared | None = None) -> Context:
    """Start the devices and read the data. Raises UserError when either is not to be had."""
    executor = shared.executor(config.parallel, make_executor) if shared else make_executor(config.parallel)
    check_sizes(config, executor)
    check_utilities(config)
    check_divergence(config)
    check_base(config)
    tokenizer, rejects = None, workdir / "rejects.jsonl" if is_first() else None
    if config.data.chat:  # what its template cannot render are bad rows
        with first_goes_first("tokenizer"):
            tokenizer = _tokenizer(config, workdir, None)
    read = partial(load_data, config, rejects, tokenizer=tokenizer)
    data = with_language(config, shared.data(config, read) if shared else read())
    check_feedback(config, data.lists)
    check_judgements(config, data.lists)
    if tokenizer is None:  # one may be learned from the data
        with first_goes_first("tokenizer"):
            tokenizer = _tokenizer(config, workdir, data)
    check_separator(config, tokenizer)
    check_tokenizer(config.data.path, tokenizer)
    notes = notes_on(decoder_spec(config.model, tokenizer.vocab_size), config.parallel)
    return Context(config, workdir, executor, data, tokenizer, notes)


def check_sizes(config: ConfigDict, executor: Executor) -> None:
    """See that the devices can share batches, rows and models of every stage, before the first one is trained.

    Raises:
      UserError: they cannot; names the key, and what would do.
    """
    check_rows(config, executor.row_shards)
    check_lengths(config)
    check_unpadding(config, executor.mesh.size)
    models = {"model": decoder_spec(config.model, 1)}
    if config.parents.reward:
        models["parents.reward"] = decoder_spec(stage_model(config, "reward"), 1)
    kernel, here = config.model.attention, executor.mesh.devices.flat[0].platform
    for key, spec in models.items():
        if problem := unable(kernel, spec, here, executor.mesh.shape):
            of = "" if key == "model" else f" for config.{key}"
            raise UserError(f"config.model.attention: {kernel}{of} {problem}")
    fresh = not (config.model.path or config.parents.sft or config.parents.reward_start)
    check_model(models, config.parallel, executor.mesh.size, fresh=fresh)


def _tokenizer(config: ConfigDict, workdir: Path, data: Data | None) -> Tokenizer:
    """The run's own tokenizer if it has one, else its parents', else a fresh one, kept."""
    own = workdir / "tokenizer"
    if own.is_dir():
        return run_tokenizer(config, own)
    tokenizer = parents_tokenizer(config) or fresh_tokenizer(config, data)
    partial_copy = own.with_name("tokenizer.partial")
    save_tokenizer(tokenizer, partial_copy)
    partial_copy.rename(own)
    return tokenizer


def parents_tokenizer(config: ConfigDict) -> Tokenizer | None:
    """The tokenizer of the parent runs, None where there are none.

    Raises:
      UserError: a parent has no tokenizer, or two have different ones or, if they are read, different chat templates.
    """
    parents = [(name, Path(path) / "tokenizer") for name, path in config.parents.items() if path]
    for name, folder in parents:
        if not (folder / "tokenizer.json").is_file():
            raise UserError(f"config.parents.{name}: no tokenizer in {folder}")
    folders = [folder for _, folder in parents]
    for folder in folders[1:]:
        if not filecmp.cmp(folders[0] / "tokenizer.json", folder / "tokenizer.json", shallow=False):
            raise UserError(f"config.parents: {folders[0]} and {folder} hold different tokenizers")
        if config.data.chat and chat_template_in(folders[0]) != chat_template_in(folder):
            raise UserError(f"config.parents: {folders[0]} and {folder} hold different chat templates")
    return run_tokenizer(config, folders[0]) if folders else None


def inherit_model(config: ConfigDict) -> None:
    """Take over the model of the folder or the run that this run goes on from: its configuration says what it trains.
    And what only a file of the user's own can tell of the rewards is told there.

    Raises:
      UserError: the parent has no configuration, its model does not fit this run, or this run asks for another.
    """
    take_over_sizes(config)
    for stage in ("sft", "reward_start"):
        parent = config.parents[stage]
        if not parent:
            continue
        theirs = stage_config(config, stage).model
        compared = [key for key, _ in leaves(theirs) if key not in MEANS]
        if any(config.model[key] != default_config().model[key] for key in compared):
            for key in compared:
                own, other = config.model[key], theirs[key]
                if own != other:
                    raise UserError(f"config.model.{key}: {own}, but {parent} was trained with {other}")
        config.model.update({key: theirs[key] for key in compared})
    validate(config)
    for key, text in adapter_problems(config):
        raise UserError(f"config.{key}: {text}")
    _check_chat(config)
    _check_ensembles(config)
    settle_bounded(config)
    _check_finished(config)


def _check_finished(config: ConfigDict) -> None:
    """See that parent runs that left word of how they stand have ended the stage that they are named for."""
    for name, parent in config.parents.items():
        stage = _checkpoints_of(parent, name).name
        if not parent or not read_status(Path(parent)) or f"{stage}.steps" in read_summary(Path(parent)):
            continue
        text = f"config.parents.{name}: {parent} has not finished its stage {stage}"
        if "unfinished" not in config.checkpoint.accept:
            mend = "go on with it first, or set config.checkpoint.accept=unfinished to start from its newest checkpoint"
            raise UserError(f"{text}; {mend}")
        say(f"{text}, which is accepted")


def _check_chat(config: ConfigDict) -> None:
    """See that parent runs read dialogues as this one does: what ends a response, too, depends on it."""
    for name, parent in config.parents.items():
        if parent and stage_config(config, name).data.chat != config.data.chat:
            own, other = config.data.chat, not config.data.chat
            raise UserError(f"config.data.chat: {own}, but {parent} (config.parents.{name}) was trained with {other}")


def _check_ensembles(config: ConfigDict) -> None:
    """See that the ensembles of parent runs are those that this run goes on from or aggregates."""
    if config.parents.reward_start:
        for (key, own), (_, other) in zip(
            leaves(config.reward.ensemble), leaves(stage_config(config, "reward_start").reward.ensemble), strict=True
        ):
            if own != other and key != "bootstrap":
                raise UserError(
                    f"config.reward.ensemble.{key}: {own}, but {config.parents.reward_start} was trained with {other}"
                )
    if config.parents.reward:
        for key, text in aggregate_problems(config, stage_ensemble(config, "reward").members):
            raise UserError(f"config.{key}: {text}")


def made_by(context: Context, stage: str) -> dict[str, str]:
    """What a checkpoint of a stage must have been made by for this run to use it: the stage, and this run's tokenizer
    with its chat template, where that is read.
    """
    folder = context.workdir / "tokenizer"
    rules = folder / "tokenizer.json"  # the bytes: what is read back need not be written in the same way again
    mark = sha256_of(rules) if rules.is_file() else tokenizer_sha256(context.tokenizer)
    if context.config.data.chat:
        mark = fingerprint([mark, *chat_template_in(folder)])
    return {"stage": stage, "tokenizer": mark}


def stage_directory(context: Context, stage: str) -> Path:
    """Where the checkpoints of a stage are: this run's, or those of the parent run that the configuration names."""
    return _checkpoints_of(context.config.parents.get(stage, "") or context.workdir, stage)


def _checkpoints_of(run: str | Path, stage: str) -> Path:
    return Path(run) / "checkpoints" / ("reward" if stage == "reward_start" else stage)


def check_parents(config: ConfigDict) -> None:
    """Raise UserError if a stage starts from a parent run that has no checkpoints of what it is named for."""
    for parent in (name for stage in config.stages for name in needed_parents(config, stage)):
        run = config.parents[parent]
        if run and "://" not in run and not _checkpoints_of(run, parent).is_dir():
            raise UserError(f"config.parents.{parent}: no checkpoints in {_checkpoints_of(run, parent)}")


def stage_config(config: ConfigDict, stage: str) -> ConfigDict:
    """The configuration that a stage was or will be trained under: the parent run's, where one is named.

    Raises:
      UserError: the parent run has none.
    """
    parent = config.parents.get(stage, "")
    if not parent:
        return config
    path = Path(parent) / "config.json"
    if not path.is_file():
        raise UserError(f"config.parents.{stage}: {path} does not exist")
    return read_run(path.parent, f"config.parents.{stage}")[0]


def read_run(run: Path, key: str = "") -> tuple[ConfigDict, dict[str, str]]:
    """The configuration of a run, and the code that it names, by key, which is not run.

    Raises:
      UserError: it is no run, or its configuration none; begins with ``key``, which named it.
    """
    path, named = run / "config.json", f"{key}: " if key else ""
    try:
        check_run(run)
        check_file(path, MOST_JSON)
    except UserError as error:
        raise UserError(f"{named}{error}") from None
    try:
        return from_run(path.read_text(encoding="utf-8"))
    except (UserError, ValueError) as error:
        raise UserError(f"{named}{path}: {error}") from None


def stage_model(config: ConfigDict, stage: str) -> ConfigDict:
    """``config.model`` of a stage (of its parent, where it is taken from another run), by this run's own means."""
    model = stage_config(config, stage).model
    model.update({key: config.model[key] for key in MEANS})
    return model


def checked_run(context: Context, run: Path, key: str) -> ConfigDict:
    """The configuration of another run whose model is to read what this run samples.

    Raises:
      UserError: it is no run, or was trained with another tokenizer or chat template; begins with ``key``, which
        named it.
    """
    path = run / "config.json"
    if not path.is_file():
        raise UserError(f"{key}: {path} does not exist")
    config, _ = read_run(run, key)
    theirs, own = (folder / "tokenizer" / "tokenizer.json" for folder in (run, context.workdir))
    if not theirs.is_file() or not filecmp.cmp(theirs, own, shallow=False):
        raise UserError(f"{key}: {run} was trained with another tokenizer")
    asked, own_asked = config.data.chat, context.config.data.chat
    if asked != own_asked or (asked and chat_template_in(theirs.parent) != chat_template_in(own.parent)):
        raise UserError(f"{key}: {run} was trained with another config.data.chat or another chat template")
    config.model.update({name: context.config.model[name] for name in MEANS})
    return config


def stage_decoder(context: Context, stage: str) -> DecoderSpec:
    """The decoder of a stage (of its parent, where the stage is taken from another run)."""
    return decoder_spec(stage_model(context.config, stage), context.tokenizer.vocab_size)


def init_scored(spec: DecoderSpec, key: jax.Array) -> Params:
    """A fresh decoder with a scalar head: a reward or value model."""
    return init_reward_model(spec, key)


def stage_ensemble(config: ConfigDict, stage: str) -> EnsembleSpec:
    """How many reward models a reward stage trains together (its parent run's, where it is taken from another run)."""
    return ensemble_spec(stage_config(config, stage).reward)


def load_parent(context: Context, stage: str, spec: DecoderSpec) -> Params:
    """The parameters that ``stage`` ended with: a decoder (sft), or decoder and head (reward), of an ensemble all.

    Adapters that it trained are merged into their kernels.

    Raises:
      UserError: there is no checkpoint, or it does not fit the decoder.
    """
    members = stage_ensemble(context.config, stage)
    init = init_decoder if stage == "sft" else partial(init_reward_model, ensemble=members)
    trained_under, own = stage_config(context.config, stage), stage.removesuffix("_start")
    made = adapted(trained_under, own, partial(init, spec), members)
    named = f"config.parents.{stage}" if context.config.parents.get(stage) else str(context.workdir)
    return merge(restore(context, stage_directory(context, stage), named, made))


def restore(context: Context, directory: Path, named: str, init: Callable[[jax.Array], Params]) -> Params:
    """The last parameters in a folder of checkpoints, of the shapes that ``init`` would make.

    Raises:
      UserError: there is no checkpoint (begins with ``named``, the key that led there), or the newest is damaged, has
        other shapes, was made by another stage or with another tokenizer, or holds numbers that are not finite.
    """
    if not directory.is_dir():
        raise UserError(f"{named}: no checkpoints in {directory}")
    shapes = jax.eval_shape(init, jax.random.key(0))
    try:
        shardings = context.executor.shardings(shapes, "state")
    except ValueError as error:
        raise UserError(f"{named}: {error}") from None
    like = jax.tree.map(lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), shapes, shardings)
    made, accept = made_by(context, directory.name), context.config.checkpoint.accept
    with Checkpoints(directory, identity=made, accept=accept) as checkpoints:
        step = checkpoints.latest()
        if step is None:
            raise UserError(f"{named}: no checkpoints in {directory}")
        params = checkpoints.restore_params(step, like)
        context.read.setdefault(directory.name, []).append(checkpoints.mark(step))
    if bad := not_finite(params):
        raise UserError(f"{named}: {directory / str(step)}: {', '.join(bad[:3])}: not finite; train that model anew")
    return params
