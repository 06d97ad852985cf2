"""One valid row of each format, and the ways in which a row goes bad, so that every (class, format) is made by rule.

A form names what of its row is a text that must be there, a number, a list, an id; a class of malformed rows is
applied to each such place. What is expected of a cell is declared here: the message, or None where a documented rule
takes the row as it is.
"""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tests.data.published import GONE, changed, turns

H, A = "\n\nHuman: ", "\n\nAssistant:"


@dataclasses.dataclass(frozen=True)
class Form:
    """A valid row of a format. Places are written as "responses/0/text".

    ``texts``: required ones, the last two of which are the answers if there are two (``pair``). ``numbers``: their kind
    by place, one of number, margin (a number from 0), whole (from 0), preference (-3..3), label. ``lists``: those that
    must be there. ``says``: of a place, what is said of its absence where that is not "missing".
    """

    format: str
    row: Mapping[str, Any]
    texts: tuple[str, ...]
    numbers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    lists: tuple[str, ...] = ()
    pair: bool = True
    id: str = ""
    says: Mapping[str, str] = dataclasses.field(default_factory=dict)


USER, GOOD, BAD = turns(("user", "What floats?")), turns(("assistant", "Cork.")), turns(("assistant", "Lead."))
TALK = f"{H}What floats?{A}"
SELECTED = {"completed_by": 3, "result": [{"to_name": "answer1,answer2", "value": {"selected": "left"}}]}
ORDER = {"completed_by": 3, "result": [{"value": {"ranker": {"order": ["x", "y"]}}}]}
RANKED = [{"rank": 1, "value": "a"}, {"rank": 2, "value": "b"}]
NO_FIELD, NO_SIDE = "ranks '[ab]', but no field is called so", "names no two texts of data"
SHORTER = "total_completions: 3, but there are 2"

FORMS: dict[str, Form] = {
    "lists, scores": Form(
        "lists",
        {
            "id": "one",
            "prompt": "What floats?",
            "responses": [{"text": "Cork.", "score": 2}, {"text": "Lead.", "score": 1}],
        },
        ("prompt", "responses/0/text", "responses/1/text"),
        {"responses/0/score": "number"},
        ("responses",),
        id="id",
    ),
    "lists, ranks": Form(
        "lists",
        {"prompt": USER, "responses": [{"text": "Cork.", "rank": 0}, {"text": "Lead.", "rank": 1}], "margin": 1.5},
        ("prompt/0/role", "prompt/0/content", "responses/0/text", "responses/1/text"),
        {"responses/1/rank": "whole", "margin": "margin"},
        ("prompt", "responses"),
    ),
    "lists, labels": Form(
        "lists",
        {"prompt": "What floats?", "responses": [{"text": "Cork.", "label": True}, {"text": "Lead.", "label": False}]},
        ("prompt", "responses/0/text", "responses/1/text"),
        {"responses/0/label": "label"},
        ("responses",),
    ),
    "hh": Form("hh", {"chosen": f"{TALK} Cork.", "rejected": f"{TALK} Lead."}, ("chosen", "rejected")),
    "preference": Form(
        "preference",
        {"prompt": "What floats?", "chosen": "Cork.", "rejected": "Lead.", "margin": 2},
        ("prompt", "chosen", "rejected"),
        {"margin": "margin"},
        says={"prompt": "rejected: prompts do not match"},  # without one it is what both texts share
    ),
    "preference, messages": Form(
        "preference",
        {"prompt": USER, "chosen": GOOD, "rejected": BAD},
        ("prompt/0/content", "chosen/0/role", "chosen/0/content", "rejected/0/content"),
        lists=("chosen", "rejected"),
    ),
    "unpaired": Form(
        "unpaired",
        {"prompt": "What floats?", "completion": "Cork.", "label": True},
        ("prompt", "completion"),
        {"label": "label"},
        pair=False,
    ),
    "demonstration": Form(
        "demonstration", {"prompt": "What floats?", "completion": "Cork."}, ("prompt", "completion"), pair=False
    ),
    "messages": Form(
        "messages",
        {"messages": [*USER, *GOOD]},
        ("messages/0/role", "messages/0/content", "messages/1/role", "messages/1/content"),
        lists=("messages",),
        pair=False,
    ),
    "text": Form("text", {"text": "Cork is what floats."}, ("text",), pair=False),
    "prompt": Form("prompt", {"prompt": "What floats?"}, ("prompt",), pair=False),
    "ultrafeedback": Form(
        "ultrafeedback",
        {
            "instruction": "What floats?",
            "completions": [
                {"response": "Cork.", "fine-grained_score": 4.5},
                {"response": "Lead.", "fine-grained_score": 2},
            ],
        },
        ("instruction", "completions/0/response", "completions/1/response"),
        {"completions/0/fine-grained_score": "number"},
        ("completions",),
    ),
    "nectar": Form(
        "nectar",
        {"prompt": TALK, "answers": [{"answer": "Cork.", "rank": 1}, {"answer": "Lead.", "rank": 2}]},
        ("prompt", "answers/0/answer", "answers/1/answer"),
        {"answers/0/rank": "whole"},
        ("answers",),
    ),
    "helpsteer3": Form(
        "helpsteer3",
        {"context": USER, "response1": "Cork.", "response2": "Lead.", "overall_preference": -2, "domain": "general"},
        ("context/0/role", "context/0/content", "response1", "response2"),
        {"overall_preference": "preference"},
        ("context",),
    ),
    "nemo_rl": Form(
        "nemo_rl",
        {"context": USER, "completions": [{"rank": 0, "completion": GOOD}, {"rank": 1, "completion": BAD}]},
        ("context/0/content", "completions/0/completion/0/content", "completions/1/completion/0/content"),
        {"completions/0/rank": "whole"},
        ("context", "completions", "completions/0/completion"),
    ),
    "rewardbench": Form(
        "rewardbench",
        {"id": 3, "prompt": "What floats?", "chosen": "Cork.", "rejected": "Lead.", "subset": "chat"},
        ("prompt", "subset", "chosen", "rejected"),
        id="id",
    ),
    "rewardbench2": Form(
        "rewardbench2",
        {
            "id": "3",
            "prompt": "What floats?",
            "chosen": ["Cork."],
            "rejected": ["Lead.", "Iron."],
            "num_correct": 1,
            "total_completions": 3,
            "subset": "Factuality",
        },
        ("prompt", "subset", "rejected/0", "rejected/1"),
        {"num_correct": "whole", "total_completions": "whole"},
        ("chosen", "rejected"),
        id="id",
        says={"rejected/0": SHORTER, "rejected/1": SHORTER},
    ),
    "label_studio, pairwise": Form(
        "label_studio",
        {"data": {"prompt": "What floats?", "answer1": "Cork.", "answer2": "Lead."}, "annotations": [SELECTED]},
        ("data/prompt", "data/answer1", "data/answer2"),
        lists=("annotations", "annotations/0/result"),
        says={"data/answer1": NO_SIDE, "data/answer2": NO_SIDE},
    ),
    "label_studio, ranker": Form(
        "label_studio",
        {
            "data": {"prompt": "What floats?", "items": [{"id": "x", "body": "Cork."}, {"id": "y", "body": "Lead."}]},
            "annotations": [ORDER],
        },
        ("data/prompt", "data/items/0/body", "data/items/1/body"),
        lists=("data/items", "annotations", "annotations/0/result"),
    ),
    "argilla 1": Form(
        "argilla",
        {
            "fields": {"prompt": "What floats?", "a": "Cork.", "b": "Lead."},
            "responses": [{"user_id": "u", "values": {"ranking": {"value": RANKED}}}],
        },
        ("fields/prompt", "fields/a", "fields/b"),
        {"responses/0/values/ranking/value/0/rank": "whole"},
        ("responses",),
        says={"fields/a": NO_FIELD, "fields/b": NO_FIELD},
    ),
    "argilla 2": Form(
        "argilla",
        {
            "fields": {"prompt": "What floats?", "a": "Cork.", "b": "Lead."},
            "responses": {"ranking": [{"user_id": "u", "value": ["a", "b"]}]},
        },
        ("fields/prompt", "fields/a", "fields/b"),
        lists=("responses/ranking",),
        says={"fields/a": NO_FIELD, "fields/b": NO_FIELD},
    ),
    "argilla 2, flat": Form(
        "argilla",
        {"prompt": "What floats?", "a": "Cork.", "b": "Lead.", "ranking.responses": [["a", "b"]]},
        ("prompt", "a", "b"),
        lists=("ranking.responses",),
        says={"a": NO_FIELD, "b": NO_FIELD},
    ),
}


SILENT = "no judgement"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A class of malformed rows at a place of a form: the row (an object, or the bytes of a line), and the pattern of
    the message; None: it is taken, by a rule of docs/reliability.md, and gives one record; SILENT: it is taken and says
    nothing, which is counted."""

    name: str
    form: Form
    row: Mapping[str, Any] | bytes
    says: str | None


def field(place: str) -> str:
    """A place as messages name it."""
    return re.sub(r"/(\d+)", r"[\1]", place).replace("/", ".")


def cells() -> Iterator[Cell]:
    """Every (class, form, place) there is."""
    for name, form in FORMS.items():
        for make in (_texts, _numbers, _lists, _answers, _ids, _lines, _odd_but_valid):
            yield from (dataclasses.replace(cell, name=f"{name}: {cell.name}") for cell in make(form))


def _at(form: Form, kind: str, place: str, value: Any, says: str | None) -> Cell:
    return Cell(f"{kind} at {place}", form, changed(form.row, place, value), says)


def _texts(form: Form) -> Iterator[Cell]:
    for place in form.texts:
        at = re.escape(field(place))
        absent = form.says.get(place, f"{at}: missing")
        of_texts = place.rpartition("/")[2].isdigit()  # without one of its items a list is shorter
        yield _at(form, "a null text", place, None, f"{at}: missing" if of_texts else absent)
        yield _at(form, "a missing text", place, GONE, absent)
        for kind, value, found in (("a number as text", 5, "int"), ("a truth value as text", True, "bool")):
            wrong = absent if form.format == "argilla" else f"{at}: expected a string, found {found}"
            yield _at(form, kind, place, value, wrong)
        strange = absent if form.format == "argilla" else f"{at}: expected a string, found dict"
        yield _at(form, "an object as text", place, {"x": "y"}, strange)
        for kind, value in (("an empty text", ""), ("a blank text", " \n\t\u00a0\u2003")):
            yield _at(form, kind, place, value, f"{at}: empty (response )?text")
        yield _at(
            form, "a lone surrogate", place, "Cork\ud800.", f"{at}: (lone surrogate|'Cork.*is not one of|does not end)"
        )
        yield _at(
            form, "a surrogate the wrong way round", place, "\udc00\ud83d", f"{at}: (lone surrogate|.*is not one of)"
        )


WHOLE = "expected a whole number"
FINITE, NUMBER = "not finite", "expected a number, found"
# By kind of number: what is said of a value.
NUMBERS: tuple[tuple[str, Any, dict[str, str | None]], ...] = (
    ("NaN", float("nan"), {"number": FINITE, "margin": FINITE, "label": FINITE, "whole": WHOLE, "preference": WHOLE}),
    (
        "Infinity",
        float("inf"),
        {"number": FINITE, "margin": FINITE, "label": FINITE, "whole": WHOLE, "preference": WHOLE},
    ),
    (
        "-Infinity",
        float("-inf"),
        {"number": FINITE, "margin": FINITE, "label": FINITE, "whole": WHOLE, "preference": WHOLE},
    ),
    ("400 digits", 10**400, {"number": FINITE, "margin": FINITE, "label": FINITE, "whole": WHOLE, "preference": WHOLE}),
    ("2^31", 2**31, {"number": None, "margin": None, "label": "is outside", "whole": WHOLE, "preference": WHOLE}),
    ("a text", "1", {"number": NUMBER, "margin": NUMBER, "label": NUMBER, "whole": WHOLE, "preference": WHOLE}),
    ("a list", [1], {"number": NUMBER, "margin": NUMBER, "label": NUMBER, "whole": WHOLE, "preference": WHOLE}),
    ("an object", {}, {"number": NUMBER, "margin": NUMBER, "label": NUMBER, "whole": WHOLE, "preference": WHOLE}),
    ("a truth value", True, {"number": NUMBER, "margin": NUMBER, "label": None, "whole": WHOLE, "preference": WHOLE}),
    ("a fraction", 1.5, {"number": None, "margin": None, "label": "is outside", "whole": WHOLE, "preference": WHOLE}),
    (
        "below 0",
        -1,
        {"number": None, "margin": "is negative", "label": "is outside", "whole": WHOLE, "preference": None},
    ),
    (
        "beyond the scale",
        7,
        {"number": None, "margin": None, "label": "is outside", "whole": None, "preference": WHOLE},
    ),
    ("1e308", 1e308, {"number": None, "margin": None, "label": "is outside", "whole": WHOLE, "preference": WHOLE}),
)


def _numbers(form: Form) -> Iterator[Cell]:
    for place, kind in form.numbers.items():
        counts = form.format == "rewardbench2"  # of the responses of the row
        for name, value, said in NUMBERS:
            why = said[kind] or ("but there are" if counts else None)
            yield _at(form, f"{name} as a number", place, value, why and f"{re.escape(field(place))}: .*{why}")
        text = json.dumps(changed(form.row, place, 424242))
        for name, digits, why in (
            ("1e400", "1e400", f"{re.escape(field(place))}: .*({FINITE}|{WHOLE})"),
            ("5,000 digits", "9" * 5000, "row: not JSON"),
            ("a leading zero", "01", "row: not JSON"),
            ("a hexadecimal number", "0x1", "row: not JSON"),
        ):
            yield Cell(f"{name} as a number at {place}", form, text.replace("424242", digits).encode(), why)


def _lists(form: Form) -> Iterator[Cell]:
    for place in form.lists:
        at = re.escape(field(place))
        none = f"{at}: missing"
        if place == "responses/ranking":
            none = SILENT if form.row["fields"] else none
        if place != "ranking.responses":  # a flat export is known by that column
            yield _at(form, "a null list", place, None, none)
            yield _at(form, "a missing list", place, GONE, none)
        for kind, value in (
            ("an object as a list", {"0": 1}),
            ("a number as a list", 3),
            ("a text as a list", "Cork."),
        ):
            by_question = (form.format, place, kind) == ("argilla", "responses", "an object as a list")
            if (place, kind) == ("prompt", "a text as a list") or by_question:
                continue  # a text is a prompt, and answers by question are those of 2.x
            yield _at(form, kind, place, value, rf"{at}(\.0)?: expected (a list|a string)")
        silent = place.split("/")[0] in ("annotations", "ranking.responses") or form.format == "argilla"
        few = r"(0 distinct|no responses|no messages|no item|num_correct)"
        yield _at(form, "an empty list", place, [], SILENT if silent else few)
        if place in ("chosen", "rejected", "ranking.responses") and form.format != "preference":
            continue  # lists of texts, and of answers to any question
        for kind, item in (("null", None), ("a number", 5), ("a list", [])):
            yield _at(form, f"{kind} as an item", f"{place}/0", item, rf"{at}\[0\]: (missing|expected an object)")


def _answers(form: Form) -> Iterator[Cell]:
    """The two answers against each other."""
    if not form.pair:
        return
    one, other = form.texts[-2:]
    there = {"lists": "1 distinct", "nectar": "1 distinct", "ultrafeedback": "1 distinct", "nemo_rl": "1 distinct"}
    there |= {"argilla": "1 distinct", "label_studio": "(1 distinct|equals)"}
    first = form.row
    for key in one.split("/"):
        first = first[int(key) if isinstance(first, list) else key]
    if form.format == "rewardbench2":
        yield _at(form, "both answers alike", other, "Cork.", "rejected: repeats a chosen response")
    else:
        # Of identical texts the first is kept, and counted; alone it needs feedback of its own.
        alone = form.format == "lists" and _judged(form)
        yield _at(form, "both answers alike", other, first, None if alone else there.get(form.format, "equals"))
    if form.format in ("hh", "preference", "rewardbench", "helpsteer3") and "content" not in other:
        yield _at(form, "alike but for white space", other, f"{first} \n", "equals")
    for place in (
        form.lists[-1:] if form.format in there and form.format not in ("label_studio", "nemo_rl", "argilla") else ()
    ):
        yield _at(
            form,
            "a single response",
            f"{place}/1",
            GONE,
            None if form.format == "lists" and _judged(form) else "1 distinct",
        )
    for place, kind in form.numbers.items():
        if kind == "whole" and form.format != "rewardbench2":
            yield _at(form, "a gap in the ranks", place, 1000, None)
            for value in (1 if form.format in ("nectar", "lists") else 0, 2):
                yield _at(form, f"rank {value}, all tied or not", place, value, None)
        if place.endswith("score"):
            yield _at(form, "equal scores", place, 1 if form.format == "lists" else 2, None)
            says = "score given for some" if form.format == "lists" else "no fine-grained_score"
            yield _at(form, "a score of one response alone", place, None, says)
        if kind == "preference":
            yield _at(form, "a tie", place, 0, None)


def _judged(form: Form) -> bool:
    """Whether one response alone says something: by a score or a label."""
    return any(place.endswith(("score", "label")) for place in form.numbers)


def _ids(form: Form) -> Iterator[Cell]:
    if form.id:
        yield _at(form, "the id of another row", form.id, "again", "id: 'again' is also that of (line|row) 1")
        for value in (1.5, [], {}, True):
            yield _at(form, f"{value!r} as id", form.id, value, "id: expected a string")
        yield _at(form, "an id with a lone surrogate", form.id, "\udfff", "id: lone surrogate")


def _lines(form: Form) -> Iterator[Cell]:
    """What is wrong with the text of a row, whatever is in it."""
    whole = json.dumps(form.row)
    data = whole.encode()
    key = next(iter(form.row))
    twice = whole[:-1] + f', "{key}": 1}}'
    bad_utf8 = data.replace(b"Cork", b"C\xffrk") if b"Cork" in data else data.replace(b"floats", b"fl\xffats")
    for kind, line, says in (
        ("cut in the middle", data[: len(data) // 2], "row: (not JSON|expected)"),
        ("cut before its end", data[:-1], "row: not JSON"),
        ("cut inside a character", data[:-2] + "é".encode()[:1], "row: invalid UTF-8"),
        ("a list", b"[" + data + b"]", "row: expected an object, found list"),
        ("a text", b'"Cork."', "row: expected an object, found str"),
        ("a number", b"5", "row: expected an object, found int"),
        ("null", b"null", "row: expected an object, found NoneType"),
        ("true", b"true", "row: expected an object, found bool"),
        ("NaN", b"NaN", "row: expected an object, found float"),
        ("no object's end", data + b"}", "row: not JSON"),
        ("two objects", data + data, "row: not JSON"),
        ("a comma after it", data + b",", "row: not JSON"),
        ("a comma at the end of the object", data[:-1] + b",}", "row: not JSON"),
        ("single quotes", whole.replace('"', "'").encode(), "row: not JSON"),
        ("a comment", b"// " + data, "row: not JSON"),
        (
            "a tab inside a text",
            data.replace(b"at", b"\t", 1) if b"at" in data else data[:-2] + b'\t"}',
            "row: not JSON",
        ),
        ("bytes that are no UTF-8", bad_utf8, "row: invalid UTF-8 at byte"),
        ("an overlong encoding", data.replace(b"{", b'{"x": "\xc0\xaf", ', 1), "row: invalid UTF-8"),
        ("a surrogate as bytes", data.replace(b"{", b'{"x": "\xed\xa0\x80", ', 1), "row: invalid UTF-8"),
        ("UTF-16", whole.encode("utf-16"), "row: (invalid UTF-8|not JSON)"),
        ("Latin-1", data.replace(b"{", b'{"x": "\xe9t\xe9", ', 1), "row: invalid UTF-8"),
        ("a byte order mark in the middle of the file", b"\xef\xbb\xbf" + data, "row: not JSON"),
        ("a key twice", twice.encode(), f"{re.escape(key)}: given twice"),
        ("a key twice, inside", whole.replace("{", '{"x": {"y": 1, "y": 2}, ', 1).encode(), "y: given twice"),
        ("a nest of 100,000 lists", data[:-1] + b', "x": ' + b"[" * 100_000 + b"}", "row: not JSON"),
        ("a nest of 100,000 objects", data[:-1] + b', "x": ' + b'{"a":' * 100_000 + b"}", "row: not JSON"),
        ("nothing of the format", b'{"x": 1}', ": "),
        ("an empty object", b"{}", ": "),
        ("bytes 0", b"\0" * 50, "row: not JSON"),
        ("text that is no JSON", b"prompt,chosen,rejected", "row: not JSON"),
        ("XML", b"<row/>", "row: not JSON"),
        ("a pickle", b"\x80\x04\x95\x10.", "row: invalid UTF-8"),
    ):
        yield Cell(f"a line that is {kind}", form, line, says)


def _odd_but_valid(form: Form) -> Iterator[Cell]:
    """What looks bad and is taken: texts are kept to the character, other fields left alone."""
    data = json.dumps(form.row)
    for kind, line in (
        ("white space around", f" \t{data}  "),
        ("another field", data[:-1] + ', "other": [NaN, {"a": -Infinity}, null]}'),
        ("another field of 500 nested lists", data[:-1] + ', "other": ' + "[" * 500 + "]" * 500 + "}"),
        ("another field of 10 MB", data[:-1] + f', "other": "{"x" * 10_000_000}"}}'),
        ("escapes of every character", _escaped(data)),
    ):
        yield Cell(f"a line with {kind}", form, line.encode(), None)


def _escaped(text: str) -> str:
    r"""Each letter of JSON's strings as \uXXXX."""
    parts = re.split(r'("(?:[^"\\]|\\.)*")', text)
    return "".join(
        '"' + "".join(f"\\u{ord(c):04x}" for c in json.loads(part)) + '"' if part.startswith('"') else part
        for part in parts
    )
