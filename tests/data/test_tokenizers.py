"""Tokenizers: round trips, special tokens that are only text, and the same vocabulary from the same texts."""

import os
import subprocess
import sys

import pytest

from rlhf_jax.data import world
from rlhf_jax.data.tokenizers import Tokenizer, build_tokenizer, load_tokenizer, save_tokenizer
from rlhf_jax.errors import UserError

TEXTS = ["the sea is blue and the sky is blue", "the sea , the sky , the sun <eos>", "naïve café"] * 3


def build(kind: str) -> Tokenizer:
    return build_tokenizer(kind, vocab_size=280, texts=TEXTS if kind == "bpe" else ())


@pytest.mark.parametrize("kind", ["word", "byte", "bpe"])
def test_special_tokens_are_distinct_and_spelled_ones_are_text(kind: str, tmp_path) -> None:
    tokenizer = build(kind)
    save_tokenizer(tokenizer, tmp_path)
    for each in (tokenizer, load_tokenizer(tmp_path)):
        assert each.pad_id != each.eos_id
        assert {each.pad_id, each.eos_id} < set(range(each.vocab_size))
        ids = each.encode("it <eos> is <pad> it<eos>")
        assert not {each.pad_id, each.eos_id} & set(ids)
        if kind != "word":
            assert each.decode(ids) == "it <eos> is <pad> it<eos>"
        assert each.decode([*each.encode("it is"), each.eos_id, each.pad_id]) == "it is"
        assert (each.encode("it is"), each.vocab_size) == (tokenizer.encode("it is"), tokenizer.vocab_size)


def test_words_are_joined_by_spaces() -> None:
    tokenizer = build("word")
    text = "well , it is mora , of course ."
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode(text)) == 9
    assert tokenizer.vocab_size == len(world.vocabulary()) + 3
    assert sorted({i for word in world.vocabulary() for i in tokenizer.encode(word)}) == list(range(1, 106))
    assert tokenizer.encode("zebra") == [0]
    with pytest.raises(UserError, match="'zebra'"):
        build_tokenizer("word", texts=["it is", "a zebra ."])


@pytest.mark.parametrize("kind", ["byte", "bpe"])
def test_byte_level_covers_any_text(kind: str) -> None:
    tokenizer = build(kind)
    text = " tab\t, newline\n\n, 日本語, é, \x00, 'quoted' n't . ?"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.vocab_size == (258 if kind == "byte" else 280)
    if kind == "byte":
        assert len(tokenizer.encode(text)) == len(text.encode())
    assert isinstance(tokenizer.decode(range(tokenizer.vocab_size)), str)  # broken UTF-8 included


def test_pairs_are_learned_the_same_way_every_time(tmp_path) -> None:
    code = (
        "import sys; from rlhf_jax.data.tokenizers import build_tokenizer, save_tokenizer;"
        f"save_tokenizer(build_tokenizer('bpe', 280, '', {TEXTS!r}), sys.argv[1])"
    )
    for seed in "12":
        environment = {**os.environ, "PYTHONHASHSEED": seed, "TOKENIZERS_PARALLELISM": "true"}
        subprocess.run([sys.executable, "-c", code, str(tmp_path / seed)], env=environment, check=True)
    one, two = ((tmp_path / seed / "tokenizer.json").read_bytes() for seed in "12")
    assert one == two
    tokenizer = load_tokenizer(tmp_path / "1")
    assert len(tokenizer.encode("the sea")) == 2


@pytest.mark.parametrize("pad", [None, "<end>"])
def test_pretrained_gets_a_padding_token_of_its_own(tmp_path, pad: str | None) -> None:
    from transformers import PreTrainedTokenizerFast

    model = build("byte").backend.backend_tokenizer
    PreTrainedTokenizerFast(tokenizer_object=model, eos_token="<end>", pad_token=pad).save_pretrained(tmp_path)
    tokenizer = build_tokenizer("pretrained", path=str(tmp_path))
    assert tokenizer.pad_id != tokenizer.eos_id
    assert tokenizer.backend.eos_token == "<end>"
    assert max(tokenizer.pad_id, tokenizer.eos_id) < tokenizer.vocab_size
    assert tokenizer.decode(tokenizer.encode("a <end> b")) == "a <end> b"


def test_what_cannot_be_built_is_refused(tmp_path) -> None:
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(tokenizer_object=build("byte").backend.backend_tokenizer).save_pretrained(tmp_path)
    (tmp_path / "empty").mkdir()
    for kind, path, message in [
        ("char", "", "tokenizer.kind"),
        ("pretrained", "", "tokenizer.path: empty"),
        ("pretrained", str(tmp_path / "absent"), "tokenizer.path: no tokenizer"),
        ("pretrained", str(tmp_path / "empty"), r"no tokenizer in .*empty' \(.* a `tokenizers` library .*\)$"),
        ("pretrained", str(tmp_path), "no end-of-sequence"),
    ]:
        with pytest.raises(UserError, match=message):
            build_tokenizer(kind, path=path)
    with pytest.raises(UserError, match="vocab_size"):
        build_tokenizer("bpe", vocab_size=100)
    with pytest.raises(UserError, match="no tokenizer folder"):
        load_tokenizer(tmp_path / "absent")
