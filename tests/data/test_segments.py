"""Segments of texts and their last tokens, by hand; the labels that spans give them; every kind of tokenizer."""

import itertools
import math
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_jax.data.records import Record, Response, Span
from rlhf_jax.data.segments import (
    Aspect,
    ends_of,
    label_of,
    last_token,
    paid_parts,
    segment_examples,
    segments,
    sentences,
    sub_sentences,
)
from rlhf_jax.data.tokenizers import Tokenizer, build_tokenizer, save_tokenizer

NAN = math.nan


def texts(text: str, ranges: list[tuple[int, int]]) -> list[str]:
    return [text[start:end] for start, end in ranges]


def test_sentences_end_with_a_stop_at_the_end_of_a_word() -> None:
    text = '  Pi is 3.14, no? "It is!" he said.\n\nWho knows'
    assert texts(text, sentences(text)) == ["Pi is 3.14, no?", '"It is!"', "he said.", "Who knows"]
    assert texts("a b . c !", sentences("a b . c !")) == ["a b .", "c !"]
    assert sentences(" \n") == sentences("") == []


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        # Five words before the comma, and more than five after it.
        ("a b c d e, f g h i j k.", ["a b c d e,", "f g h i j k."]),
        # Only five after it: no cut.
        ("a b c d e, f g h i j.", ["a b c d e, f g h i j."]),
        # A first piece that is too short goes on to the next cut.
        ("a, b c d e; f g h i j k", ["a, b c d e;", "f g h i j k"]),
        # A later piece that is too short is joined to the piece before it.
        ("a b c d e, f g, h i j k l, m n o p q r.", ["a b c d e, f g,", "h i j k l,", "m n o p q r."]),
        # Each sentence begins anew, and a full stop inside a word ends nothing.
        ("a b c 1.5 e f, g h. i j.", ["a b c 1.5 e f, g h.", "i j."]),
        ("a b c d e! f g h i j k", ["a b c d e!", "f g h i j k"]),
    ],
)
def test_sub_sentences_of_at_least_five_words(text: str, wanted: list[str]) -> None:
    assert texts(text, sub_sentences(text)) == wanted


def test_phrases_of_the_embedded_world_are_sub_sentences_of_two_words() -> None:
    text = "big light , old sky in mora , red sun ."
    assert texts(text, sub_sentences(text, 2)) == ["big light ,", "old sky in mora ,", "red sun ."]
    assert texts(text, sub_sentences(text, 5)) == [text]


@settings(deadline=None)
@given(st.text(alphabet="ab ,.;!?\n'", max_size=60), st.integers(1, 6))
def test_every_level_covers_all_words_in_order_without_overlap(text: str, least: int) -> None:
    words = "".join(text.split())
    for level in ("sentence", "sub_sentence"):
        found = segments(text, level, (), least)
        assert "".join("".join(part.split()) for part in texts(text, found)) == words
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(found))
        assert all(text[start].strip() and text[end - 1].strip() for start, end in found)
    assert len(segments(text, "sub_sentence", (), least)) >= len(segments(text, "sentence", (), least))
    with pytest.raises(ValueError, match="no level 'word'"):
        segments(text, "word", ())


def test_the_last_token_may_reach_into_the_next_segment() -> None:
    offsets = [(0, 2), (2, 5), (5, 9)]
    assert [last_token((0, end), offsets) for end in (1, 2, 3, 5, 6, 9, 12)] == [0, 0, 1, 1, 2, 2, 2]


def test_a_segment_is_as_good_as_the_worst_span_of_its_kind_that_overlaps_it() -> None:
    spans = [Span(0, 4, 0.0, "a"), Span(4, 8, 0.25, "b"), Span(2, 6, 0.75, "b"), Span(5, 5, 0.0, "a")]
    cuts = [(0, 4), (4, 6), (6, 9)]
    assert [label_of(part, spans, "a") for part in cuts] == [0.0, 0.0, 1.0]  # the empty span lies within (4, 6)
    assert [label_of(part, spans, "b") for part in cuts] == [0.75, 0.25, 0.25]
    assert [label_of(part, spans, "c") for part in cuts] == [1.0] * 3


TEXT = "it is brine , surely . the sky is old ."


def build(kind: str, folder: pathlib.Path) -> Tokenizer:
    if kind == "pretrained":
        save_tokenizer(build_tokenizer("bpe", 300, texts=[TEXT] * 5), folder / "saved")
        return build_tokenizer("pretrained", path=str(folder / "saved"))
    return build_tokenizer(kind, 300, texts=[TEXT] * 5 if kind == "bpe" else ())


@pytest.mark.parametrize("kind", ["word", "byte", "bpe", "pretrained"])
def test_every_tokenizer_tells_where_its_tokens_are(kind: str, tmp_path: pathlib.Path) -> None:
    tokenizer = build(kind, tmp_path)
    text = TEXT if kind == "word" else TEXT + " naïve 日本 <eos> ."
    ids, offsets = tokenizer.encode_with_offsets(text)
    assert ids == tokenizer.encode(text)
    assert len(ids) == len(offsets)
    decoded, read_off = tokenizer.decode_with_offsets(ids)
    assert decoded == text
    assert [end for _, end in read_off] == [end for _, end in offsets] or "日" in text
    for found in (offsets, read_off):
        for level in ("sentence", "sub_sentence"):
            parts = segments(text, level, found, 2)
            tokens = [last_token(part, found) for part in parts]
            assert tokens == sorted(set(tokens))
            # What has been written up to the last token of a segment is the text up to the segment's end.
            assert [tokenizer.decode(ids[: token + 1]) for token in tokens] == [text[:end] for _, end in parts]
    if kind == "byte":  # a character of three bytes is the range of each
        place = text.index("日")
        assert [one for one in offsets if one == (place, place + 1)] == [(place, place + 1)] * 3
        assert [one for one in read_off if one == (place, place + 1)] == [(place, place + 1)] * 3


def test_a_tokenizer_in_python_alone_reads_ranges_off_its_ids() -> None:
    class Slow:
        is_fast = False

        def encode(self, text: str, **_: object) -> list[int]:
            return [ord(letter) for letter in text]

        def decode(self, ids: list[int], **_: object) -> str:
            return "".join(map(chr, ids))

    assert Tokenizer(Slow(), 0, 1, 999).encode_with_offsets("ab.") == ([97, 98, 46], [(0, 1), (1, 2), (2, 3)])


ASPECTS = (Aspect("a", "sub_sentence"), Aspect("b", "sentence"), Aspect("a", "token"), Aspect("", "sequence"))


def test_examples_have_labels_at_last_tokens_and_nowhere_else() -> None:
    tokenizer = build_tokenizer("word")
    marked = Response("big light , old sky . red sun .", spans=(Span(4, 9, 0.0, "a"), Span(16, 19, 0.0, "b")))
    (example,), counts = segment_examples([Record("x", "describe the sea", (marked,))], tokenizer, 4, 12, ASPECTS, 2)
    # big light , old sky . red sun . <eos>
    a = [NAN, NAN, 0, NAN, NAN, 1, NAN, NAN, 1, NAN]
    b = [NAN, NAN, NAN, NAN, NAN, 0, NAN, NAN, 1, NAN]
    tokens = [1, 0, 1, 1, 1, 1, 1, 1, 1, NAN]
    whole = [NAN] * 9 + [1]
    np.testing.assert_array_equal(example.labels, np.array([a, b, tokens, whole], np.float32).T)
    assert example.response[-1] == tokenizer.eos_id
    assert counts.total_responses == 1
    assert counts.responses == 0


def test_of_a_cut_response_only_what_was_read_is_judged() -> None:
    tokenizer = build_tokenizer("word")
    marked = Response("big light , old sky . red sun .", label=0.25)
    (example,), counts = segment_examples([Record("x", "the sea", (marked,))], tokenizer, 4, 5, ASPECTS, 2)
    assert counts.responses == 1
    assert len(example.response) == 5
    np.testing.assert_array_equal(
        example.labels.T,
        np.array([[NAN, NAN, 1, NAN, NAN], [NAN] * 5, [1] * 5, [NAN] * 4 + [0.25]], np.float32),
    )


def test_responses_that_nobody_marked_are_good_or_left_out() -> None:
    tokenizer = build_tokenizer("word")
    records = [Record("x", "the sea", (Response("red sun ."), Response("old sky", label=1.0)))]
    assert len(segment_examples(records, tokenizer, 4, 9, ASPECTS)[0]) == 2
    assert len(segment_examples(records, tokenizer, 4, 9, ASPECTS, unmarked=False)[0]) == 1


def test_ends_in_a_rollout_count_the_end_of_sequence_for_the_whole_alone() -> None:
    tokenizer = build_tokenizer("word")
    texts_of_rows = ("red sun , old sky .", "red sun , old sky . big")
    rows = [tokenizer.encode(text) for text in texts_of_rows] + [[]]
    for row in (0, 2):
        rows[row].append(tokenizer.eos_id)
    ids, mask = np.full((4, 8), tokenizer.pad_id), np.zeros((4, 8), bool)
    for row, own in enumerate(rows):
        ids[row, : len(own)], mask[row, : len(own)] = own, True
    found = ends_of(ids, mask, tokenizer, ASPECTS, 2)
    assert [np.flatnonzero(found[0, :, column]).tolist() for column in range(4)] == [
        [2, 5],
        [5],
        [0, 1, 2, 3, 4, 5],
        [6],
    ]
    assert [np.flatnonzero(found[1, :, column]).tolist() for column in range(4)] == [
        [2, 5, 6],
        [5, 6],
        [*range(7)],
        [6],
    ]
    assert [np.flatnonzero(found[2, :, column]).tolist() for column in range(4)] == [[], [], [], [0]]
    assert not found[3].any()


def test_two_segments_within_one_token_are_two() -> None:
    class Pieces:
        def decode(self, ids: list[int], **_: object) -> str:
            return "".join({5: "Go. No. ", 6: "Go."}[i] for i in ids)

    found = ends_of(np.array([[5, 6]]), np.ones((1, 2), bool), Tokenizer(Pieces(), 0, 1, 9), (Aspect("", "sentence"),))
    assert found[0, :, 0].tolist() == [2, 1]


def test_what_was_paid_goes_with_the_characters_since_the_last_payment() -> None:
    """One token a byte: "ab, c" and its end, paid 1 after the comma, -2 at the last letter and 3 for the end."""
    tokenizer = build_tokenizer("byte")
    ids, mask = np.full((3, 8), tokenizer.pad_id), np.zeros((3, 8), bool)
    dense = np.zeros((3, 8))
    first = [*tokenizer.encode("ab, c"), tokenizer.eos_id]
    ids[0, :6], mask[0, :6], dense[0, [2, 4, 5]] = first, True, (1.0, -2.0, 3.0)
    ids[1, :5], mask[1, :5], dense[1, [0, 6]] = first[:5], True, (0.5, 9.0)  # cut; what lies beyond is no part of it
    ids[2, 0], mask[2, 0], dense[2, 0] = tokenizer.eos_id, True, 4.0  # nothing was said
    assert [paid_parts(*row, tokenizer) for row in zip(ids, mask, dense, strict=True)] == [
        [(0, 3, 1.0), (3, 5, -2.0), (5, 5, 3.0)],
        [(0, 1, 0.5)],
        [(0, 0, 4.0)],
    ]
