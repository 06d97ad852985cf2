"""Tokenizers made here, with chat templates in the styles of those in use."""

import functools
from typing import Any

from rlhf_jax.data.records import Message

SPECIALS = ("<|im_start|>", "<|im_end|>", "<|start|>", "<|end|>", "<turn>", "</turn>", "[INST]", "[/INST]")
CORPUS = [
    "the quick brown fox jumps over the lazy dog ; the answer is 42 .",
    "user system assistant model im_start im_end INST turn start end header",
    "  two spaces\n\nand lines\n\n\n",
    "### User: hello\n### Assistant: hello there",
] * 3

CHATML = """{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"""

# Headers, a begin-of-sequence token, contents without the white space around them.
HEADERS = """{{ bos_token }}{% for message in messages %}
{{- '<|start|>' + message.role + '<|end|>\\n\\n' + message.content | trim + '<turn>' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant<|end|>\\n\\n' }}{% endif %}"""

# Speakers take turns, the system speaks inside the first turn of the user, and the assistant is called model.
MERGED = """{{ bos_token }}{%- if messages[0].role == 'system' -%}
{%- set first = messages[0].content | trim + '\\n\\n' -%}{%- set rest = messages[1:] -%}
{%- else -%}{%- set first = '' -%}{%- set rest = messages -%}{%- endif -%}
{%- for message in rest -%}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) -%}
{{ raise_exception('roles must alternate: user, assistant, user') }}
{%- endif -%}
{{ '<turn>' + ('model' if message.role == 'assistant' else 'user') + '\\n' }}
{{- (first if loop.first else '') + message.content | trim + '</turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<turn>model\\n' }}{%- endif -%}"""

# The system speaks inside the last turn of the user, and only if nobody has answered it yet.
LAST = """{%- set said = namespace(system='') -%}
{{ bos_token }}
{%- for message in messages -%}
{%- if message.role == 'system' -%}{%- set said.system = message.content + '\\n\\n' -%}
{%- elif message.role == 'user' -%}
{{ '[INST] ' + (said.system if loop.last else '') + message.content + '[/INST]' }}
{%- else -%}{{ ' ' + message.content | trim + eos_token }}{%- endif -%}
{%- endfor -%}"""

# Looks into what was said: thoughts of earlier turns are left out.
THOUGHTFUL = """{%- for message in messages -%}
{%- set content = message.content -%}
{%- if message.role == 'assistant' and not loop.last and '</think>' in content -%}
{%- set content = content.split('</think>')[-1].lstrip('\\n') -%}
{%- endif -%}
{{ '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"""

# No special token at all.
PLAIN = """{% for message in messages %}{{ '### ' + message.role + ': ' + message.content + '\\n\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '### assistant: ' }}{% endif %}"""

LOUD = CHATML.replace("message['content']", "message['content'].upper()")
TEMPLATES = {
    "chatml": CHATML, "headers": HEADERS, "merged": MERGED, "last": LAST, "thoughtful": THOUGHTFUL, "plain": PLAIN,
    "loud": LOUD,
}  # fmt: skip
# What ends an answer.
ENDS = {
    "chatml": "<|im_end|>", "headers": "<turn>", "merged": "</turn>", "last": "<eos>", "thoughtful": "<|im_end|>",
    "plain": "<eos>", "loud": "<|im_end|>",
}  # fmt: skip


@functools.cache
def _model(kind: str) -> str:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    model = Tokenizer(models.Unigram() if kind == "unigram" else models.BPE(byte_fallback=False, unk_token=None))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer: Any
    if kind in ("bytes", "digits"):
        split = pre_tokenizers.ByteLevel(add_prefix_space=False)
        model.pre_tokenizer = split if kind == "bytes" else pre_tokenizers.Sequence([pre_tokenizers.Digits(), split])
        model.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    elif kind == "legacy":  # as SentencePiece's byte pairs are kept: spaces are letters, one is put in front
        model.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        letters = [chr(i) for i in range(0x20, 0x7F)] + ["▁", "\n", "é", "\ue000"]
        trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=letters, show_progress=False)
    else:
        model.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        letters = [chr(i) for i in range(0x20, 0x7F)] + ["▁", "\n", "é"]
        trainer = trainers.UnigramTrainer(
            vocab_size=200, initial_alphabet=letters, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False
        )
    model.train_from_iterator(CORPUS, trainer)
    return model.to_str()


KINDS = ("bytes", "digits", "legacy", "unigram")


@functools.cache
def backend(kind: str, template: str) -> Any:
    """A transformers tokenizer with a template of ``TEMPLATES``, or one of the caller's own."""
    import transformers
    from tokenizers import AddedToken, Tokenizer

    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_model(kind)),
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>" if kind == "unigram" else None,
        additional_special_tokens=list(SPECIALS),
        clean_up_tokenization_spaces=False,
    )
    made.add_tokens([AddedToken("<think>", special=False), AddedToken("</think>", special=False)])
    made.chat_template = TEMPLATES.get(template, template)
    return made


def turns(*contents: str, system: str = "") -> tuple[Message, ...]:
    """A dialogue that the user begins, after the system if it speaks."""
    front = (Message("system", system),) if system else ()
    return (*front, *(Message(("user", "assistant")[place % 2], text) for place, text in enumerate(contents)))


def plain(messages: tuple[Message, ...], answer: str | None = None) -> list[dict[str, str]]:
    """The messages as transformers takes them, answered."""
    found = [{"role": one.role, "content": one.content} for one in messages]
    return found + ([{"role": "assistant", "content": answer}] if answer is not None else [])
