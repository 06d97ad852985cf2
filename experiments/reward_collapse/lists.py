"""The sources as files of ranked lists: prefixes of long answers, as in the paper, and lists of the embedded world.

A row is ``{"prompt", "prompt_type", "responses": [{"text", "rank"} x 8]}``, best first, every pair ordered.
"""

import csv
import gzip
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_jax.data.readers import read_file, split_records
from rlhf_jax.data.records import Record
from rlhf_jax.data.tokenizers import texts_of
from rlhf_jax.data.world_builder import load_world
from rlhf_jax.errors import UserError
from rlhf_jax.metrics import write_text_atomically

# What the paper keeps of an answer, in words; the longer the better. Source: github.com/ctlllll/reward_collapse.
KEPT = {"open": (10, 20, 30, 40, 50, 60, 70, 80), "closed": (16, 22, 28, 34, 56, 62, 68, 74)}
SUFFIXES = {
    "open": " Write the answer in an open-ended way.",
    "closed": " Write either a short answer or a long answer.",
}
WORDS = 100  # an answer's least length
SEED = 2023  # of the prompt types, which are drawn at random
LISTS_FILE = "alpaca_eval_lists.jsonl.gz"
VALIDATION_FRACTION = 0.2
VOCABULARY = 2000  # words at most; rarer ones are one unknown word
UNKNOWN, PAD, END = "[unknown]", "[padding]", "[end]"
Pair = tuple[str, str]  # prompt, answer


def find_texts() -> Path | None:
    """The file of long answers: LONGFORM if it is set, else ``alpaca_eval_lists.jsonl.gz`` in RLHF_JAX_DATA or beside
    the repository in ../shared/data; None if there is none.
    """
    if os.environ.get("LONGFORM"):
        return Path(os.environ["LONGFORM"])
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    path = Path(os.environ.get("RLHF_JAX_DATA", beside)) / LISTS_FILE
    return path if path.is_file() else None


def read_pairs(path: Path) -> Iterator[Pair]:
    """Prompt and answer of each row of a file that has an answer of at least ``WORDS`` words, in the order of the file.

    The file is CSV, a JSON array or JSON lines, plain or gzip. A row has ``input`` and ``output`` (LongForm), or
    ``prompt`` and ``responses`` (ranked lists), of which the longest is the answer.

    Raises:
      UserError: the file cannot be read, or has a row of another kind.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as file:
            for place, row in enumerate(_rows(file, path.name), start=1):
                try:
                    if "responses" in row:
                        answer = max((each["text"] for each in row["responses"]), key=lambda text: len(text.split()))
                        pair = (row["prompt"], answer)
                    else:
                        pair = (row["input"], row["output"])
                except (KeyError, TypeError, ValueError) as error:
                    wanted = "'input' and 'output', or 'prompt' and 'responses'"
                    raise UserError(f"{path}: row {place}: expected {wanted} ({error})") from None
                if len(pair[1].split()) >= WORDS:
                    yield pair
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error


def _rows(file: Iterable[str], name: str) -> Iterator[dict[str, Any]]:
    if ".csv" in name:
        csv.field_size_limit(10**8)
        yield from csv.DictReader(file)
        return
    lines = (line for line in file if line.strip())
    first = next(lines, "")
    if first.lstrip().startswith("["):
        yield from json.loads("".join([first, *lines]))
        return
    for line in (first, *lines) if first else ():
        yield json.loads(line)


def truncations(pairs: Iterable[Pair], count: int) -> list[dict[str, Any]]:
    """A row for each of the first ``count`` pairs: its type drawn with probability 1/2, its answer cut to 8 lengths."""
    rng = np.random.default_rng(SEED)
    rows = []
    for (prompt, answer), _ in zip(pairs, range(count), strict=False):
        kind = ("open", "closed")[int(rng.integers(2))]
        rows.append(_row(prompt.rstrip() + SUFFIXES[kind], kind, _prefixes(answer, kind)))
    return rows


def world_prefixes(count: int) -> list[dict[str, Any]]:
    """A row for each of the first ``count`` prompts of the embedded world, whose own type decides the lengths.

    The world's answers are short: a long one is the answers of the prompt's lists, one after the other.
    """
    answers: dict[tuple[str, str], list[str]] = {}
    for record in load_world("total", "lists"):
        answers.setdefault((record.prompt, record.prompt_type), []).extend(each.text for each in record.responses)
    chosen = list(answers.items())[:count]
    return [_row(prompt, kind, _prefixes(" ".join(texts), kind)) for (prompt, kind), texts in chosen]


def _prefixes(answer: str, kind: str) -> list[str]:
    words = answer.split()
    return [" ".join(words[:length]) for length in reversed(KEPT[kind])]


def world_lists(count: int) -> list[dict[str, Any]]:
    """The first ``count`` lists of the embedded world, ties broken, that have a prompt of their own.

    One list to a prompt: of two lists of one prompt an answer may be the third best here and the fifth best there, and
    no reward model could give it the best reward of both.
    """
    first: dict[str, Record] = {}
    for record in load_world("total", "lists"):
        first.setdefault(record.prompt, record)
    chosen = list(first.values())[:count]
    return [_row(each.prompt, each.prompt_type, [response.text for response in each.responses]) for each in chosen]


def _row(prompt: str, kind: str, texts: list[str]) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "prompt_type": kind,
        "responses": [{"text": text, "rank": rank} for rank, text in enumerate(texts)],
    }


def write_lists(source: str, path: Path, count: int) -> bool:
    """Write the lists of a source to a file; False if there are no texts at hand."""
    if source != "texts":
        rows = (world_lists if source == "world" else world_prefixes)(count)
    else:
        texts = find_texts()
        if texts is None:
            return False
        rows = truncations(read_pairs(texts), count)
    write_text_atomically(path, "".join(json.dumps(row) + "\n" for row in rows))
    return True


def write_tokenizer(lists: Path, directory: Path) -> None:
    """A tokenizer of whole words, learned from the training part of a file of lists: so many words, so many tokens."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    train, _ = split_records(read_file(lists, "lists").records, VALIDATION_FRACTION, seed=0)
    counts = Counter(word for text in texts_of(train) for word in text.split())
    words = sorted(counts, key=lambda word: (-counts[word], word))[:VOCABULARY]
    backend = Tokenizer(WordLevel({word: place for place, word in enumerate((UNKNOWN, *words))}, UNKNOWN))
    backend.pre_tokenizer = WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=PAD, eos_token=END)
    wrapped.save_pretrained(str(directory))
