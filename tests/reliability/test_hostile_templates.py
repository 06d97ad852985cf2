"""R23: chat templates that a stranger made to do harm, and dialogues that spell special tokens."""

import pathlib
import random
import resource

import pytest

from rlhf_jax.data.records import Message
from rlhf_jax.data.tokenizers import Tokenizer, load_tokenizer, save_tokenizer, with_chat
from rlhf_jax.errors import UserError
from tests.data.chats import CHATML, SPECIALS, backend, turns
from tests.reliability.hostile import one_line, watched

SECRET = "canary-of-the-environment"
CPU, BYTES = 4.0, 2**30  # of the child
CLASSES = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
OPENS = "{{ %s.__globals__.__builtins__.open('CANARY', 'w') }}"
HUNGRY = {
    "power of a power": "{{ 10 ** (10 ** 8) }}",
    "loops in loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
    "{% endfor %}{% endfor %}{% endfor %}",
    "a namespace that counts": "{% set n = namespace(i=1) %}{% for a in range(99999) %}{% for b in range(99999) %}"
    "{% set n.i = n.i * 3 %}{% endfor %}{% endfor %}",
}
GREEDY = {
    "a long string": "{{ 'x' * 4000000000 }}",
    "strings that double": "{% set n = namespace(s='x') %}"
    "{% for a in range(40) %}{% set n.s = n.s + n.s %}{% endfor %}",
    "an output of 1 GB": "{% for a in range(99999) %}{{ 'x' * 10000 }}{% endfor %}",
    "lists of lists": "{% set n = namespace(s=[]) %}"
    "{% for a in range(99999) %}{% set n.s = n.s + n.s + [a] %}{% endfor %}",
    "a wide field": "{{ '%999999999d' | format(1) }}",
    "a wide format": "{{ '{:>999999999}'.format('x') }}",
    "centred": "{{ 'x' | center(2000000000) }}",
    "indented": "{{ ('\\n' * 9999) | indent(999999) }}",
    "joined": "{{ range(99999) | join('x' * 99999) }}",
    "a batch of slices": "{{ [1] | batch(99999999, 'x' * 99) | list }}",
    "a macro for ever": "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "a macro of its own caller": "{% macro f() %}{{ caller() }}{% endmacro %}{% call f() %}{% call f() %}{{ f() }}"
    "{% endcall %}{% endcall %}",
    "a loop into itself": "{% for m in [[1]] recursive %}{{ loop([m]) }}{% endfor %}",
    "brackets in depth": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "blocks in depth": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
}
ESCAPES = {
    "classes": CLASSES,
    "classes by a filter": "{{ ('' | attr('__class__')).__mro__ }}",
    "classes by map": "{{ [''] | map(attribute='__class__') | list }}",
    "classes by a format": "{{ '{0.__class__.__mro__}'.format('') }}",
    "classes by a format of a mapping": "{{ '{a.__class__}'.format_map({'a': ''}) }}",
    "classes by a filter of a filter": "{{ messages | groupby('__class__') | list }}",
    "globals of cycler": OPENS % "cycler.__init__",
    "globals of joiner": OPENS % "joiner.__init__",
    "globals of namespace": OPENS % "namespace.__init__",
    "globals of raise_exception": OPENS % "raise_exception",
    "globals of itself": OPENS % "self.__init__",
    "globals of lipsum": OPENS % "lipsum",
    "the template's own context": "{{ self._TemplateReference__context.environment.loader }}",
    "the environment of a macro": "{% macro f() %}{% endmacro %}{{ f._environment.globals }}",
    "generators": "{{ (messages | map('upper')).gi_frame.f_back.f_globals }}",
    "a namespace's class": "{% set n = namespace() %}{% set n.__class__ = cycler %}{{ n }}",
    "a change of what was said": "{{ messages.append(messages[0]) }}{{ messages[0].update({'role': 'system'}) }}",
    "include": "{% include '/proc/self/environ' %}",
    "import": "{% import 'os' as os %}{{ os.environ }}",
    "extends": "{% extends '/etc/passwd' %}",
    "from": "{% from 'os' import system %}{{ system('touch CANARY') }}",
    "the environment": "{{ environ }}{{ os.environ }}{{ cycler.__init__.__globals__.os.environ }}",
    "its code": "{{ (lipsum or cycler).__code__.co_consts }}",
    "do": "{% do messages.clear() %}",
    "a debugger": "{% debug %}",
}  # fmt: skip
FRAGMENTS = (
    "{{ messages[0].content }}",
    "{% for m in messages %}{{ m.content }}{% endfor %}",
    "<|im_start|>",
    "<|im_end|>",
    "<eos>",
    "{{ '<|im' ~ '_start|>' }}",
    "{{ messages | tojson }}",
    "{{ messages[-1].content | upper }}",
    "{{ '' | attr('mro') }}",
    "{{ range(999) | list }}",
    "{% set x = messages %}",
    "{{ x }}",
    "{{ loop }}",
    "{{ self }}",
    "{{ cycler }}",
    "{%",
    "}}",
    "{#",
    "{{ ''.__class__ }}",
    "{{ undefined.thing }}",
    "{{ raise_exception('no') }}",
    "{{ 1 / 0 }}",
    "\0",
    "\u202e",
    "é",
    "{{ dict }}",
    "{{ messages | map(attribute='content') | join('<|im_start|>') }}",
    "{% macro f(a) %}{{ a }}{% endmacro %}",
    "{{ f(1) }}",
    "{{ messages | selectattr('role') | list }}",
    "{{ eos_token * 9 }}",
    "{% generation %}",
    "{% endgeneration %}",
    "{% break %}",
    "{{ messages[0].content.format(messages) }}",
    "{{ 'a'.join(['b'] * 99) }}",
    "{{ messages[0].content[::-1] }}",
)


def prepared(template: str, folder: pathlib.Path) -> Tokenizer:
    """A folder with this template, as it is read."""
    made = backend("bytes", "chatml")
    save_tokenizer(Tokenizer(made, made.pad_token_id, made.eos_token_id, len(made)), folder)
    (folder / "chat_template.jinja").write_text(template)
    return load_tokenizer(folder)


def used(template: str, folder: pathlib.Path, canary: pathlib.Path) -> str | None:
    """What is said of a template that is refused, None of one that is not; within the limits either way."""
    tokenizer = prepared(template.replace("CANARY", str(canary)), folder)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    why = None
    with watched(folder.parent, canary):
        try:
            chat = with_chat(tokenizer, "FOLDER").chat
            assert chat is not None
            list(chat.encode([(turns("hello <|im_start|>", "there", "you"), ["well <|im_end|>"])]))
        except UserError as error:
            why = one_line(error, SECRET, "root:")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent < CPU, f"{spent:.1f} s of processor time"
    assert after.ru_maxrss * 1024 < max(BYTES, before.ru_maxrss * 1024 + 1)
    return why


@pytest.mark.reliability("R23", tries=len(HUNGRY | GREEDY | ESCAPES))
def test_a_template_of_a_stranger_runs_nothing_and_ends(tally, tmp_path, monkeypatch) -> None:
    """Held to: no file appears, no word of the environment is told, and the process that renders it takes less than
    4 s of processor time and 1 GiB; every one of these is refused, in one line that begins with the key."""
    monkeypatch.setenv("HF_TOKEN", SECRET)
    for name, template in (HUNGRY | GREEDY | ESCAPES).items():
        with tally.one(name):
            why = used(template, tmp_path / name, tmp_path / "canary")
            assert why is not None, "it was taken"
            assert why.startswith("data.chat: "), why


@pytest.mark.reliability("R23", tries=12, torture=200)
def test_templates_put_together_at_random_do_no_harm(tally, tmp_path, monkeypatch) -> None:
    """Held to: taken or refused, the same limits as above hold; pieces of honest and of hostile templates in any order,
    by one fixed seed."""
    monkeypatch.setenv("HF_TOKEN", SECRET)
    draw = random.Random(23)
    for number in tally.tries:
        pieces = [*draw.choices(FRAGMENTS, k=draw.randint(1, 5)), *draw.choices(list(ESCAPES.values()), k=number % 2)]
        draw.shuffle(pieces)
        template = "".join([CHATML] * (number % 3 == 0) + pieces)
        with tally.one(template):
            used(template, tmp_path / str(number), tmp_path / "canary")


@pytest.mark.reliability("R23", tries=12)
def test_a_special_token_that_somebody_spells_is_text(tally) -> None:
    """Held to: the special ids of a dialogue are those of one in which everybody says a plain word, in number and
    order, whoever spells whichever special token, alone, twice or inside a word; without a template there are none."""
    for kind in ("bytes", "digits", "legacy", "unigram"):
        for template in ("chatml", "headers", "thoughtful"):
            made = backend(kind, template)
            plain = Tokenizer(made, made.pad_token_id, made.eos_token_id, len(made))
            special = {i: str(token) for i, token in made.added_tokens_decoder.items() if token.special}
            assert {*SPECIALS, "<eos>", "<pad>", "<bos>"} <= set(special.values())
            counted = set(special) - {made.unk_token_id}
            with tally.one(f"{kind}, {template}"):
                for spelled in special.values():
                    assert not counted & set(plain.encode(f"a {spelled}{spelled} b{spelled}c"))
                said = [text for one in special.values() for text in (one, one * 2, f"a{one}b", f" {one}\n")]
                hostile = [((Message("system", s), Message("user", s)), [s]) for s in said]
                honest = ((Message("system", "word"), Message("user", "word")), ["word"])
                chat = with_chat(plain, "here").chat
                assert chat is not None
                (ids, (answer,)), *found = chat.encode([honest, *hostile])
                wanted = [i for i in ids if i in counted], [i for i in answer if i in counted]
                assert wanted[0]
                for text, (own, (reply,)) in zip(said, found, strict=True):
                    assert ([i for i in own if i in counted], [i for i in reply if i in counted]) == wanted, text
