"""Prompt and persona files: what the model is shown, what it may answer, and what is refused."""

import hashlib
import json
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
import yaml

from components.synthesis.prompts import (
    Configuration,
    load_personas,
    load_prompts,
    personas_version,
    prompt_version,
)

OFFERED = [
    "A cook who salts",
    "A judge who weighs",
    "A pilot who lands",
    "A monk who sings",
    "A diver who sinks",
]


def test_the_version_is_the_digest_of_the_file(tmp_path: Path):
    own = files("components.synthesis").joinpath("prompts.yaml").read_bytes()
    copy = tmp_path / "mine.yaml"
    copy.write_bytes(own)
    assert prompt_version() == prompt_version(str(copy)) == hashlib.sha256(own).hexdigest()[:16]
    copy.write_bytes(own + b"# a remark\n")
    assert prompt_version(str(copy)) != prompt_version()


def test_a_chat_is_examples_in_turns_and_ends_with_the_passage():
    prompts = load_prompts()
    choice = Configuration(character=OFFERED[0], question_type="keywords", difficulty="phd")
    for messages in (
        prompts.configuration_messages("the passage itself", OFFERED),
        prompts.query_messages("the passage itself", choice, 7, "German"),
    ):
        roles = [message["role"] for message in messages]
        assert roles[0] == "system"
        assert roles[1:] == ["user", "assistant"] * ((len(roles) - 2) // 2) + ["user"]
        assert "the passage itself" in messages[-1]["content"]
    last = prompts.query_messages("the passage itself", choice, 7, "German")[-1]["content"]
    assert "German" in last
    assert "7 words" in last
    assert "A cook" in last


def test_the_examples_answer_by_the_schemas_the_model_must_follow():
    prompts = load_prompts()
    for example in prompts.configuration.examples:
        schema = json.loads(prompts.configuration_schema(example.characters))
        jsonschema.validate(example.answer.model_dump(), schema)
    for message in prompts.query_messages("p", prompts.configuration.examples[0].answer, 5, "English"):
        if message["role"] == "assistant":
            jsonschema.validate(json.loads(message["content"]), json.loads(prompts.query_schema()))


@pytest.mark.parametrize(
    "answer",
    [
        {"character": "A king who rules", "question_type": "keywords", "difficulty": "phd"},
        {"character": OFFERED[0], "question_type": "rhetorical", "difficulty": "phd"},
        {"character": OFFERED[0], "question_type": "keywords"},
        {"character": OFFERED[0], "question_type": "keywords", "difficulty": "phd", "mood": "happy"},
    ],
)
def test_the_schema_admits_only_what_was_offered(answer: dict[str, str]):
    schema = json.loads(load_prompts().configuration_schema(OFFERED))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(answer, schema)


def test_examples_of_the_wanted_type_stand_last():
    prompts = load_prompts()
    for wanted in prompts.question_types:
        choice = Configuration(character=OFFERED[0], question_type=wanted, difficulty="phd")
        shown = prompts.query_messages("p", choice, 5, "English")[-2]["content"]
        query = json.loads(shown)["query"]
        assert {e.question_type for e in prompts.query.examples if e.query == query} == {wanted}


def test_the_types_and_difficulties_are_those_of_the_paper():
    prompts = load_prompts()
    assert set(prompts.question_types) == {
        "keywords",
        "acquire_knowledge",
        "summary",
        "yes_or_no",
        "background",
    }
    assert set(prompts.difficulties) == {"high_school", "university", "phd"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file["query"].update(user="{passage} {mood}"), "mood"),
        (lambda file: file["query"].update(user="only {character}"), "must contain {passage}"),
        (lambda file: file.update(question_types={"keywords": "few words"}), "not defined"),
        (lambda file: file["query"]["examples"][0].pop("query"), "query.examples.0.query"),
        (lambda file: file.update(temperatur=1), "temperatur"),
        (lambda file: file["configuration"]["examples"][0]["characters"].clear(), "not among its characters"),
    ],
)
def test_a_wrong_prompt_file_is_refused_in_one_sentence(tmp_path: Path, change, message: str):
    file = yaml.safe_load(files("components.synthesis").joinpath("prompts.yaml").read_text())
    change(file)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(file))
    with pytest.raises(ValueError, match=message) as raised:
        load_prompts(str(path))
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_files_that_are_missing_broken_or_too_small_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"synthesis\.prompts.*does not exist"):
        prompt_version(str(tmp_path / "none.yaml"))
    with pytest.raises(ValueError, match=r"synthesis\.personas.*does not exist"):
        personas_version(str(tmp_path / "none.txt"))
    broken = tmp_path / "broken.yaml"
    broken.write_text("query: [")
    with pytest.raises(ValueError, match="is not YAML"):
        load_prompts(str(broken))
    few = tmp_path / "few.txt"
    few.write_text("A cook who salts\n\nA cook who salts\nA judge\n")
    with pytest.raises(ValueError, match="holds 2 personas"):
        load_personas(str(few))


def test_a_language_without_a_name_is_refused():
    assert load_prompts().language_name("zh") == "Chinese"
    with pytest.raises(ValueError, match="'xx'"):
        load_prompts().language_name("xx")
