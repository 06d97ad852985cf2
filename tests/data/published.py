"""Rows in the published formats, invented here, and the records that they are."""

import copy
import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_jax.data.records import Message, Record, Response, Span

H, A = "\n\nHuman: ", "\n\nAssistant:"
GONE = object()


@dataclasses.dataclass(frozen=True)
class Fixture:
    """Rows of one format and what ``read_file`` makes of them, under settings other than the defaults."""

    format: str
    rows: Sequence[Mapping[str, Any]]
    records: Sequence[Record]
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    duplicates: int = 0
    skipped: int = 0


def turns(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in pairs]


def messages(*pairs: tuple[str, str]) -> tuple[Message, ...]:
    return tuple(Message(*pair) for pair in pairs)


def write(path: pathlib.Path, rows: Sequence[Any]) -> pathlib.Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def changed(row: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of the row with the value at "a.0.b" set, or taken away if it is GONE."""
    new: Any = copy.deepcopy(dict(row))
    *way, last = path.split("/")
    at = new
    for key in way:
        at = at[int(key) if isinstance(at, list) else key]
    where: Any = int(last) if isinstance(at, list) else last
    if value is GONE:
        del at[where]
    else:
        at[where] = value
    return new


ASKED = ("user", "What floats?")
DIALOGUE = (("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello!"), ASKED)
TRANSCRIPT = f"Be brief.{H}Hi{A} Hello!{H}What floats?{A}"

LABEL_STUDIO_DATA = {"prompt": "What floats?", "answer1": "Cork.", "answer2": "Lead."}


def annotation(who: Any, value: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    result = {"id": "Rq1", "from_name": "pw", "to_name": "answer1,answer2", "type": "pairwise", "value": dict(value)}
    return {"id": 7, "completed_by": who, "was_cancelled": False, "ground_truth": False, "result": [result], **more}


RANKED_ITEMS = [
    {"id": "llm_1", "title": "LLM 1", "body": "Cork."},
    {"id": "llm_2", "title": "LLM 2", "body": "Wood."},
    {"id": "llm_3", "title": "LLM 3", "body": "Lead."},
    {"id": "llm_4", "title": "LLM 4", "body": "Iron."},
]


def ranking(**buckets: list[str]) -> dict[str, Any]:
    result = {"from_name": "rank", "to_name": "answers", "type": "ranker", "value": {"ranker": buckets}}
    return {"id": 8, "completed_by": {"id": 3, "email": "ann@x.org"}, "was_cancelled": False, "result": [result]}


def aspects(*ratings: str) -> dict[str, Any]:
    names = ("helpfulness", "honesty", "instruction_following", "truthfulness")
    return {name: {"Rating": rating, "Rationale": "so"} for name, rating in zip(names, ratings, strict=True)}


FIXTURES: dict[str, Fixture] = {
    "lists, every field": Fixture(
        "lists",
        [
            {
                "id": "first",
                "prompt": turns(*DIALOGUE),
                "prompt_type": "closed",
                "annotator": "ann",
                "margin": 1.5,
                "responses": [
                    {"text": "Lead.", "rank": 4, "label": False, "critique": "It sinks.", "refined": "Cork."},
                    {"text": "Cork.", "rank": 2, "score": 9, "model": "m", "label": 1},
                    {"text": "Wood.", "rank": 4, "spans": [{"start": 0, "end": 4, "label": 0.5, "kind": "facts"}]},
                ],
            }
        ],
        [
            Record(
                "first",
                TRANSCRIPT,
                (
                    Response("Cork.", 0, 9.0, "m", 1.0),
                    Response("Lead.", 1, label=0.0, critique="It sinks.", refined="Cork."),
                    Response("Wood.", 1, spans=(Span(0, 4, 0.5, "facts"),)),
                ),
                "closed",
                messages(*DIALOGUE),
                "ann",
                1.5,
            )
        ],
    ),
    "lists, one response": Fixture(
        "lists",
        [
            {"prompt": "q", "responses": [{"text": "abc", "score": 0.25}]},
            {"prompt": "q", "responses": [{"text": "abc", "label": True, "rank": 3}]},
            {
                "prompt": "q",
                "responses": [
                    {
                        "text": "abcdef",
                        "spans": [
                            {"start": 3, "end": 6, "label": True},
                            {"start": 0, "end": 3, "label": False},
                            {"start": 2, "end": 5, "label": 0.5, "kind": "tone"},
                        ],
                    }
                ],
            },
        ],
        [
            Record("f.jsonl:1", "q", (Response("abc", None, 0.25),)),
            Record("f.jsonl:2", "q", (Response("abc", 0, label=1.0),)),
            Record(
                "f.jsonl:3",
                "q",
                (Response("abcdef", spans=(Span(0, 3, 0.0), Span(2, 5, 0.5, "tone"), Span(3, 6, 1.0))),),
            ),
        ],
    ),
    "lists, a partial order": Fixture(
        "lists",
        [
            {
                "prompt": "q",
                # d > a > c and b > c: b has the best rank, but was compared with c alone.
                "responses": [{"text": t} for t in "abcd"],
                "edges": [[3, 0], [0, 2], [1, 2], [1, 2]],
            }
        ],
        [
            Record(
                "f.jsonl:1",
                "q",
                (Response("b", 0), Response("d", 0), Response("a", 1), Response("c", 2)),
                edges=((0, 3), (1, 2), (2, 3)),
            )
        ],
    ),
    "lists, labels alone": Fixture(
        "lists",
        [{"prompt": "q", "responses": [{"text": t, "label": v} for t, v in [("a", 0), ("b", 1), ("c", 0), ("b", 0)]]}],
        [
            Record(
                "f.jsonl:1",
                "q",
                (Response("b", 0, label=1.0), Response("a", 1, label=0.0), Response("c", 1, label=0.0)),
            )
        ],
        duplicates=1,
    ),
    "hh": Fixture(
        "hh",
        [
            {
                "chosen": f"{H}Hi{A} Hello!{H}What floats?{A} Cork.",
                "rejected": f"{H}Hi{A} Hello!{H}What floats?{A} Coral.",
            }
        ],
        [Record("f.jsonl:1", f"{H}Hi{A} Hello!{H}What floats?{A}", (Response(" Cork.", 0), Response(" Coral.", 1)))],
    ),
    "preference, explicit, standard": Fixture(
        "preference",
        [{"prompt": "Cork", "chosen": " floats.", "rejected": " sinks.", "margin": 2}],
        [Record("f.jsonl:1", "<Cork>", (Response(" floats.", 0), Response(" sinks.", 1)), margin=2.0)],
        {"template": "<{prompt}>"},
    ),
    "preference, implicit, standard": Fixture(
        "preference",
        [
            {"chosen": "The sky is blue.", "rejected": "The sky is green."},
            {"chosen": "The sky is blue.", "rejected": "The sky is black.", "margin": None},
        ],
        [
            Record("f.jsonl:1", "The sky is", (Response(" blue.", 0), Response(" green.", 1))),
            Record("f.jsonl:2", "The sky is", (Response(" blue.", 0), Response(" black.", 1))),
        ],
        {"template": "unused {prompt}"},
    ),
    "preference, explicit, conversational": Fixture(
        "preference",
        [
            {
                "prompt": turns(ASKED),
                "chosen": turns(("assistant", "Cork.")),
                "rejected": turns(("assistant", "Lead.")),
                "margin": 0.5,
            },
            {
                "prompt": "What floats?",  # the prompt as text, and again in both dialogues
                "chosen": turns(*DIALOGUE, ("assistant", "Cork.")),
                "rejected": turns(*DIALOGUE, ("assistant", "Lead.")),
            },
        ],
        [
            Record(
                "f.jsonl:1",
                "<What floats?>",
                (Response("Cork.", 0), Response("Lead.", 1)),
                messages=messages(ASKED),
                margin=0.5,
            ),
            Record("f.jsonl:2", TRANSCRIPT, (Response("Cork.", 0), Response("Lead.", 1)), messages=messages(*DIALOGUE)),
        ],
        {"template": "<{prompt}>"},
    ),
    "preference, implicit, conversational": Fixture(
        "preference",
        [
            {
                "chosen": turns(*DIALOGUE, ("assistant", "Cork.")),
                "rejected": turns(*DIALOGUE, ("assistant", "Lead.")),
            }
        ],
        [Record("f.jsonl:1", TRANSCRIPT, (Response("Cork.", 0), Response("Lead.", 1)), messages=messages(*DIALOGUE))],
    ),
    "unpaired, standard": Fixture(
        "unpaired",
        [
            {"prompt": "Cork", "completion": " floats.", "label": True},
            {"prompt": "Lead", "completion": " floats.", "label": False},
        ],
        [
            Record("f.jsonl:1", "Cork", (Response(" floats.", label=1.0),)),
            Record("f.jsonl:2", "Lead", (Response(" floats.", label=0.0),)),
        ],
    ),
    "unpaired, conversational": Fixture(
        "unpaired",
        [{"prompt": turns(ASKED), "completion": turns(("assistant", "Cork.")), "label": True}],
        [Record("f.jsonl:1", "What floats?", (Response("Cork.", label=1.0),), messages=messages(ASKED))],
    ),
    "demonstration, standard": Fixture(
        "demonstration",
        [{"prompt": "Cork", "completion": " floats."}],
        [Record("f.jsonl:1", "Q: Cork", (Response(" floats."),))],
        {"template": "Q: {prompt}"},
    ),
    "demonstration, conversational": Fixture(
        "demonstration",
        [{"prompt": turns(*DIALOGUE), "completion": turns(("assistant", "Cork."))}],
        [Record("f.jsonl:1", TRANSCRIPT, (Response("Cork."),), messages=messages(*DIALOGUE))],
    ),
    "messages": Fixture(
        "messages",
        [
            {"messages": turns(*DIALOGUE, ("assistant", "Cork."))},
            {"messages": turns(ASKED, ("assistant", "Let me look."), ("tool", "cork"), ("assistant", "Cork."))},
        ],
        [
            Record("f.jsonl:1", TRANSCRIPT, (Response("Cork."),), messages=messages(*DIALOGUE)),
            Record(
                "f.jsonl:2",
                f"{H}What floats?{A} Let me look.\n\nTool: cork{A}",
                (Response("Cork."),),
                messages=messages(ASKED, ("assistant", "Let me look."), ("tool", "cork")),
            ),
        ],
    ),
    "text": Fixture(
        "text",
        [
            {"text": " Cork floats. "},
            {"text": "a b c d e f g h  i j k l m n o p q r s t"},
            {"text": f"{H}Hi{A} Hello!{H}What floats?{A} Cork."},
        ],
        [
            Record("f.jsonl:1", " Cork", (Response(" floats. "),)),
            Record("f.jsonl:2", "a b c d e f g h", (Response("  i j k l m n o p q r s t"),)),
            Record("f.jsonl:3", f"{H}Hi{A} Hello!{H}What floats?{A}", (Response(" Cork."),)),
        ],
    ),
    "prompt": Fixture(
        "prompt",
        [{"prompt": "Cork"}, {"prompt": turns(ASKED)}, {"prompt": turns(*DIALOGUE)}],
        [
            Record("f.jsonl:1", "<Cork>", ()),
            Record("f.jsonl:2", "<What floats?>", (), messages=messages(ASKED)),
            Record("f.jsonl:3", TRANSCRIPT, (), messages=messages(*DIALOGUE)),
        ],
        {"template": "<{prompt}>"},
    ),
    "ultrafeedback": Fixture(
        "ultrafeedback",
        [
            {
                "source": "evol_instruct",
                "instruction": "What floats?",
                "models": ["a", "b", "c"],
                "completions": [
                    {
                        "model": "a",
                        "principle": "honesty",
                        "custom_system_prompt": "Be honest.",
                        "response": "Lead.",
                        "critique": "It sinks.",
                        "annotations": aspects("5", "5", "5", "5"),
                        "fine-grained_score": 2.25,
                        "overall_score": 9,
                    },
                    {"model": "b", "response": "Cork.", "fine-grained_score": 4.75, "overall_score": 8.5},
                    {"model": "c", "response": "Wood.", "fine-grained_score": 4.5},
                ],
                "correct_answers": ["None"],
            },
            {
                "instruction": "Q",
                "completions": [
                    {"response": "x", "annotations": aspects("4", "N/A", "3", "5")},
                    {"response": "y", "annotations": aspects("N/A", "2", "N/A", "N/A"), "overall_score": 6},
                ],
            },
            {
                "instruction": "R",
                "completions": [
                    {"response": "x", "annotations": aspects("N/A", "N/A", "N/A", "N/A"), "overall_score": 6},
                    {"response": "y", "overall_score": 8},
                ],
            },
        ],
        [
            Record(
                "f.jsonl:1",
                "What floats?",
                (
                    Response("Cork.", 0, 4.75, "b"),
                    Response("Wood.", 0, 4.5, "c"),
                    Response("Lead.", 1, 2.25, "a", critique="It sinks."),
                ),
            ),
            Record("f.jsonl:2", "Q", (Response("x", 0, 4.0), Response("y", 1, 2.0))),
            Record("f.jsonl:3", "R", (Response("y", 0, 8.0), Response("x", 1, 6.0))),
        ],
        {"tie_margin": 0.5},
    ),
    "nectar": Fixture(
        "nectar",
        [
            {
                "prompt": f"{H}What floats?{A} ",
                "answers": [
                    {"answer": "Cork.", "model": "gpt-4", "rank": 1},
                    {"answer": "Lead.", "model": "llama-2-7b-chat", "rank": 3.0},
                    {"answer": "Wood.", "model": "mistral", "rank": 2},
                ],
                "turns": 1,
                "num_responses": 3,
                "source": ["flan"],
                "good_natured": True,
            }
        ],
        [
            Record(
                "f.jsonl:1",
                f"{H}What floats?{A} ",
                (
                    Response("Cork.", 0, source="gpt-4"),
                    Response("Wood.", 1, source="mistral"),
                    Response("Lead.", 2, source="llama-2-7b-chat"),
                ),
            )
        ],
    ),
    "helpsteer3, overall": Fixture(
        "helpsteer3",
        [
            {
                "domain": "general",
                "language": "english",
                "context": turns(ASKED),
                "response1": "Lead.",
                "response2": "Cork.",
                "overall_preference": 2,
                "individual_preference": [
                    {"score": 3, "reasoning": "Lead sinks.", "feedback1": "Wrong.", "feedback2": "Right."},
                    {"score": 0, "reasoning": "Both short.", "feedback1": "Short.", "feedback2": "Terse."},
                ],
            },
            {
                "domain": "stem",
                "context": turns(*DIALOGUE),
                "response1": "a",
                "response2": "b",
                "overall_preference": 0,
            },
        ],
        [
            Record(
                "f.jsonl:1",
                "What floats?",
                (Response("Cork.", 0), Response("Lead.", 1)),
                "general",
                messages(ASKED),
                margin=2.0,
            ),
            Record(
                "f.jsonl:2", TRANSCRIPT, (Response("a", 0), Response("b", 0)), "stem", messages(*DIALOGUE), margin=0.0
            ),
        ],
    ),
    "helpsteer3, apart": Fixture(
        "helpsteer3",
        [
            {
                "context": turns(ASKED),
                "response1": "Lead.",
                "response2": "Cork.",
                "overall_preference": 2,
                "individual_preference": [
                    {"score": 3, "reasoning": "Lead sinks.", "feedback1": "Wrong.", "feedback2": "Right."},
                    {"score": -1, "reasoning": "Hm.", "feedback1": "", "feedback2": None},
                ],
            }
        ],
        [
            Record(
                "f.jsonl:1#1",
                "What floats?",
                (Response("Cork.", 0, critique="Right."), Response("Lead.", 1, critique="Wrong.")),
                "",
                messages(ASKED),
                "1",
                3.0,
            ),
            Record(
                "f.jsonl:1#2",
                "What floats?",
                (Response("Lead.", 0), Response("Cork.", 1)),
                "",
                messages(ASKED),
                "2",
                1.0,
            ),
        ],
        {"annotators": "apart"},
    ),
    "nemo_rl": Fixture(
        "nemo_rl",
        [
            {
                "context": turns(*DIALOGUE),
                "completions": [
                    {"rank": 1, "completion": turns(("assistant", "Lead."))},
                    {"rank": 0, "completion": turns(("assistant", "Cork."))},
                    {"rank": 1, "completion": turns(("assistant", "Iron."))},
                ],
                "task_name": "floating",
            }
        ],
        [
            Record(
                "f.jsonl:1",
                TRANSCRIPT,
                (Response("Cork.", 0), Response("Lead.", 1), Response("Iron.", 1)),
                messages=messages(*DIALOGUE),
            )
        ],
    ),
    "rewardbench": Fixture(
        "rewardbench",
        [
            {
                "prompt": "What floats?",
                "chosen": "Cork.",
                "chosen_model": "human",
                "rejected": "Lead.",
                "rejected_model": "gpt",
                "subset": "donotanswer",
                "id": 0,
            }
        ],
        [
            Record(
                "0",
                "What floats?",
                (Response("Cork.", 0, source="human"), Response("Lead.", 1, source="gpt")),
                "donotanswer",
            )
        ],
    ),
    "rewardbench2": Fixture(
        "rewardbench2",
        [
            {
                "id": "tied:3",
                "prompt": "Name a thing that floats.",
                "chosen": ["Cork.", "Wood."],
                "rejected": ["Lead.", "Iron.", "Lead."],
                "num_correct": 2,
                "num_incorrect": 3,
                "total_completions": 5,
                "models": ["m"],
                "subset": "Ties",
                "additional_metadata": {"category": None},
            }
        ],
        [
            Record(
                "tied:3",
                "Name a thing that floats.",
                (Response("Cork.", 0), Response("Wood.", 0), Response("Lead.", 1), Response("Iron.", 1)),
                "Ties",
            )
        ],
        duplicates=1,
    ),
    "label_studio, pairwise": Fixture(
        "label_studio",
        [
            {
                "id": 1,
                "data": LABEL_STUDIO_DATA,
                "annotations": [
                    annotation(3, {"selected": "left"}),
                    annotation(4, {"selected": "right"}),
                    annotation(5, {"selected": "left"}, was_cancelled=True),
                    {"id": 9, "completed_by": 6, "was_cancelled": False, "result": []},
                ],
                "predictions": [],
                "project": 83,
            },
            {
                "id": 2,
                "data": {"prompt": "Q", "text1": "x", "text2": "y"},
                "annotations": [annotation(3, {"selected": "right"})],
            },
        ],
        [
            Record("f.jsonl:1#1", "What floats?", (Response("Cork.", 0), Response("Lead.", 1)), annotator="3"),
            Record("f.jsonl:1#2", "What floats?", (Response("Lead.", 0), Response("Cork.", 1)), annotator="4"),
            Record("f.jsonl:2", "Q", (Response("y", 0), Response("x", 1)), annotator="3"),
        ],
        skipped=2,
    ),
    "label_studio, ranker": Fixture(
        "label_studio",
        [
            {
                "id": 1,
                "data": {"prompt": "What floats?", "items": RANKED_ITEMS},
                "annotations": [
                    ranking(rank=["llm_2", "llm_1", "llm_4", "llm_3"]),
                    ranking(_=["llm_4", "llm_3"], relevant=["llm_1", "llm_2"]),
                    ranking(_=["llm_1", "llm_2", "llm_3", "llm_4"], relevant=[]),
                    ranking(_=[], relevant=["llm_2", "llm_1"], biased=["llm_4", "llm_3"]),
                ],
            }
        ],
        [
            Record(
                "f.jsonl:1#1",
                "What floats?",
                (
                    Response("Wood.", 0, source="LLM 2"),
                    Response("Cork.", 1, source="LLM 1"),
                    Response("Iron.", 2, source="LLM 4"),
                    Response("Lead.", 3, source="LLM 3"),
                ),
                annotator="ann@x.org",
            ),
            Record(
                "f.jsonl:1#2",
                "What floats?",
                (Response("Cork.", 0, source="LLM 1"), Response("Wood.", 1, source="LLM 2")),
                annotator="ann@x.org",
            ),
            Record(  # buckets are not compared with each other
                "f.jsonl:1#3",
                "What floats?",
                (
                    Response("Wood.", 0, source="LLM 2"),
                    Response("Iron.", 0, source="LLM 4"),
                    Response("Cork.", 1, source="LLM 1"),
                    Response("Lead.", 1, source="LLM 3"),
                ),
                annotator="ann@x.org",
                edges=((0, 2), (1, 3)),
            ),
        ],
        skipped=1,
    ),
    "argilla 1, records": Fixture(
        "argilla",
        [
            {
                "id": "c0",
                "fields": {"prompt": "What floats?", "response_1": "Lead.", "response_2": "Cork.", "note": "x"},
                "responses": [
                    {
                        "user_id": "u1",
                        "status": "submitted",
                        "values": {
                            "preference": {
                                "value": [{"rank": 2, "value": "response-1"}, {"rank": 1, "value": "response-2"}]
                            },
                            "rationale": {"value": "Cork is light."},
                        },
                    },
                    {
                        "user_id": "u2",
                        "status": "discarded",
                        "values": {
                            "preference": {
                                "value": [{"rank": 1, "value": "response-1"}, {"rank": 1, "value": "response-2"}]
                            }
                        },
                    },
                ],
                "suggestions": [],
                "metadata": {},
            }
        ],
        [Record("f.jsonl:1", "What floats?", (Response("Cork.", 0), Response("Lead.", 1)), annotator="u1")],
        skipped=1,
    ),
    "argilla 1, on the Hub": Fixture(
        "argilla",
        [
            {
                "context": "What floats?",
                "reply_1": "Lead.",
                "reply_2": "Cork.",
                "reply_3": "Iron.",
                "reply-ranking": [
                    {
                        "user_id": "u1",
                        "value": {"rank": [2, 1, 2], "value": ["reply-1", "reply-2", "reply-3"]},
                        "status": "submitted",
                    }
                ],
                "reply-ranking-suggestion": {"rank": [1], "value": ["reply-1"]},
                "external_id": None,
                "metadata": "{}",
            }
        ],
        [
            Record(
                "f.jsonl:1",
                "What floats?",
                (Response("Cork.", 0), Response("Lead.", 1), Response("Iron.", 1)),
                annotator="u1",
            )
        ],
    ),
    "argilla 2, records": Fixture(
        "argilla",
        [
            {
                "id": "r0",
                "fields": {"chat": turns(*DIALOGUE), "response_1": "Lead.", "response_2": "Cork."},
                "metadata": {},
                "suggestions": {},
                "responses": {
                    "ranking": [{"value": ["response_2", "response_1"], "user_id": "u1"}],
                    "rating": [{"value": 3, "user_id": "u1"}],
                },
                "vectors": {},
                "_server_id": "s0",
            }
        ],
        [
            Record(
                "f.jsonl:1",
                TRANSCRIPT,
                (Response("Cork.", 0), Response("Lead.", 1)),
                messages=messages(*DIALOGUE),
                annotator="u1",
            )
        ],
    ),
    "argilla 2, flat": Fixture(
        "argilla",
        [
            {
                "id": "r0",
                "status": "completed",
                "_server_id": "s0",
                "instruction": "What floats?",
                "a": "Lead.",
                "b": "Cork.",
                "topic": "a piece of metadata",
                "ranking.responses": [["b", "a"], ["a", "b"]],
                "ranking.responses.users": ["u1", "u2"],
                "ranking.responses.status": ["submitted", "draft"],
                "ranking.suggestion": ["a", "b"],
            }
        ],
        [Record("f.jsonl:1", "What floats?", (Response("Cork.", 0), Response("Lead.", 1)), annotator="u1")],
        skipped=1,
    ),
}

# (fixture, path in its first row, new value, what the message must say)
BAD: list[tuple[str, str, Any, str]] = [
    ("lists, every field", "prompt", GONE, "prompt: missing"),
    ("lists, every field", "prompt", 3, "prompt: expected a string, found int"),
    ("lists, every field", "prompt", [], "prompt: no messages"),
    ("lists, every field", "prompt/0", "Hi", r"prompt\[0\]: expected an object, found str"),
    ("lists, every field", "prompt/1/role", "human", r"prompt\[1\].role: 'human' is not one of system, user"),
    ("lists, every field", "prompt/1/content", None, r"prompt\[1\].content: missing"),
    ("lists, every field", "prompt/3/role", "assistant", "prompt: ends with a turn of the assistant"),
    ("lists, every field", "prompt_type", "", "prompt_type: empty"),
    ("lists, every field", "annotator", [], "annotator: expected a string, found list"),
    ("lists, every field", "margin", -1, "margin: -1 is negative"),
    ("lists, every field", "margin", float("nan"), "margin: not finite"),
    ("lists, every field", "margin", "1", "margin: expected a number, found str"),
    ("lists, every field", "responses", GONE, "responses: missing"),
    ("lists, every field", "responses", {}, "responses: expected a list, found dict"),
    ("lists, every field", "responses/0", "a", r"responses\[0\]: expected an object, found str"),
    ("lists, every field", "responses/1/text", "\ud800", r"responses\[1\].text: lone surrogate"),
    ("lists, every field", "responses/1/text", " ", r"responses\[1\].text: empty response text"),
    ("lists, every field", "responses/1/rank", -1, r"responses\[1\].rank: expected a whole number from 0"),
    ("lists, every field", "responses/1/rank", 1.5, r"responses\[1\].rank: expected a whole number from 0"),
    ("lists, every field", "responses/1/rank", True, r"responses\[1\].rank: expected a whole number from 0"),
    ("lists, every field", "responses/1/rank", None, "responses: rank given for some responses only"),
    ("lists, every field", "responses/1/score", float("inf"), r"responses\[1\].score: not finite"),
    ("lists, every field", "responses/1/label", 1.25, r"responses\[1\].label: 1.25 is outside \[0, 1\]"),
    ("lists, every field", "responses/1/label", "good", r"responses\[1\].label: expected a number, found str"),
    ("lists, every field", "responses/0/critique", 1, r"responses\[0\].critique: expected a string"),
    ("lists, every field", "responses/0/refined", "", r"responses\[0\].refined: empty"),
    ("lists, every field", "responses/2/spans", 1, r"responses\[2\].spans: expected a list"),
    ("lists, every field", "responses/2/spans/0", 1, r"responses\[2\].spans\[0\]: expected an object"),
    ("lists, every field", "responses/2/spans/0/start", -1, r"spans\[0\].start: expected a whole number"),
    ("lists, every field", "responses/2/spans/0/start", 4, r"spans\[0\]: 4..4 is empty or outside the 5"),
    ("lists, every field", "responses/2/spans/0/end", 6, r"spans\[0\]: 0..6 is empty or outside the 5"),
    ("lists, every field", "responses/2/spans/0/label", -0.5, r"spans\[0\].label: -0.5 is outside"),
    ("lists, every field", "responses/2/spans/0/kind", 1, r"spans\[0\].kind: expected a string"),
    ("lists, every field", "edges", [[0, 1]], "edges: given beside ranks"),
    (
        "lists, one response",
        "responses/0/spans",
        [{"start": 1, "end": 3, "label": 1, "kind": "x"}, {"start": 0, "end": 2, "label": 0, "kind": "x"}],
        r"responses\[0\].spans: 1..3 overlaps the span before it of kind 'x'",
    ),
    ("lists, one response", "responses/0/score", GONE, "responses: 1 distinct, at least 2"),
    ("lists, one response", "edges", [], "responses: 1 distinct, at least 2"),
    ("lists, a partial order", "edges", [], "edges: no comparisons"),
    ("lists, a partial order", "edges", {}, "edges: expected a list, found dict"),
    ("lists, a partial order", "edges/0", [1], r"edges\[0\]: expected \[better, worse\]"),
    ("lists, a partial order", "edges/0", [4, 0], r"edges\[0\]: expected a whole number in 0..3, found 4"),
    ("lists, a partial order", "edges/0", [-1, 0], r"edges\[0\]: expected a whole number in 0..3, found -1"),
    ("lists, a partial order", "edges/0", [2, 0], "edges: cyclic, "),
    ("lists, a partial order", "edges/0", [2, 2], "edges: cyclic, 2 is better than 2"),
    ("lists, a partial order", "responses/1/text", "a", "edges: responses repeat one text"),
    ("hh", "rejected", GONE, "rejected: missing"),
    ("hh", "chosen", [], "chosen: expected a string, found list"),
    ("hh", "rejected", f"{H}Bye{A} Cork.", "rejected: prompts do not match"),
    ("hh", "rejected", f"{H}Hi{A} Hello!{H}What floats?{A} \n", "rejected: empty response text"),
    ("hh", "rejected", f"{H}Hi{A} Hello!{H}What floats?{A}  Cork.", "rejected: equals chosen but for white"),
    ("hh", "rejected", f"{H}Hi{A} Hey!{H}What floats?{A} Cork.", "prompts do not match .the texts part before"),
    ("preference, explicit, standard", "prompt", " ", "prompt: empty text"),
    ("preference, explicit, standard", "rejected", GONE, "rejected: missing"),
    ("preference, explicit, standard", "rejected", " floats.", "rejected: equals chosen"),
    ("preference, explicit, standard", "chosen", "", "chosen: empty response text"),
    ("preference, explicit, standard", "margin", -2, "margin: -2 is negative"),
    ("preference, implicit, standard", "rejected", "A sky is green.", "rejected: prompts do not match"),
    ("preference, implicit, standard", "rejected", "The sky is blue.", "rejected: equals chosen|empty response"),
    ("preference, implicit, standard", "rejected", "The sky is", "rejected: empty response text"),
    ("preference, explicit, conversational", "chosen/0/role", "user", "chosen: the last turn is the user's"),
    ("preference, explicit, conversational", "chosen", [], "chosen: no messages"),
    ("preference, explicit, conversational", "rejected", " Lead.", "rejected: expected a list of messages"),
    ("preference, explicit, conversational", "prompt", [], "prompt: no messages"),
    ("preference, explicit, conversational", "rejected/0/content", "Cork.", "rejected: equals chosen"),
    (
        "preference, explicit, conversational",
        "rejected",
        turns(("tool", "x"), ("assistant", "Lead.")),
        "rejected: prompts do not match .differs from chosen before the last turn",
    ),
    ("preference, implicit, conversational", "rejected/1/content", "Ho", "rejected: prompts do not match"),
    ("preference, implicit, conversational", "prompt", "Something else?", "prompt: is no turn of chosen"),
    ("preference, implicit, conversational", "chosen", turns(("assistant", "x")), "chosen: no turn before"),
    ("unpaired, standard", "label", "yes", "label: expected a number, found str"),
    ("unpaired, standard", "label", 2, r"label: 2 is outside \[0, 1\]"),
    ("unpaired, standard", "label", GONE, "label: missing"),
    ("unpaired, standard", "completion", " ", "completion: empty response text"),
    ("unpaired, standard", "prompt", GONE, "prompt: missing"),
    ("unpaired, conversational", "completion/0/role", "bot", r"completion\[0\].role: 'bot' is not one of"),
    ("unpaired, conversational", "completion", turns(ASKED), "completion: the last turn is the user's"),
    ("demonstration, standard", "completion", 3, "completion: expected a string, found int"),
    ("demonstration, conversational", "completion", [], "completion: no messages"),
    ("messages", "messages/4/role", "user", "messages: the last turn is the user's, not the assistant's"),
    ("messages", "messages/3/role", "assistant", "messages: two turns of the assistant"),
    ("messages", "messages", "Hi", "messages: expected a list of messages, found str"),
    ("messages", "messages/0/content", [], r"messages\[0\].content: expected a string, found list"),
    ("text", "text", "", "text: empty text"),
    ("text", "text", " Cork ", "text: a single word, at least 2 are needed"),
    ("text", "text", f"{H}Hi{A} Hello!{H}Bye", "text: the last turn is the user's"),
    ("prompt", "prompt", "\n", "prompt: empty text"),
    ("ultrafeedback", "instruction", None, "instruction: missing"),
    ("ultrafeedback", "completions", [], "completions: 0 distinct, at least 2 are needed"),
    ("ultrafeedback", "completions/0/response", "", r"completions\[0\].response: empty response text"),
    ("ultrafeedback", "completions/0/fine-grained_score", float("nan"), "fine-grained_score: not finite"),
    ("ultrafeedback", "completions/2/fine-grained_score", GONE, r"completions\[2\]: no fine-grained_score, rating or"),
    ("ultrafeedback", "completions/1", {"response": "x", "annotations": aspects("4", "x", "3", "5")}, "honesty.Rating"),
    ("ultrafeedback", "completions/2", {"response": "x", "overall_score": 6}, "completions: some have no score but ov"),
    ("ultrafeedback", "completions/0/critique", 5, r"completions\[0\].critique: expected a string"),
    ("nectar", "prompt", "What floats?", "prompt: does not end with"),
    ("nectar", "answers/0/rank", -1, r"answers\[0\].rank: expected a whole number"),
    ("nectar", "answers/0/rank", "1", r"answers\[0\].rank: expected a whole number"),
    ("nectar", "answers/0/rank", GONE, r"answers\[0\].rank: missing"),
    ("nectar", "answers/0/answer", None, r"answers\[0\].answer: missing"),
    ("nectar", "answers", [{"answer": "a", "rank": 1}], "answers: 1 distinct"),
    ("helpsteer3, overall", "overall_preference", 4, "overall_preference: expected a whole number in -3..3, found 4"),
    ("helpsteer3, overall", "overall_preference", None, "overall_preference: missing"),
    ("helpsteer3, overall", "context", "Hi", "context: expected a list, found str"),
    ("helpsteer3, overall", "response2", "Lead.", "response2: equals response1"),
    ("helpsteer3, overall", "response1", GONE, "response1: missing"),
    ("helpsteer3, apart", "individual_preference/1/score", -4, r"individual_preference\[1\].score: expected"),
    ("helpsteer3, apart", "individual_preference", [], "individual_preference: no preferences"),
    ("helpsteer3, apart", "individual_preference/0/feedback1", 1, r"\[0\].feedback1: expected a string"),
    ("nemo_rl", "completions/0/rank", -1, r"completions\[0\].rank: expected a whole number"),
    ("nemo_rl", "completions/0/completion", "Lead.", r"completions\[0\].completion: expected a list of messages"),
    ("nemo_rl", "completions/0/completion/0/role", "user", r"completions\[0\].completion: the last turn is"),
    ("nemo_rl", "completions/1/completion", turns(("tool", "x"), ("assistant", "y")), r"\[1\].completion: prompts do"),
    ("nemo_rl", "completions", [], "completions: 0 distinct"),
    ("nemo_rl", "context", [], "context: no messages"),
    ("rewardbench", "subset", 1, "subset: expected a string, found int"),
    ("rewardbench", "rejected", "Cork.", "rejected: equals chosen"),
    ("rewardbench", "id", [], "id: expected a string, found list"),
    ("rewardbench2", "num_correct", 3, "num_correct: 3, but there are 2"),
    ("rewardbench2", "num_incorrect", 2, "num_incorrect: 2, but there are 3"),
    ("rewardbench2", "total_completions", 4, "total_completions: 4, but there are 5"),
    ("rewardbench2", "total_completions", GONE, "total_completions: missing"),
    ("rewardbench2", "rejected/0", "Wood.", "rejected: repeats a chosen response"),
    ("rewardbench2", "rejected", [], "rejected: no responses"),
    ("rewardbench2", "chosen/1", "", r"chosen\[1\]: empty response text"),
    ("rewardbench2", "subset", GONE, "subset: missing"),
    ("label_studio, pairwise", "data/prompt", GONE, "data.prompt: missing"),
    ("label_studio, pairwise", "data/answer2", "Cork.", "data.answer2: equals data.answer1"),
    ("label_studio, pairwise", "data/answer2", GONE, r"to_name: 'answer1,answer2' names no two texts of data"),
    ("label_studio, pairwise", "annotations/0/result/0/value/selected", "both", "value.selected: 'both' is not"),
    ("label_studio, pairwise", "annotations/0/result/0/value", None, r"annotations\[0\].result\[0\].value: missing"),
    ("label_studio, pairwise", "annotations/0/completed_by", 1.5, r"annotations\[0\].completed_by: expected a user"),
    ("label_studio, pairwise", "annotations", {}, "annotations: expected a list, found dict"),
    ("label_studio, ranker", "data/items/0/id", "llm_2", r"data.items\[1\].id: 'llm_2' is the id of two items"),
    ("label_studio, ranker", "data/items/0/id", None, r"data.items\[0\].id: expected a string"),
    ("label_studio, ranker", "data/items/0/body", " ", r"data.items\[0\].body: empty response text"),
    (
        "label_studio, ranker",
        "annotations/0/result/0/value/ranker/rank/0",
        "llm_9",
        r"ranker.rank\[0\]: no item 'llm_9'",
    ),
    (
        "label_studio, ranker",
        "annotations/0/result/0/value/ranker/rank/0",
        "llm_1",
        r"ranker.rank\[1\]: .*placed twice",
    ),
    ("label_studio, ranker", "data/items/0/body", "Lead.", "data.items: two items have the same body"),
    ("argilla 1, records", "fields/prompt", GONE, r"fields\.prompt: missing \(and no field is called"),
    ("argilla 1, records", "fields/response_2", GONE, "responses.0..values.preference: ranks 'response-2'"),
    (
        "argilla 1, records",
        "responses/0/values/preference/value/0/rank",
        -1,
        "responses.0..values.preference.value.0..rank: expected a whole number",
    ),
    (
        "argilla 1, records",
        "responses/0/values/preference/value/0/value",
        "response-2",
        "responses.0..values.preference: ranks 'response-2' twice",
    ),
    ("argilla 1, records", "fields/response_1", "", "fields.response_1: empty response text"),
    ("argilla 1, records", "responses/0/values/preference/value/1", None, r"values.preference.value\[1\]: missing"),
    ("argilla 2, records", "responses/ranking/0/value/1", 5, r"responses.ranking\[0\].value\[1\]: expected a string"),
    ("argilla 2, flat", "ranking.responses", GONE, "fields: missing .and no column holds answers to a question"),
    ("argilla 1, on the Hub", "reply-ranking/0/value/rank", [1], r"reply-ranking\[0\]: 1 ranks of 3 values"),
    ("argilla 2, records", "responses/ranking/0/value", ["response_2", "x"], r"responses.ranking\[0\]: ranks 'x'"),
    ("argilla 2, records", "responses/ranking", {}, "responses.ranking: expected a list, found dict"),
    ("argilla 2, flat", "ranking.responses/0", ["b", "b"], r"ranking.responses\[0\]: ranks 'b' twice"),
    ("argilla 2, flat", "instruction", GONE, r"prompt: missing \(and no field is called"),
]
