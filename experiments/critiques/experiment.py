"""Reward models that critique before they score, and plain ones, from the same few labelled lists."""

import functools
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from experiments.critiques.sweep import LONGER, SEEDS, SETTINGS
from rlhf_jax.data import world
from rlhf_jax.data.critiques import critique_batches, critique_eval_batches, critique_examples
from rlhf_jax.data.examples import list_examples, sft_examples
from rlhf_jax.data.lists import ListSizes
from rlhf_jax.data.loader import sft_batches
from rlhf_jax.data.packing import pack_examples
from rlhf_jax.data.records import Record, Response
from rlhf_jax.data.tokenizers import Tokenizer, build_tokenizer
from rlhf_jax.data.world_critiques import with_critiques
from rlhf_jax.evaluation.critique import critique_metrics
from rlhf_jax.evaluation.policy import decode_responses
from rlhf_jax.learners import critique, reward, sft
from rlhf_jax.learners.optimizer import OptimizerSpec, make_optimizer
from rlhf_jax.learners.step import init_state, train_step
from rlhf_jax.metrics import update_summary
from rlhf_jax.models import DecoderSpec, init_decoder, init_scalar_head
from rlhf_jax.objectives.utilities import LogSigmoid
from rlhf_jax.types import CritiqueBatch, Params, TrainState

SIZE = 4  # answers in a list
HELD_OUT = 256  # lists
STEPS, BATCH = 1000, 4  # updates, of so many lists each
SFT_STEPS, SFT_BATCH = 300, 16
PROMPT, RESPONSE, CRITIQUE = 12, 20, 12  # tokens
SEPARATOR = ":"
SAMPLES = 8  # critiques per answer whose rewards are averaged
UTILITY = LogSigmoid(sigma=0.25)


class Setup(NamedTuple):
    """What all settings share: the tokenizer, the decoder, its parameters after SFT, the held-out lists."""

    tokenizer: Tokenizer
    decoder: DecoderSpec
    start: Params
    records: list[Record]
    held_out: CritiqueBatch


def sample_records(rng: np.random.Generator, count: int, validation: bool) -> list[Record]:
    """``count`` lists, open and closed prompts in turn, ranked in tiers, with critiques."""
    records = []
    for number in range(count):
        kind = ("open", "closed")[number % 2]
        prompt = world.sample_prompt(rng, kind, validation)
        texts = world.sample_list(rng, prompt, SIZE)
        gold = [world.gold(prompt, text) for text in texts]
        ranks = [sorted(set(gold), reverse=True).index(value) for value in gold]
        responses = tuple(Response(*one) for one in zip(texts, ranks, gold, strict=True))
        records.append(with_critiques(Record(str(number), prompt, responses, kind)))
    return records


def examples_of(records: list[Record], tokenizer: Tokenizer) -> list[Any]:
    """Token examples with critiques."""
    lists, _ = list_examples(records, tokenizer, PROMPT, RESPONSE)
    return critique_examples(records, lists, tokenizer, SEPARATOR, CRITIQUE)[0]


@functools.cache
def setup() -> Setup:
    """Fine-tune the decoder that every reward model starts from, on demonstrations of middling quality."""
    tokenizer = build_tokenizer("word")
    decoder = DecoderSpec(vocab_size=tokenizer.vocab_size, width=32, depth=2, heads=4, kv_heads=2, mlp_width=64)
    rng = np.random.default_rng([2024, 0])
    prompts = [world.sample_prompt(rng, ("open", "closed")[i % 2], False) for i in range(4000)]
    pairs = [(prompt, world.sft_answer(rng, prompt)) for prompt in prompts]
    rows = pack_examples(sft_examples(pairs, tokenizer, PROMPT, RESPONSE)[0], 64, tokenizer.pad_id)
    optimizer = make_optimizer(OptimizerSpec(learning_rate=5e-3, steps=SFT_STEPS, warmup=20))
    state = init_state(init_decoder(decoder, jax.random.key(0)), optimizer, jax.random.key(1))
    batches = sft_batches(rows, SFT_BATCH, seed=0)
    state = _trained(partial(train_step, partial(sft.loss_sums, decoder), optimizer), state, batches, SFT_STEPS)
    records = sample_records(np.random.default_rng([2024, 1]), HELD_OUT, validation=True)
    examples = examples_of(records, tokenizer)
    held_out = next(critique_eval_batches(examples, {}, HELD_OUT, sizes(tokenizer), CRITIQUE, tokenizer.pad_id))
    return Setup(tokenizer, decoder, state.params, records, held_out)


def sizes(tokenizer: Tokenizer) -> ListSizes:
    """One size of all batches, which are stacked."""
    return ListSizes((PROMPT,), (RESPONSE + len(tokenizer.encode(SEPARATOR)),), SIZE)


def _trained(step: Callable[..., Any], state: TrainState, batches: Any, steps: int) -> TrainState:
    """``steps`` updates, compiled as one program."""
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *(next(batches) for _ in range(steps)))
    return jax.block_until_ready(_scan(step, state, stacked))


@partial(jax.jit, static_argnums=0)
def _scan(step: Callable[..., Any], state: TrainState, batches: Any) -> TrainState:
    return jax.lax.scan(lambda state, batch: (step(state, batch)[0], None), state, batches)[0]


@functools.cache
def critique_spec(arm: str) -> critique.CritiqueSpec:
    """The learner of an arm."""
    world_of = setup()
    return critique.CritiqueSpec(
        decoder=world_of.decoder,
        bounded=True,
        utilities=(UTILITY,),
        max_critique=CRITIQUE,
        eos_id=world_of.tokenizer.eos_id,
        pad_id=world_of.tokenizer.pad_id,
        own=0.5 if arm == "mixed" else 0.0,
        first_steps=STEPS // 2,
    )


@functools.cache
def step_of(arm: str) -> tuple[Any, Callable[..., Any]]:
    """(optimizer, step) of an arm, made once, so that all its settings share one compiled program."""
    steps = STEPS * LONGER if arm == "plain_long" else STEPS
    optimizer = make_optimizer(OptimizerSpec(learning_rate=2e-3, steps=steps, warmup=20))
    if arm in ("critique", "mixed"):
        return optimizer, partial(critique.update, critique_spec(arm), optimizer)
    spec = reward.RewardSpec(setup().decoder, bounded=True, utilities=(UTILITY,))

    def plain(state: TrainState, batch: CritiqueBatch) -> tuple[TrainState, Any]:
        # The separator is read by all arms alike.
        return train_step(partial(reward.loss_sums, spec), optimizer, state, batch.lists)

    return optimizer, plain


def run(setting: str, folder: Path) -> None:
    """Train and judge one arm on so many lists, all seeds; ``summary.json`` holds SEED.MEASURE."""
    arm, lists = SETTINGS[setting]
    shared, (optimizer, step) = setup(), step_of(arm)
    summary = {}
    for seed in SEEDS:
        # The larger number of lists holds the smaller one.
        records = sample_records(np.random.default_rng([2024, 2, seed]), lists, validation=False)
        batches = critique_batches(
            examples_of(records, shared.tokenizer),
            {},
            BATCH,
            sizes(shared.tokenizer),
            CRITIQUE,
            seed,
            shared.tokenizer.pad_id,
        )
        key = jax.random.key(seed)
        params = {"decoder": shared.start, "head": init_scalar_head(shared.decoder, key)}
        start = time.process_time()
        steps = STEPS * LONGER if arm == "plain_long" else STEPS
        state = _trained(step, init_state(params, optimizer, key), batches, steps)
        found = {"cpu_seconds": time.process_time() - start}
        found |= judge_plain(state.params) if arm.startswith("plain") else judge_critique(arm, state.params)
        summary |= {f"{seed}.{name}": value for name, value in found.items()}
    update_summary(folder, summary)


def judge_plain(params: Params) -> dict[str, float]:
    """Held-out accuracy of a plain reward model."""
    shared = setup()
    spec = reward.RewardSpec(shared.decoder, bounded=True, utilities=(UTILITY,))
    return accuracies("own", np.asarray(_plain_rewards(spec, params, shared.held_out.lists)))


_plain_rewards = jax.jit(reward.list_rewards, static_argnums=0)
_rewards = jax.jit(critique.list_rewards, static_argnums=0)
_judge = jax.jit(critique.judge, static_argnums=0, static_argnames="samples")


def judge_critique(arm: str, params: Params) -> dict[str, float]:
    """Held-out accuracy after the model's own critique, the mean over sampled ones, the true one, and that of another
    answer to the same prompt; and how many of its own critiques are as given.
    """
    shared, spec, key = setup(), critique_spec(arm), jax.random.key(99)
    batch = shared.held_out
    own = _judge(spec, params, batch.lists, key, samples=1)
    sampled = _judge(spec, params, batch.lists, key, samples=SAMPLES)
    true = critique.Critiques(jnp.asarray(batch.ids), jnp.asarray(batch.mask))
    others = jax.tree.map(lambda leaf: jnp.roll(leaf, SIZE // 2, axis=1), true)  # closed: right and wrong change places
    mask = np.asarray(own.first.mask)
    ids = np.asarray(own.first.ids)
    written = [decode_responses(shared.tokenizer, ids[i], mask[i]) for i in range(HELD_OUT)]
    given = [[response.critique for response in record.responses] for record in shared.records]
    ended = ((ids == spec.eos_id) & mask).any(axis=2)
    found = critique_metrics(written, given, mask.sum(axis=2), ended)
    for kind in ("open", "closed"):
        kept = [i for i, record in enumerate(shared.records) if record.prompt_type == kind]
        of_kind = critique_metrics([written[i] for i in kept], [given[i] for i in kept], mask.sum(axis=2), ended)
        found[f"critique_exact.{kind}"] = of_kind["critique_exact"]
    for name, rewards in (
        ("own", own.rewards),
        ("sampled", sampled.rewards),
        ("true", _rewards(spec, params, batch.lists, true)),
        ("shuffled", _rewards(spec, params, batch.lists, others)),
    ):
        found |= accuracies(name, np.asarray(rewards))
    return found


def accuracies(name: str, rewards: Float[np.ndarray, "L K"]) -> dict[str, float]:
    """Share of the held-out pairs of different gold that ``rewards`` put in order, in all and by type of prompt."""
    better = np.asarray(setup().held_out.lists.better)
    gaps = rewards[:, :, None] - rewards[:, None, :]
    right = np.where(gaps == 0, 0.5, gaps > 0)
    closed = np.array([record.prompt_type == "closed" for record in setup().records])
    found = {name: right[better].mean()}
    for kind, kept in (("open", ~closed), ("closed", closed)):
        found[f"{name}.{kind}"] = right[_of(better, kept)].mean()
    return {key: float(value) for key, value in found.items()}


def _of(better: Bool[np.ndarray, "L K K"], lists: Bool[np.ndarray, "L"]) -> Bool[np.ndarray, "L K K"]:
    return better & lists[:, None, None]
