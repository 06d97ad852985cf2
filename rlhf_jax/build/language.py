"""Natural-language feedback of a run: critiques if a stage reads them, refinements if the config asks for them."""

import dataclasses

from ml_collections import ConfigDict

from rlhf_jax.build.data import Data
from rlhf_jax.data.critiques import refinement_demonstrations, refinement_pairs
from rlhf_jax.data.tokenizers import Tokenizer
from rlhf_jax.data.world_critiques import with_critiques
from rlhf_jax.errors import UserError
from rlhf_jax.types import SEQUENCE


def with_language(config: ConfigDict, data: Data) -> Data:
    """``data`` with the embedded world's critiques and refined texts, if they are read, and with the refinements of
    ``config.data.refinements`` among the demonstrations and lists to train on. Held-out parts get no refinements.

    Raises:
      UserError: the configuration asks for critiques or refinements that no response to be trained on has.
    """
    wanted, name = config.data.refinements, config.data.path or "the embedded world"
    if wanted == "none" and "critique" not in config.stages:
        return data
    if not config.data.path:
        data = dataclasses.replace(
            data,
            lists=[with_critiques(record) for record in data.lists],
            lists_validation=[with_critiques(record) for record in data.lists_validation],
        )
    if "critique" in config.stages and not any(r.critique.strip() for record in data.lists for r in record.responses):
        raise UserError(f"config.stages: critique, but no response to be trained on in {name} has a critique")
    if wanted == "none":
        return data
    demonstrations = refinement_demonstrations(data.lists, turns=config.data.chat)
    pairs = refinement_pairs(data.lists)
    if not demonstrations:
        raise UserError(
            f"config.data.refinements: {wanted}, but no response to be trained on in {name} has a refined text"
        )
    notes = list(data.notes)
    if wanted in ("sft", "both"):
        known = set(data.sft)  # the best response's refined text is imitated anyway
        added = [pair for pair in demonstrations if pair not in known]
        data = dataclasses.replace(data, sft=[*data.sft, *added])
        notes.append(f"{len(added)} refined responses added to the demonstrations")
    if wanted in ("pairs", "both"):
        if not config.data.path:
            pairs = [with_critiques(pair) for pair in pairs]
        data = dataclasses.replace(data, lists=[*data.lists, *pairs])
        notes.append(f"{len(pairs)} pairs of a refined response and its original added to the lists")
    return dataclasses.replace(data, notes=tuple(notes))


def check_separator(config: ConfigDict, tokenizer: Tokenizer) -> None:
    """See that the separator of the critique stage can be read back from its tokens.

    Raises:
      UserError: it cannot; a vocabulary of words may lack it. Or rows with it cannot be shared by the sequence axis.
    """
    separator = config.critique.separator
    if "critique" in config.stages and tokenizer.decode(tokenizer.encode(separator)).split() != separator.split():
        raise UserError(f"config.critique.separator: {separator!r} has words that the tokenizer does not know")
    data, shards = config.data, config.parallel[SEQUENCE]
    length = data.max_prompt + data.max_response + len(tokenizer.encode(separator)) + config.critique.max_tokens
    if "critique" in config.stages and length % shards:
        own, near = config.critique.max_tokens, config.critique.max_tokens + shards - length % shards
        raise UserError(
            f"config.critique.max_tokens: {own}: rows of {length} tokens cannot be shared evenly by "
            f"config.parallel.{SEQUENCE}={shards}; try {near}"
        )
