"""The programs of a run before anything is made: the shapes that each takes, and what lies on the devices meanwhile."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from rlhf_jax.build.answers import answering, has_judge
from rlhf_jax.build.context import (
    Context,
    check_parents,
    check_sizes,
    make_executor,
    parents_tokenizer,
    stage_config,
    stage_decoder,
    stage_ensemble,
)
from rlhf_jax.build.data import Data, fresh_tokenizer, load_data
from rlhf_jax.build.dpo import dpo_learning, preference_spec
from rlhf_jax.build.lora import adapted, lora_spec
from rlhf_jax.build.online import online_learning
from rlhf_jax.build.plan import HEAD_ROWS
from rlhf_jax.build.ppo import first_extra, ppo_programs
from rlhf_jax.build.ppo_models import forms_of, frozen_of, start_of, with_one_trunk
from rlhf_jax.build.pretrained import folder_of
from rlhf_jax.build.programs import Program
from rlhf_jax.build.reference import reading
from rlhf_jax.build.reward import reward_learning
from rlhf_jax.build.sft import sft_learning, sft_sampling
from rlhf_jax.build.specs import check_divergence, check_utilities, decoder_spec, ensemble_spec, reward_spec
from rlhf_jax.build.work import Work, backward, decoding, reading_lists, reading_rows
from rlhf_jax.data.tokenizers import Tokenizer
from rlhf_jax.errors import UserError
from rlhf_jax.learners.step import Part, init_state
from rlhf_jax.models import DecoderSpec, hf, init_decoder, init_reward_model, shares_prompts, trained, without_adapters
from rlhf_jax.parallel import Executor, Kind
from rlhf_jax.types import SEQUENCE, Params, PreferenceBatch, PromptBatch, RankBatch, TokenBatch, TrainState

Shapes = Any  # a tree of jax.ShapeDtypeStruct


@dataclasses.dataclass(frozen=True)
class Planned:
    """A program with the shapes of its arguments, in its order.

    ``resident`` is all that lies on the devices while it runs, by name, arguments or not: ``parameters``,
    ``optimizer``, ``frozen``, ``batch``. ``cache`` is one array of a key-value cache, None without one. ``work`` is
    what the mathematics asks for.
    """

    program: Program
    arguments: tuple[Shapes, ...]
    resident: dict[str, Shapes]
    work: Work
    cache: jax.ShapeDtypeStruct | None = None


def plan_context(config: ConfigDict, devices: Sequence[jax.Device]) -> Context:
    """A context for ``devices`` that may be of another machine, after a look at the head of the data.

    Raises:
      UserError: the devices cannot be used so, the head of the data holds a bad row, or something is not to be had.
    """
    if config.parallel.mode != "mesh":
        raise UserError(f"config.parallel.mode: {config.parallel.mode} is not planned; a plan is of mesh")
    executor = make_executor(config.parallel, devices)
    check_sizes(config, executor)
    check_utilities(config)
    check_divergence(config)
    check_parents(config)
    tokenizer = _tokenizer(config, None) if config.data.chat else None  # whose template the rows are read by
    data = load_data(config, limit=HEAD_ROWS, tokenizer=tokenizer)
    return Context(config, Path(), executor, data, tokenizer or _tokenizer(config, data))


def _tokenizer(config: ConfigDict, data: Data | None) -> Tokenizer:
    """The tokenizer of a run, or something of its size: the head of the data is too short to learn one from, and a
    folder may hold a configuration alone.
    """
    known = parents_tokenizer(config)
    if known is not None:
        return known
    if config.tokenizer.kind == "bpe":
        size = config.tokenizer.vocab_size
        return Tokenizer(None, pad_id=size - 2, eos_id=size - 1, vocab_size=size)
    path = config.model.path
    if path and not config.tokenizer.path and Path(path).is_dir() and not list(Path(path).glob("*token*")):
        size = hf.read_spec(folder_of(path, weights=False)).vocab_size
        return Tokenizer(None, pad_id=size - 2, eos_id=size - 1, vocab_size=size)
    return fresh_tokenizer(config, data)


def planned(context: Context, stage: str) -> Iterator[Planned]:
    """The programs of one stage that take time and memory: its update, and where it samples or reads by others, those.

    Raises:
      UserError: the stage is one that is not planned.
    """
    makers: dict[str, Callable[[Context, str], Iterator[Planned]]] = {
        "sft": _sft,
        "reward": _reward,
        "reward_common": _reward,
        "ppo": _ppo,
        "dpo": _dpo,
        "online": _online,
    }
    if stage not in makers:
        raise UserError(f"config.stages: {stage} is not planned; name the others by --config.stages={','.join(makers)}")
    return makers[stage](context, stage)


# ------------------------------------------------------------------------- shapes


def abstract(executor: Executor, tree: Any, kind: Kind) -> Shapes:
    """The shapes of a tree of arrays or shapes, each with the place that the executor gives it."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place, weak_type=leaf.weak_type),
        tree,
        executor.shardings(tree, kind),
    )


def _key() -> Shapes:
    return jax.eval_shape(lambda: jax.random.key(0))


def _rows(executor: Executor, make: Callable[..., Any], *sizes: int) -> Shapes:
    """The shapes of a batch that ``make`` would make of zeros."""
    return abstract(executor, jax.eval_shape(partial(make, *sizes)), "rows")


def token_rows(rows: int, length: int) -> TokenBatch:
    """Packed rows."""
    numbers = jnp.zeros((rows, length), jnp.int32)
    return TokenBatch(numbers, numbers, numbers, jnp.zeros((rows, length), bool), jnp.zeros(rows, jnp.int32))


def ranked_lists(rows: int, columns: int, prompt: int, response: int) -> RankBatch:
    """Ranked lists, as wide as batches get."""
    each, pairs = partial(jnp.zeros, (rows, columns)), jnp.zeros((rows, columns, columns), bool)
    one = partial(jnp.zeros, (rows,))
    return RankBatch(
        prompt_ids=jnp.zeros((rows, prompt), jnp.int32),
        prompt_mask=jnp.zeros((rows, prompt), bool),
        ids=jnp.zeros((rows, columns, response), jnp.int32),
        mask=jnp.zeros((rows, columns, response), bool),
        ranks=each(jnp.int32),
        response_mask=each(bool),
        utility=one(jnp.int32),
        better=pairs,
        tied=pairs,
        margin=one(jnp.float32),
        weight=one(jnp.float32),
        labels=each(jnp.float32),
        scores=each(jnp.float32),
        index=one(jnp.int32),
    )


def preference_lists(rows: int, columns: int, prompt: int, response: int) -> PreferenceBatch:
    """Lists that a policy is trained on."""
    known = jnp.zeros((rows, columns), jnp.float32)
    return PreferenceBatch(ranked_lists(rows, columns, prompt, response), known)


def prompt_rows(rows: int, length: int) -> PromptBatch:
    """Prompts to be answered."""
    numbers = jnp.zeros((rows,), jnp.int32)
    return PromptBatch(jnp.zeros((rows, length), jnp.int32), jnp.zeros((rows, length), bool), numbers, numbers)


def _state(
    executor: Executor,
    optimizer: optax.GradientTransformation,
    params: Shapes,
    extra: Any = None,
    part: Part = trained,
) -> TrainState:
    made = jax.eval_shape(
        lambda params, key, extra: init_state(params, optimizer, key, extra, part),
        params,
        _key(),
        extra or {},
    )
    return abstract(executor, made, "state")


def _made(config: ConfigDict, stage: str, init: Callable[[jax.Array], Params], *form: Any) -> Shapes:
    return jax.eval_shape(adapted(config, stage, init, *form), _key())


def _apart(frozen: Any, params: Any) -> list[Any]:
    """The leaves of ``frozen`` that are not leaves of ``params``: what has memory of its own."""
    own = {id(leaf) for leaf in jax.tree.leaves(params)}
    return [leaf for leaf in jax.tree.leaves(frozen) if id(leaf) not in own]


def _resident(state: TrainState, frozen: Any = None, batch: Any = None) -> dict[str, Shapes]:
    return {
        "parameters": state.params,
        "optimizer": state.opt_state,
        "frozen": _apart((frozen, state.extra), state.params),
        "batch": batch,
    }


def _cache(spec: DecoderSpec, rows: int, slots: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((rows, spec.kv_heads, slots, spec.head_dim), spec.compute_dtype)


# ------------------------------------------------------------------------- stages


def _sft(context: Context, stage: str) -> Iterator[Planned]:
    config, executor = context.config, context.executor
    decoder = stage_decoder(context, stage)
    learner = sft_learning(config, decoder)
    state = _state(executor, learner.optimizer, _made(config, stage, partial(init_decoder, decoder)))
    rows, length = config.sft.batch_size, config.sft.row_length
    batch = _rows(executor, token_rows, rows, length)
    work = backward(reading_rows(decoder, rows, length, length), _how_trained(config, stage))
    yield Planned(learner.update, (state, batch), _resident(state, batch=batch), work)

    prompts = _rows(executor, prompt_rows, _sampled_at_once(config), config.data.max_prompt)
    key = abstract(executor, _key(), "replicated")
    answers = decoding(decoder, prompts.ids.shape[0], *_lengths(config))
    cache = _cache(decoder, prompts.ids.shape[0], sum(_lengths(config)))
    arguments = (state.params, prompts, key)
    yield Planned(sft_sampling(context, decoder), arguments, _resident(state, batch=prompts), answers, cache)


def _lengths(config: ConfigDict) -> tuple[int, int]:
    return config.data.max_prompt, config.data.max_response


def _sampled_at_once(config: ConfigDict) -> int:
    return config.ppo.rollout_rows or config.ppo.prompts_per_iteration * config.ppo.samples_per_prompt


def _how_trained(config: ConfigDict, stage: str) -> str:
    if stage.startswith("reward") and config.reward.train == "head":
        return "head"
    return "all" if lora_spec(config, stage) is None else "adapters"


def _lists(config: ConfigDict, spec: DecoderSpec, lists: int, columns: int, predicted: int) -> Work:
    shared = shares_prompts(spec, columns, config.parallel[SEQUENCE])
    return reading_lists(spec, lists, columns, *_lengths(config), predicted, shared=shared)


def _reward(context: Context, stage: str) -> Iterator[Planned]:
    config, executor, settings = context.config, context.executor, context.config.reward
    decoder = decoder_spec(config.model, context.tokenizer.vocab_size)
    spec, form = reward_spec(settings, decoder, prompt_aware=stage == "reward"), ensemble_spec(settings)
    learner = reward_learning(config, stage, spec, context.stage_key(stage))
    params = _made(config, stage, partial(init_reward_model, decoder, ensemble=form), form)
    state = _state(executor, learner.optimizer, params, part=learner.part)
    batch = _rows(executor, ranked_lists, settings.batch_size, config.data.list_size, *_lengths(config))
    lists = settings.batch_size * (form.members if form.kind == "models" else 1)
    work = backward(_lists(config, decoder, lists, config.data.list_size, 0), _how_trained(config, stage))
    yield Planned(learner.update, (state, batch), _resident(state, batch=batch), work)


def _ppo(context: Context, stage: str) -> Iterator[Planned]:
    config, executor, settings = context.config, context.executor, context.config.ppo
    if settings.dense.models or settings.rewards.models:
        raise UserError("config.ppo: rewards of further models are not planned; leave them out to see the rest")
    forms, trained_under = forms_of(context, None), stage_config(config, "reward")
    reference = jax.eval_shape(partial(init_decoder, forms.policy), _key())
    reward = jax.eval_shape(partial(init_reward_model, forms.reward, ensemble=forms.ensemble), _key())
    start = jax.eval_shape(lambda *loaded: start_of(config, forms, *loaded), reference, reward)
    start = jax.eval_shape(adapted(config, stage, lambda _: jax.tree.map(jnp.zeros_like, start)), _key())
    if trained_under.reward.train == "head" and trained_under.reward.init == "sft":
        forms, reward = with_one_trunk(forms), {"head": reward["head"]}
    programs = ppo_programs(context, forms)
    state = _state(executor, programs.optimizer, start, first_extra(settings, programs.spec))
    loaded = (abstract(executor, one, "state") for one in (reference, reward))
    frozen = frozen_of(config, forms, *loaded)(state.params)
    resident = partial(_resident, state, frozen)

    length = sum(_lengths(config))

    def scored(rows: int) -> tuple[Any, ...]:
        prompts = _rows(executor, prompt_rows, rows, config.data.max_prompt)
        asked = state.params["policy"], prompts, abstract(executor, _key(), "replicated")
        sampled = jax.eval_shape(partial(programs.sample.function, axis_name=None), *asked)[0]
        extra = abstract(executor, {name: state.extra[name] for name in ("reward_bias", "reward_gain")}, "replicated")
        models = state.params["policy"], state.params.get("value"), *frozen
        return asked, (*models, prompts, abstract(executor, sampled, "rows"), extra)

    asked, arguments = scored(_sampled_at_once(config))
    prompts = asked[1]
    rows = prompts.ids.shape[0]
    cache = _cache(forms.policy, rows, length)
    yield Planned(programs.sample, asked, resident(prompts), decoding(forms.policy, rows, *_lengths(config)), cache)

    work = reading_rows(forms.policy, rows, length, config.data.max_response)
    if forms.rolling.divergence is not None:  # of whole laws, for which both models' logits are made once more
        work += reading_rows(forms.policy, rows, length, 2 * config.data.max_response)
    if not forms.rolling.one_trunk:
        members = forms.ensemble.members if forms.ensemble.kind == "models" else 1
        work += reading_rows(forms.reward, rows * members, length, 0)
    if forms.value is not None:
        work += reading_rows(forms.value, rows, length, 0)
    yield Planned(programs.score, arguments, resident((prompts, arguments[-2])), work)

    episodes = settings.prompts_per_iteration * settings.samples_per_prompt
    made = jax.eval_shape(partial(programs.score.function, axis_name=None), *scored(episodes)[1])[0]
    rollout = abstract(executor, made, "rows")
    mixed = None
    if settings.pretraining.coefficient:
        number = settings.pretraining.rows * settings.epochs * settings.minibatches
        mixed = _rows(executor, token_rows, number, config.sft.row_length)
    how, seen = _how_trained(config, stage), settings.epochs * episodes
    work = backward(reading_rows(forms.policy, seen, length, config.data.max_response), how)
    if forms.value is not None and not programs.spec.shared:
        work += backward(reading_rows(forms.value, seen, length, 0), how)
    if mixed is not None:
        work += backward(reading_rows(forms.policy, number, config.sft.row_length, config.sft.row_length), how)
    regulariser = programs.spec.kl.regulariser
    if regulariser.estimator == "exact" and regulariser.in_loss:  # the reference is read at every update
        work += reading_rows(forms.policy, seen, length, config.data.max_response)
    asked = frozen[0] if programs.takes_reference else None
    yield Planned(programs.update, (state, rollout, mixed, asked), resident((rollout, mixed)), work)


def _judge(context: Context) -> Shapes | None:
    if not has_judge(context.config):
        return None
    judge, form = stage_decoder(context, "reward"), stage_ensemble(context.config, "reward")
    made = jax.eval_shape(partial(init_reward_model, judge, ensemble=form), _key())
    return abstract(context.executor, made, "state")


def _reference(context: Context, stage: str, decoder: DecoderSpec, params: Params) -> Params:
    """The reference of a stage that starts from the SFT policy: the model beneath its adapters, or one of its own."""
    if lora_spec(context.config, stage) is not None:
        return without_adapters(params)
    return abstract(context.executor, jax.eval_shape(partial(init_decoder, decoder), _key()), "state")


def _dpo(context: Context, stage: str) -> Iterator[Planned]:
    config, executor, section = context.config, context.executor, context.config.dpo
    decoder = stage_decoder(context, "sft")
    spec = preference_spec(section, decoder)
    learner = dpo_learning(section, spec)
    state = _state(executor, learner.optimizer, _made(config, stage, partial(init_decoder, decoder)))
    columns = config.data.list_size + spec.mismatched
    batch = _rows(executor, preference_lists, section.batch_size, columns, *_lengths(config))
    reference = _reference(context, stage, decoder, state.params)
    resident = _resident(state, (reference, _judge(context)), batch)
    read = _lists(config, decoder, section.batch_size, columns, config.data.max_response)
    if section.reference != "none":
        yield Planned(reading(spec), (reference, batch), resident, read)
    yield Planned(learner.update, (state, batch), resident, backward(read, _how_trained(config, stage)))


def _online(context: Context, stage: str) -> Iterator[Planned]:
    config, executor, settings = context.config, context.executor, context.config.online
    decoder, length = stage_decoder(context, "sft"), sum(_lengths(config))
    learner = online_learning(context, decoder)
    params = _made(config, stage, partial(init_decoder, decoder))
    extra = {"reference": without_adapters(params)} if settings.reference_every else None
    state = _state(executor, learner.optimizer, params, extra)
    loaded = _reference(context, stage, decoder, state.params)
    reference, judge = state.extra.get("reference", loaded), _judge(context)
    rows = settings.prompts_per_iteration * settings.samples_per_prompt
    prompts = _rows(executor, prompt_rows, rows, config.data.max_prompt)
    program, key = answering(context, stage), abstract(executor, _key(), "replicated")
    arguments = (state.params, reference, judge, prompts, key)
    work = decoding(decoder, rows, *_lengths(config)) + reading_rows(decoder, rows, length, config.data.max_response)
    if judge is not None:
        work += reading_rows(stage_decoder(context, "reward"), rows, length, 0)
    resident = partial(_resident, state, (loaded, judge))
    yield Planned(program, arguments, resident(prompts), work, _cache(decoder, rows, length))
    rollout = abstract(executor, jax.eval_shape(partial(program.function, axis_name=None), *arguments)[0], "rows")
    columns = settings.samples_per_prompt if settings.method == "preference" else 1
    lists = settings.epochs * settings.prompts_per_iteration
    read = _lists(config, decoder, lists, columns, config.data.max_response)
    yield Planned(learner.update, (state, rollout), resident(rollout), backward(read, _how_trained(config, stage)))
