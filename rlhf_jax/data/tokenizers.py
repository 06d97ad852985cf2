"""Text to token ids and back, with padding and end-of-sequence tokens that are never the same."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhf_jax.data import world
from rlhf_jax.data.records import Record
from rlhf_jax.errors import UserError
from rlhf_jax.foreign import MOST_TOKENIZER, check_folder, one_line

if TYPE_CHECKING:
    from rlhf_jax.data.chat import Chat

MOST_IDS = 2**22  # of a vocabulary; the largest published has 2^18
KINDS = ("word", "byte", "bpe", "pretrained")
PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """A ``transformers`` tokenizer behind the few things the rest needs; ids are in [0, vocab_size).

    ``eos_id`` ends a response. With ``chat`` prompts and responses are encoded by its template.
    """

    backend: Any
    pad_id: int
    eos_id: int
    vocab_size: int
    chat: "Chat | None" = None

    def encode(self, text: str) -> list[int]:
        """Ids of the text alone: nothing is added, and special tokens spelled in the text are read as text."""
        return self.backend.encode(text, add_special_tokens=False, split_special_tokens=True)

    def decode(self, ids: Iterable[int] | np.ndarray) -> str:
        """The text of the ids; padding and end-of-sequence tokens leave no trace."""
        return self.backend.decode([int(i) for i in ids], skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """``encode``, and the half-open range of characters of the text that each token stands for.

        A character of several byte tokens is the range of each. A tokenizer in Python alone knows no ranges: they are
        then those of the decoded text, and right as far as that is the text.
        """
        if not self.backend.is_fast:
            ids = self.encode(text)
            return ids, self.decode_with_offsets(ids)[1]
        found = self.backend(text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
        return found["input_ids"], [(int(start), int(end)) for start, end in found["offset_mapping"]]

    def decode_with_offsets(self, ids: Sequence[int] | np.ndarray) -> tuple[str, list[tuple[int, int]]]:
        """``decode`` of ids without special tokens, and the range of characters that each token added to the text.

        Sampled ids need not be those that their text would be encoded to, so that the ranges are read off the ids. A
        token that only goes on with a character has the range of the one before.
        """
        text = self.decode(ids)
        offsets: list[tuple[int, int]] = []
        length = 0
        for place in range(len(ids)):
            end = min(max(len(self.decode(ids[: place + 1])), length), len(text))
            offsets.append((length, end) if end > length or not offsets else (offsets[-1][0], end))
            length = end
        return text, offsets


def build_tokenizer(kind: str, vocab_size: int = 4096, path: str = "", texts: Iterable[str] = ()) -> Tokenizer:
    """Build or load a tokenizer.

    "word": the words of the embedded world, split at white space. "byte": the 256 bytes. "bpe": byte-level pairs
    learned from ``texts`` up to ``vocab_size`` ids, the same for the same texts. "pretrained": from the folder or hub
    name ``path``. Raises UserError on an unknown kind, a vocabulary below the byte alphabet, a tokenizer that is not
    found or has no end-of-sequence token, or, for "word", ``texts`` with words outside the world.
    """
    if kind == "word":
        return _wrap(_word(texts))
    if kind == "byte":
        return _wrap(_byte_level(258, ()))
    if kind == "bpe":
        if vocab_size < 258:
            raise UserError(f"tokenizer.vocab_size: {vocab_size} is below 258, the bytes and two special tokens")
        return _wrap(_byte_level(vocab_size, texts))
    if kind == "pretrained":
        return _pretrained(path)
    raise UserError(f"tokenizer.kind: {kind!r} is not one of {KINDS}")


def with_chat(tokenizer: Tokenizer, named: str) -> Tokenizer:
    """The tokenizer that reads dialogues by its own chat template, and ends responses by what ends them there.

    ``named`` is where it is from. Raises UserError if it has no template, or none that can be used.
    """
    from rlhf_jax.data.chat import Chat

    chat = Chat(tokenizer.backend, tokenizer.eos_id, tokenizer.pad_id, named)
    return dataclasses.replace(tokenizer, eos_id=chat.end_id, chat=chat)


def save_tokenizer(tokenizer: Tokenizer, directory: str | os.PathLike[str]) -> None:
    """Write the tokenizer in the ``transformers`` format; ``load_tokenizer`` reads it back."""
    tokenizer.backend.save_pretrained(str(directory))


def load_tokenizer(directory: str | os.PathLike[str]) -> Tokenizer:
    """The tokenizer saved in a folder; UserError if there is none."""
    if not os.path.isdir(directory):
        raise UserError(f"{directory}: no tokenizer folder")
    return _pretrained(str(directory))


def chat_template_in(directory: str | os.PathLike[str]) -> tuple[str, dict[str, Any]]:
    """The chat template that ``save_tokenizer`` left in a folder, "" if there is none, and the special tokens that it
    may call by their names."""
    folder = pathlib.Path(directory)
    template, settings = folder / "chat_template.jinja", json.loads((folder / "tokenizer_config.json").read_text())
    named = {name: token for name, token in settings.items() if name.endswith(("_token", "special_tokens"))}
    return template.read_text(encoding="utf-8") if template.is_file() else "", named


def texts_of(records: Sequence[Record]) -> Iterator[str]:
    """All prompts and responses of the records, in order: what a vocabulary is learned from."""
    for record in records:
        yield record.prompt
        for response in record.responses:
            yield response.text


def _word(texts: Iterable[str]) -> Any:
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    words = world.vocabulary()
    known = set(words)
    for text in texts:
        strange = next((word for word in text.split() if word not in known), None)
        if strange is not None:
            raise UserError(
                f"tokenizer.kind: 'word' knows only the embedded world's words, not {strange!r}; "
                "use 'byte', 'bpe' or 'pretrained' for other data"
            )
    # The special tokens stay out of the model's vocabulary: spelled in a text they are unknown words.
    backend = Backend(WordLevel({word: i for i, word in enumerate((UNKNOWN, *words))}, unk_token=UNKNOWN))
    backend.pre_tokenizer = WhitespaceSplit()
    return backend


def _byte_level(vocab_size: int, texts: Iterable[str]) -> Any:
    from tokenizers import Tokenizer as Backend
    from tokenizers.decoders import ByteLevel as ByteDecoder
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.trainers import BpeTrainer

    backend = Backend(BPE())
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
    backend.decoder = ByteDecoder()
    alphabet = sorted(ByteLevel.alphabet())
    trainer = BpeTrainer(vocab_size=vocab_size - 2, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(iter(texts), trainer)
    return backend


def _wrap(model: Any) -> Tokenizer:
    transformers = _transformers()
    return _checked(
        transformers.PreTrainedTokenizerFast(
            tokenizer_object=model, pad_token=PAD, eos_token=EOS, clean_up_tokenization_spaces=False
        )
    )


def _pretrained(path: str) -> Tokenizer:
    if not path:
        raise UserError("tokenizer.path: empty, but tokenizer.kind is 'pretrained'")
    if os.path.isdir(path):
        check_folder(pathlib.Path(path), MOST_TOKENIZER)
    elif os.path.exists(path):
        raise UserError(f"tokenizer.path: {path}: not a folder; archives are not unpacked")
    transformers = _transformers()
    try:
        # Without the word it asks on the terminal whether to run code of the folder's own.
        backend = transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # of JSON, of the tokenizers library, of whatever classes a folder names
        reason = one_line(str(error), 300) or type(error).__name__
        raise UserError(f"tokenizer.path: no tokenizer in {path!r} ({reason})") from error
    if backend.eos_token_id is None:
        raise UserError(f"tokenizer.path: the tokenizer in {path!r} has no end-of-sequence token")
    if backend.pad_token_id is None or backend.pad_token_id == backend.eos_token_id:
        backend.add_special_tokens({"pad_token": PAD})
    return _checked(backend)


def _checked(backend: Any) -> Tokenizer:
    size = max(len(backend), 1 + max(backend.get_vocab().values()))
    if size > MOST_IDS:
        raise UserError(f"tokenizer: ids up to {size - 1:,}; a model would need a row for each, at most {MOST_IDS:,}")
    tokenizer = Tokenizer(backend, backend.pad_token_id, backend.eos_token_id, size)
    special = {tokenizer.pad_id, tokenizer.eos_id}
    spelled = tokenizer.encode(f"a {backend.pad_token} b {backend.eos_token} c")
    if len(special) < 2 or special & set(spelled):
        raise UserError("tokenizer: padding and end of sequence must differ, and must not be readable from a text")
    return tokenizer


def _transformers() -> Any:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import transformers

    return transformers
