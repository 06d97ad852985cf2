"""Texts at the limits of length and of Unicode: kept to the character, cut by rule, counted exactly, never dropped.

The truth is UTF-8's: of the byte tokenizer a text has as many tokens as bytes, so that every count is known without it.
"""

import collections
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as how
from hypothesis import strategies as st

from rlhf_jax.data.examples import TruncationCounts, list_examples, prompt_rows, sft_examples
from rlhf_jax.data.lists import sizes_of
from rlhf_jax.data.loader import prompt_eval_batches, rank_eval_batches, segment_eval_batches, sft_eval_batches
from rlhf_jax.data.packing import pack_examples
from rlhf_jax.data.readers import read_file, sft_pairs
from rlhf_jax.data.records import Record, Response
from rlhf_jax.data.segments import Aspect, segment_examples
from rlhf_jax.data.tokenizers import build_tokenizer
from rlhf_jax.errors import UserError
from tests.data.published import FIXTURES, changed
from tests.reliability.rows import FORMS

MAX_PROMPT, MAX_RESPONSE = 12, 8  # tokens, the end of sequence included
# What may be met in texts of people and of models.
ODD = {
    "combining marks": "n\u0303a\u0301\u0323\u0300\u036f e\u20dd",
    "decomposed and composed": "e\u0301 \u00e9",
    "right to left": "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "marks of direction": "a\u202eb\u2066c\u2069\u200f",
    "a family of emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",
    "flags, skins, keycaps": "\U0001f1eb\U0001f1f7 \U0001f44d\U0001f3fd 1\ufe0f\u20e3",
    "byte 0 inside": "a\u0000b",
    "control characters": "a\u0001\u0007\u001b[31mb\u007f",
    "lines of every kind": "a\u2028b\u2029c\u0085d\x0be\x0cf\rg\r\nh",
    "a byte order mark inside": "a\ufeffb\ufffe",
    "no characters": "\uffff \U0010ffff \ufdd0",
    "private use": "\ue000 \U000f0000 \U00100000",
    "zero width": "a\u200bb\u2060c\u00adz",
    "wide and narrow spaces": "a\u3000b\u2009c\u00a0d",
    "names of special tokens": "<eos> <pad> <unk> </s> <|im_end|> [INST]",
    "a replacement character": "a\ufffdb",
    "outside the basic plane": "\U0001d54f\U00020000",
    "zalgo": "Z" + "\u0301\u0316" * 200,
    "a long word": "x" * 5000,
    "a template's mark": "{prompt} {{x}} %s \\n",
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer("byte")


def texts_of(form: Any) -> list[str]:
    """Places of the answers and of a prompt on its own."""
    answers = form.texts[-2:] if form.pair else form.texts[-1:]
    return [place for place in answers if not place.endswith("role")]


@pytest.mark.reliability("R14", tries=len(FORMS) * len(ODD))
def test_unicode_is_kept(tally, tmp_path, tokenizer) -> None:
    """A text is what it is, to the character: in every format, and there and back through the tokenizer. No
    normalisation, nothing stripped inside, no character that ends a line but the line feed.
    """
    path = tmp_path / "f.jsonl"
    for name, form in FORMS.items():
        place = texts_of(form)[-1]
        held: Any = form.row
        for key in place.split("/"):
            held = held[int(key) if isinstance(held, list) else key]
        for kind, odd in ODD.items():
            with tally.one(f"{name}: {kind}"):
                for ascii_only in (True, False):  # \uXXXX, and the characters themselves
                    path.write_text(json.dumps(changed(form.row, place, held + odd), ensure_ascii=ascii_only))
                    (record,) = read_file(path, form.format).records
                    assert any((record.prompt + response.text).endswith(odd) for response in record.responses) or (
                        not record.responses and record.prompt.endswith(odd)
                    )
                assert tokenizer.decode(tokenizer.encode(odd)) == odd
                assert len(tokenizer.encode(odd)) == len(odd.encode())


@pytest.mark.reliability("R14", tries=len(FIXTURES))
def test_rows_in_are_rows_out(tally, tmp_path) -> None:
    """Each row of a file gives a record, or is counted among what was left out; ids say which row a record is of."""
    for name, fixture in FIXTURES.items():
        with tally.one(name):
            path = tmp_path / "f.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in fixture.rows))
            found = read_file(path, **fixture.settings)
            assert found.rows == len(fixture.rows)
            given = {one.id for one in found.records}
            assert len(given) == len(found.records)
            silent = [place for place in range(1, found.rows + 1) if not any(_of_row(one, place) for one in given)]
            assert len(silent) <= found.skipped or "id" in fixture.rows[0]
            assert len(found.records) + found.skipped >= found.rows


def _of_row(name: str, place: int) -> bool:
    return name.partition("#")[0] == f"f.jsonl:{place}"


TEXTS = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=30),
    st.sampled_from(list(ODD.values())),
    st.integers(MAX_RESPONSE - 2, MAX_PROMPT + 1).map(lambda n: "x" * n),  # around both limits
)
RECORDS = st.lists(
    st.tuples(TEXTS.filter(bool), st.lists(TEXTS, min_size=2, max_size=4, unique=True)), min_size=1, max_size=6
)


def kept(prompt: str) -> list[int]:
    """By the rule: its end."""
    return list(prompt.encode()[-MAX_PROMPT:])


def answered(text: str) -> list[int]:
    """By the rule: its beginning, and -1 for the end of sequence if all of it is there."""
    data = list(text.encode())
    return [*data, -1] if len(data) < MAX_RESPONSE else data[:MAX_RESPONSE]


@pytest.mark.reliability("R14", tries=150, torture=3000)
def test_tokenising_and_packing(tally, tokenizer) -> None:
    """SFT, prompts, ranked lists and marked responses: as many examples as there were, their tokens by the two rules of
    docs/data.md, the counters what those rules say, every token once in the packed rows and in the batches.
    """
    to_byte = {tokenizer.eos_id: -1}
    codes = [
        *range(0x800),
        *range(0x800, 0xD800, 2048),
        *range(0xE000, 0x10000, 4096),
        *range(0x10000, 0x110000, 2**18),
        0x10FFFF,
    ]
    for letter in map(chr, codes):  # every byte that UTF-8 has is in one of these
        to_byte |= dict(zip(tokenizer.encode(letter), letter.encode(), strict=True))

    def check(given: list) -> None:
        records = [
            Record(str(place), prompt, tuple(Response(text, rank) for rank, text in enumerate(texts)))
            for place, (prompt, texts) in enumerate(given)
        ]
        plain = lambda ids: [to_byte[int(one)] for one in ids]  # noqa: E731
        prompts = [kept(prompt) for prompt, _ in given]
        answers = [[answered(text) for text in texts] for _, texts in given]
        cut_prompts = sum(len(prompt.encode()) > MAX_PROMPT for prompt, _ in given)
        cut_best = sum(len(texts[0].encode()) >= MAX_RESPONSE for _, texts in given)
        cut_all = sum(len(text.encode()) >= MAX_RESPONSE for _, texts in given for text in texts)
        total = sum(len(texts) for _, texts in given)

        rows, counts = prompt_rows(records, tokenizer, MAX_PROMPT)
        assert ([plain(row.ids) for row in rows], [row.index for row in rows]) == (prompts, list(range(len(given))))
        assert counts == TruncationCounts(prompts=cut_prompts, total_prompts=len(given))
        batches = list(prompt_eval_batches(rows, 4, MAX_PROMPT, tokenizer.pad_id))
        assert [plain(i[m]) for b in batches for i, m in zip(b.ids, b.mask, strict=True) if m.any()] == prompts

        shown, counts = sft_examples(sft_pairs(records), tokenizer, MAX_PROMPT, MAX_RESPONSE)
        wanted = [(prompt, texts[0]) for prompt, texts in zip(prompts, answers, strict=True)]
        assert [(plain(one.prompt), plain(one.response)) for one in shown] == wanted
        assert counts == TruncationCounts(cut_prompts, cut_best, len(given), len(given))
        packed = pack_examples(shown, MAX_PROMPT + MAX_RESPONSE, tokenizer.pad_id)
        found: collections.Counter = collections.Counter()
        for batch in sft_eval_batches(packed, 3):
            for ids, segments, targets in zip(batch.ids, batch.segments, batch.loss_mask, strict=True):
                for one in range(1, segments.max() + 1):
                    own, target = ids[segments == one], targets[segments == one]
                    found[tuple(plain(own[~target])), tuple(plain(own[target]))] += 1
        assert found == collections.Counter((tuple(prompt), tuple(answer)) for prompt, answer in wanted)

        lists, counts = list_examples(records, tokenizer, MAX_PROMPT, MAX_RESPONSE)
        assert [(plain(one.prompt), [plain(ids) for ids in one.responses]) for one in lists] == list(
            zip(prompts, answers, strict=True)
        )
        assert counts == TruncationCounts(cut_prompts, cut_all, len(given), total)
        length = MAX_PROMPT + MAX_RESPONSE
        whole = [[prompt + one for one in texts] for prompt, texts in zip(prompts, answers, strict=True)]
        seen = [
            [plain(own[real]) + plain(ids[mask]) for ids, mask in zip(row_ids, row_mask, strict=True) if mask.any()]
            for batch in rank_eval_batches(lists, {}, 4, sizes_of(lists, 4), tokenizer.pad_id)
            for own, real, row_ids, row_mask in zip(
                batch.prompt_ids, batch.prompt_mask, batch.ids, batch.mask, strict=True
            )
            if row_mask.any()
        ]
        assert seen == whole

        parts, counts = segment_examples(records, tokenizer, MAX_PROMPT, MAX_RESPONSE, [Aspect("", "sentence")])
        flat = [one for texts in whole for one in texts]
        assert [plain(one.prompt) + plain(one.response) for one in parts] == flat
        assert counts == TruncationCounts(cut_prompts, cut_all, len(given), total)
        batches = list(segment_eval_batches(parts, 4, length, tokenizer.pad_id))
        assert [plain(i[m]) for b in batches for i, m in zip(b.ids, b.mask, strict=True) if m.any()] == flat

    @how(
        max_examples=len(tally.tries),
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(RECORDS)
    def tried(given: list) -> None:
        with tally.one(ascii(given)[:300]):
            check(given)

    tried()


@pytest.mark.reliability("R14", tries=6)
def test_nothing_to_say(tally, tokenizer) -> None:
    """A prompt without a token is refused, a response without one is its end alone: the readers let neither pass, but a
    tokenizer may leave nothing of a text.
    """
    pair = (Response("a", 0), Response("", 1))
    for make in (prompt_rows, list_examples):
        with tally.one(f"an empty prompt, {make.__name__}"), pytest.raises(UserError, match="prompt '' has no tokens"):
            make([Record("1", "", pair)], tokenizer, MAX_PROMPT, *([] if make is prompt_rows else [MAX_RESPONSE]))
    with tally.one("an empty prompt, sft_examples"), pytest.raises(UserError, match="prompt '' has no tokens"):
        sft_examples([("", "a")], tokenizer, MAX_PROMPT, MAX_RESPONSE)
    with tally.one("an empty response"):
        (one,), _ = list_examples([Record("1", "p", pair)], tokenizer, MAX_PROMPT, MAX_RESPONSE)
        assert list(one.responses[1]) == [tokenizer.eos_id]
    with tally.one("an empty response, packed"):
        (one,), _ = sft_examples([("p", "")], tokenizer, MAX_PROMPT, MAX_RESPONSE)
        assert np.sum(pack_examples([one], 9, 0).loss_mask) == 1
    with tally.one("a row that is too short"), pytest.raises(ValueError, match="does not fit a row of"):
        pack_examples([one], 1, 0)
