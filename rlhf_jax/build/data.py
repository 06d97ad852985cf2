"""The records of a run, from the embedded world or from the user's file, held-out parts set aside."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from rlhf_jax.config import did_you_mean
from rlhf_jax.data import world, world_local
from rlhf_jax.data.chat import Chat
from rlhf_jax.data.gold import load_gold
from rlhf_jax.data.readers import read_file, sft_pairs, split_records
from rlhf_jax.data.records import Prompt, Record
from rlhf_jax.data.tokenizers import Tokenizer, build_tokenizer, load_tokenizer, texts_of, with_chat
from rlhf_jax.data.world_builder import load_world
from rlhf_jax.data.world_feedback import Annotators, give_feedback
from rlhf_jax.errors import UserError
from rlhf_jax.evaluation.policy import Gold

# What is held out belongs to the data, not to a run: seeds are compared on the same held-out records.
SPLIT_SEED = 0


@dataclasses.dataclass(frozen=True)
class Data:
    """Everything a run reads: demonstrations as (prompt, response), ranked lists, prompts to be answered, and the
    true reward where it is known. Each with its held-out part; ``notes`` say what reading them found. ``annotators``
    judged the lists, None where their probabilities are not known; ``whole`` is False of the head of a longer file.
    """

    sft: Sequence[tuple[Prompt, str]]
    sft_validation: Sequence[tuple[Prompt, str]]
    lists: Sequence[Record]
    lists_validation: Sequence[Record]
    prompts: Sequence[Record]
    prompts_validation: Sequence[Record]
    gold: Gold | None
    notes: tuple[str, ...] = ()
    annotators: Annotators | None = None
    whole: bool = True


def load_data(
    config: ConfigDict,
    rejects_path: Path | None = None,
    limit: int | None = None,
    tokenizer: Tokenizer | None = None,
) -> Data:
    """Read what ``config.data`` names; ``limit`` reads only so many rows of a file, to look at its head.

    With ``config.data.chat`` the ``tokenizer`` has the template that must be able to render every row.

    Raises:
      UserError: a bad row, as ``file:line: field: reason``.
    """
    own = own_gold(config)
    found = _read(config, own, rejects_path, limit, tokenizer)
    if own is not None:
        _try_out(own, (*found.lists[:1], *found.prompts_validation[:1]))
    return found


def _try_out(gold: Gold, records: Sequence[Record]) -> None:
    """Have a user's gold judge a few answers before anything is trained for it."""
    for record in records:
        for text in [response.text for response in record.responses] or [""]:
            try:
                gold(record.prompt, text)
            except UserError as error:
                raise UserError(f"config.data.gold: {error}") from error


def _read(
    config: ConfigDict, own: Gold | None, rejects_path: Path | None, limit: int | None, tokenizer: Tokenizer | None
) -> Data:
    data = config.data
    if data.path:
        found = _file_data(config, rejects_path, limit, None if tokenizer is None else tokenizer.chat)
        return dataclasses.replace(found, gold=own)
    form = "total" if data.ties == "broken" else "tiers"
    annotators = Annotators(data.feedback, data.noise, data.judges)
    local = data.task == "local"

    def split(name: str) -> Sequence[Record]:
        if local:
            return world_local.load_local(name, data.list_size, kept=data.ties == "kept")
        return load_world(form, name, list_size=data.list_size)

    demonstrations = sft_pairs(split("sft")[:])
    every = max(round(1 / data.validation_fraction), 2)
    return Data(
        sft=[pair for place, pair in enumerate(demonstrations) if place % every],
        sft_validation=demonstrations[::every],
        lists=[give_feedback(record, annotators) for record in split("lists")[:]],
        lists_validation=[give_feedback(record, annotators) for record in split("lists_validation")[:]],
        prompts=split("prompts")[:],
        prompts_validation=split("prompts_validation")[:],
        gold=own or (world_local.gold_local if local else world.gold),
        # What they chose by is the world's gold: under another their probabilities are not known.
        annotators=annotators if data.feedback != "lists" and own is None else None,
    )


def own_gold(config: ConfigDict) -> Gold | None:
    """The user's own gold, ``config.data.gold``, None without.

    Raises:
      UserError: there is no such function.
    """
    try:
        return load_gold(config.data.gold) if config.data.gold else None
    except UserError as error:
        raise UserError(f"config.data.gold: {error}") from error


def _file_data(config: ConfigDict, rejects_path: Path | None, limit: int | None, chat: Chat | None) -> Data:
    data = config.data
    found = read_file(
        data.path,
        data.format,
        data.template,
        data.tie_margin,
        data.on_bad_row,
        rejects_path=rejects_path,
        limit=limit,
        annotators=data.annotators,
        chat=chat,
        setting="config.data.format",
    )
    whole = limit is None or found.rows < limit
    if whole:
        _check_prompt_types(config, found.records)
    if limit is None:
        train, validation = split_records(found.records, data.validation_fraction, SPLIT_SEED)
        parts = f"{len(train)} for training and {len(validation)} held out by their prompts"
        notes = [f"{data.path}: {found.rows} rows of format {found.format}, {parts}"]
    else:  # of a few rows perhaps none would be held out
        train = validation = list(found.records)
        notes = [f"{data.path}: {found.rows} rows of format {found.format} looked at"]
    longer = sum(len(record.responses) > data.list_size for record in found.records)
    if longer:
        notes.append(f"{longer} lists longer than config.data.list_size={data.list_size} keep so many responses each")
    if found.rejected:
        notes.append(f"{len(found.rejected)} bad rows left out")
    if found.skipped:
        notes.append(f"{found.skipped} judgements left out that their annotators skipped")
    if found.duplicates:
        notes.append(f"{found.duplicates} repeated responses left out")
    return Data(
        sft=sft_pairs(train, turns=data.chat),
        sft_validation=sft_pairs(validation, turns=data.chat),
        lists=train,
        lists_validation=validation,
        prompts=train,
        prompts_validation=validation,
        gold=None,
        notes=tuple(notes),
        whole=whole,
    )


def _check_prompt_types(config: ConfigDict, records: Sequence[Record]) -> None:
    """See that every prompt type with a utility of its own occurs: a misspelt one would go unused without a word."""
    known = {record.prompt_type for record in records} - {""}
    for kind in config.reward.utility_by_type:
        if kind not in known:
            hint = did_you_mean(kind, known)
            raise UserError(f"config.reward.utility_by_type.{kind}: no prompt of this type in {config.data.path}{hint}")


def fresh_tokenizer(config: ConfigDict, data: Data | None) -> Tokenizer:
    """The tokenizer of ``config.tokenizer``; a byte-pair vocabulary is learned from the training records only, and is
    the one kind that needs ``data``."""
    tokenizer = config.tokenizer
    texts = texts_of(data.lists) if tokenizer.kind == "bpe" and data is not None else ()
    path = tokenizer.path or config.model.path
    return in_chat(config, build_tokenizer(tokenizer.kind, tokenizer.vocab_size, path, texts), path)


def run_tokenizer(config: ConfigDict, folder: Path) -> Tokenizer:
    """The tokenizer that a run of this configuration keeps in a folder. Raises UserError if there is none."""
    return in_chat(config, load_tokenizer(folder), str(folder))


def in_chat(config: ConfigDict, tokenizer: Tokenizer, named: str) -> Tokenizer:
    """The tokenizer, which reads dialogues by its chat template if ``config.data.chat`` asks for that."""
    return with_chat(tokenizer, named) if config.data.chat else tokenizer
