"""Tasks go out, come back as an export, and end as ranked lists that the readers take."""

import json
import xml.etree.ElementTree as ElementTree

import pytest

from rlhf_jax.data.label_studio import KINDS, labelling_config, lists_row, task, unwrapped
from rlhf_jax.data.readers import read_file
from rlhf_jax.data.records import Record, Response

TEXTS = ["first <b>&amp;</b>", "second, \n\nlonger", "drei"]


def export(path, kind, judgements):
    """What Label Studio writes: each of ``judgements`` is {annotator: texts, best first} of one task."""
    rows = []
    for number, judged in enumerate(judgements):
        texts = TEXTS[:2] if kind == "pairwise" else TEXTS
        own = task(kind, f"prompt {number}?", texts, {"prompt_index": number}, ("open", "")[number])
        annotations = []
        for who, order in judged.items():
            if kind == "pairwise":
                side = "left" if own["data"]["answer1"] == order[0] else "right"
                value, names = {"selected": side}, ("choice", "answer1,answer2")
            else:
                ids = {item["body"]: item["id"] for item in own["data"]["items"]}
                value, names = {"ranker": {"order": [ids[text] for text in order]}}, ("order", "answers")
            result = {"id": "r", "from_name": names[0], "to_name": names[1], "type": "x", "value": value}
            annotations.append({"id": 1, "completed_by": who, "was_cancelled": False, "result": [result]})
        rows.append({"id": number, **own, "annotations": annotations})
    path.write_text(json.dumps(rows))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_the_configuration_shows_what_the_tasks_hold(kind):
    root = ElementTree.fromstring(labelling_config(kind))
    shown = {element.get("value", "").removeprefix("$") for element in root.iter() if "$" in element.get("value", "")}
    assert shown == set(task(kind, "p", TEXTS[:2], {})["data"])
    names = {element.get("name") for element in root.iter()} - {None}
    for element in root.iter():
        for name in (element.get("toName") or "").split(","):
            assert not name or name in names


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kind, tmp_path):
    texts = TEXTS[:2] if kind == "pairwise" else TEXTS
    judgements = [{1: texts, 2: texts[::-1]}, {2: texts}]
    found = read_file(export(tmp_path / "export.json", kind, judgements), "label_studio").records
    assert [(r.prompt, r.annotator, [x.text for x in r.responses]) for r in found] == [
        ("prompt 0?", "1", texts),
        ("prompt 0?", "2", texts[::-1]),
        ("prompt 1?", "2", texts),
    ]
    path = tmp_path / "lists.jsonl"
    path.write_text("".join(map(lists_row, found)))
    again = read_file(path, "lists").records
    assert [(r.prompt, r.annotator) for r in again] == [(r.prompt, r.annotator) for r in found]
    assert [r.prompt_type for r in found] == [r.prompt_type for r in again] == ["open", "open", ""]
    for one, other in zip(found, again, strict=True):
        assert [(x.text, x.rank) for x in one.responses] == [(x.text, x.rank) for x in other.responses]


@pytest.mark.parametrize(
    ("prompt", "template", "shown"),
    [
        ("\n\nHuman: why?\n\nAssistant:", "\n\nHuman: {prompt}\n\nAssistant:", "why?"),
        ("why?", "{prompt}", "why?"),
        ("Be brief.\n\nHuman: why?\n\nAssistant:", "\n\nHuman: {prompt}\n\nAssistant:", None),
        ("aba", "ab{prompt}ba", None),
        ("abba", "ab{prompt}ba", None),
    ],
)
def test_people_see_prompts_without_the_template(prompt, template, shown):
    assert unwrapped(prompt, template) == (prompt if shown is None else shown)


def test_a_partial_order_keeps_its_edges(tmp_path):
    responses = tuple(Response(text, rank) for text, rank in zip("abc", (0, 1, 0), strict=True))
    record = Record("", "p", responses, "open", annotator="ann", edges=((0, 1),))
    path = tmp_path / "lists.jsonl"
    path.write_text(lists_row(record))
    (again,) = read_file(path, "lists").records
    text = {place: response.text for place, response in enumerate(again.responses)}
    assert [(text[a], text[b]) for a, b in again.edges or ()] == [("a", "b")]
    assert (again.prompt_type, again.annotator) == ("open", "ann")
