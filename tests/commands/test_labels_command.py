"""``rlhf-jax labels`` around a stand-in for the model: what people are asked, and that it comes back as it went."""

import json

import numpy as np
import pytest

from rlhf_jax.build.best_of_n import Answers
from rlhf_jax.config import default_config, to_json
from rlhf_jax.data.readers import read_file
from rlhf_jax.data.records import Record
from rlhf_jax.generation.best_of_n import Candidates
from rlhf_jax.main import main

TEMPLATE = "\n\nHuman: {prompt}\n\nAssistant:"


def test_the_template_is_not_doubled_on_the_way_to_people_and_back(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = default_config()
    config.data.template = TEMPLATE
    (tmp_path / "config.json").write_text(to_json(config))
    read = [TEMPLATE.replace("{prompt}", text) for text in ("one?", "two?")]
    rewards = np.array([[[0.5], [0.5]], [[0.9], [0.1]]])
    found = Answers(
        [Record("", prompt, ()) for prompt in read],
        [["a", "b"], ["c", "d"]],
        Candidates(np.zeros((2, 2, 1), np.int32), np.ones((2, 2, 1), bool), rewards),
        None,
    )
    monkeypatch.setattr("rlhf_jax.build.best_of_n.answer_prompts", lambda *_, **__: found)
    main(["labels", "to-labelstudio", str(tmp_path), f"--out={tmp_path / 'out'}"])
    tasks = json.loads((tmp_path / "out" / "tasks.json").read_text())
    assert [task["data"]["prompt"] for task in tasks] == ["one?", "two?"]
    judged = {"completed_by": 1, "result": [{"to_name": "answer1,answer2", "value": {"selected": "right"}}]}
    export, back = tmp_path / "export.json", tmp_path / "back.jsonl"
    export.write_text(json.dumps([{**task, "annotations": [judged]} for task in tasks]))
    main(["labels", "from-labelstudio", str(export), f"--out={back}"])
    records = read_file(back, "lists", TEMPLATE).records
    assert [record.prompt for record in records] == read
    assert [record.responses[0].text for record in records] == [task["data"]["answer2"] for task in tasks]


def test_an_export_is_not_written_over(
    tmp_path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    judged = {"completed_by": 1, "result": [{"to_name": "answer1,answer2", "value": {"selected": "left"}}]}
    text = json.dumps([{"data": {"prompt": "p", "answer1": "a", "answer2": "b"}, "annotations": [judged]}])
    (tmp_path / "export.json").write_text(text)
    with pytest.raises(SystemExit) as stop:
        main(["labels", "from-labelstudio", str(tmp_path / "export.json"), "--out=./export.json"])
    assert stop.value.code == 2
    assert "is the export itself" in capsys.readouterr().err
    assert (tmp_path / "export.json").read_text() == text
