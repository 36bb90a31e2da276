"""`embedloom init`: for corpora of each shape a recipe that plans and holds out what it says."""

import json
import random

import jsonschema
import pytest
import yaml

from components.corpus.duplicates import group_duplicates
from components.corpus.known_items import make_known_items
from components.corpus.readers import read_documents
from components.corpus.split import split_documents
from components.monitor import Silent
from components.pairs.sources.collect import collect_pairs
from components.storage import Folder
from workflows import cli
from workflows.cost import Backbone, Work, estimate
from workflows.engine.step import closure
from workflows.pipeline import pipeline
from workflows.profile import PROFILES, Profile
from workflows.recipe.comparison import Comparison
from workflows.recipe.load import RecipeError, load, names
from workflows.recipe.schema import Recipe
from workflows.schemas import to_json_schema

WORDS = [
    "river", "engine", "letter", "winter", "garden", "signal", "copper", "ladder", "market", "window", "planet",
]  # fmt: skip


def texts(count, length=40):
    """(title, text): no two alike."""
    rng = random.Random(0)

    def words(many):
        return [rng.choice(WORDS) + str(rng.randrange(500)) for _ in range(many)]

    return [
        (" ".join(words(3)).capitalize(), f"{' '.join(words(8)).capitalize()}. {' '.join(words(length))}.")
        for _ in range(count)
    ]


def markdown(folder, count):
    for number, (title, text) in enumerate(texts(count)):
        path = folder / f"part-{number % 3}" / f"{number}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {title}\n\n{text}\n")


def untitled_rows(folder, count):
    folder.mkdir()
    rows = [{"key": str(number), "body": text} for number, (_, text) in enumerate(texts(count))]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def long_csv(folder, count):
    folder.mkdir()
    rows = ["name,content", *(f"{title},{text}" for title, text in texts(count, length=400))]
    (folder / "rows.csv").write_text("\n".join(rows))


def beir(folder, count):
    (folder / "qrels").mkdir(parents=True)
    rows = [{"_id": str(n), "title": title, "text": text} for n, (title, text) in enumerate(texts(count))]
    queries = [{"_id": f"q{n}", "text": row["text"][:30]} for n, row in enumerate(rows)]
    for name, lines in (("corpus", rows), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for split, numbers in (("train", range(count // 2)), ("test", range(count // 2, count))):
        judged = "".join(f"q{n}\t{n}\t1\n" for n in numbers)
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)


@pytest.fixture
def init(tmp_path, monkeypatch, capsys):
    """Makes documents, runs `embedloom init` on them where they lie; the recipe, and what was said as JSON."""

    def init(make, count, *options):
        make(tmp_path / "docs", count)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", ["embedloom", "init", "docs", "--json", *options])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        assert not ended.value.code, said.err
        return load("recipe.yaml"), json.loads(said.out)

    return init


def held_out(recipe, tmp_path):
    """Documents as far as the pairs of the recipe: what its steps on documents would find."""

    def folder(name):
        return Folder(str(tmp_path / "steps" / name))

    read_documents(
        sources=recipe.documents.sources, **recipe.documents.model_dump(exclude={"sources"}),
        output=folder("read"), monitor=Silent(),
    )  # fmt: skip
    documents = folder("read")
    if recipe.known_items:
        documents = folder("known-items")
        make_known_items(
            documents=folder("read"), **recipe.known_items.model_dump(), output=documents, monitor=Silent()
        )
    duplicates = recipe.duplicates.model_dump(exclude={"remove"})
    group_duplicates(documents=documents, **duplicates, output=folder("groups"), monitor=Silent())
    split = split_documents(
        documents=documents, duplicates=folder("groups"), **recipe.split.model_dump(), output=folder("split"),
        monitor=Silent(),
    )  # fmt: skip
    pairs = collect_pairs(
        split=folder("split"), kinds=["labelled"], instruction=None, task="retrieval", limit_per_kind=None, seed=0,
        output=folder("pairs"), monitor=Silent(),
    )  # fmt: skip
    return split, pairs


@pytest.mark.parametrize(
    ("make", "count", "asked", "queries", "pairs", "steps"),
    [
        (markdown, 300, "title", 60, 240, ["pairs", "weak", "mined", "supervised", "merged"]),
        (untitled_rows, 300, "first_sentence", 60, 240, ["pairs", "weak", "mined", "supervised", "merged"]),
        (
            beir, 200, None, 100, 100,
            ["weak-pairs", "weak", "supervised-pairs", "mined", "supervised", "merged"],
        ),
    ],
)  # fmt: skip
def test_a_recipe_that_holds_out_what_it_says(init, tmp_path, make, count, asked, queries, pairs, steps):
    recipe, said = init(make, count)
    assert said["documents"] == count
    assert (said["known_items"], said["evaluation_queries"]) == (asked, queries)
    assert [*recipe.steps] == steps
    planned = {step.name for step in closure(pipeline(recipe, Profile()))}
    assert said["cost"]["work"]["steps"] == len(planned)
    split, collected = held_out(recipe, tmp_path)
    assert split["evaluation_queries"] == pytest.approx(queries, abs=2)
    assert split["evaluation_documents"] == pytest.approx(said["evaluation_documents"], abs=2)
    assert collected["rows_out"] == pytest.approx(pairs, abs=3)
    assert recipe.steps["weak"].batch_size <= collected["rows_out"] / 4


def test_long_documents_are_cut(init):
    recipe, said = init(long_csv, 120)
    assert recipe.documents.columns == {"title": "name", "text": "content"}
    assert recipe.chunks.max_tokens == recipe.model.encoding.document_length == 256
    assert said["lengths"]["median"] > 256
    assert {step.name for step in closure(pipeline(recipe, Profile()))} >= {"known-items", "chunks"}


def test_documents_in_several_languages(init):
    def two_languages(folder, count):
        folder.mkdir()
        german = "Der schnelle braune Fuchs springt über den faulen Hund, und dann läuft er weg. Danach kam"
        english = "The quick brown fox jumps over the lazy dog, and then it runs away. After that came"
        rows = [
            {"title": title, "text": f"{german if n % 3 else english} {n}."}
            for n, (title, _) in enumerate(texts(count))
        ]
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    recipe, said = init(two_languages, 120)
    assert said["languages"] == {"de": 80, "en": 40}
    assert recipe.documents.language == "de"
    assert recipe.languages.candidates == ["de", "en"]
    assert said["cost"]["work"]["steps"] == len(closure(pipeline(recipe, Profile())))


def test_an_editor_can_check_the_recipe(init, tmp_path):
    recipe, _ = init(markdown, 60)
    text = (tmp_path / "recipe.yaml").read_text()
    schema_file = text.splitlines()[0].removeprefix("# yaml-language-server: $schema=")
    schema = json.loads((tmp_path / schema_file).read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load(text), schema)
    assert recipe.documents.sources == [str(tmp_path / "docs")]
    assert 'sources: ["docs"]' in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "source nowhere does not exist"),
        (["few"], "nothing to judge a model by"),
        (["few", "-o", "there.yaml"], "there.yaml is there already"),
        (["few", "-o", "no/where.yaml"], "there is no folder no"),
    ],
)
def test_what_init_refuses(tmp_path, monkeypatch, capsys, arguments, message):
    markdown(tmp_path / "few", 10)
    (tmp_path / "there.yaml").write_text("name: mine\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["embedloom", "init", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert (tmp_path / "there.yaml").read_text() == "name: mine\n"
    assert not (tmp_path / "recipe.yaml").exists()


def test_minutes_that_cannot_be_kept_are_said_to_be_so(tmp_path, monkeypatch, capsys):
    markdown(tmp_path / "docs", 200)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("workflows.cost.matrix_product_rate", lambda: 1e9)
    monkeypatch.setattr("sys.argv", ["embedloom", "init", "docs", "--minutes", "2"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    said = " ".join(capsys.readouterr().out.split())
    assert "with as few pairs as are worth it (asked for: 2)" in said
    assert "40 are held out and searched for in 40 documents, by which only large differences show" in said


def test_the_schema_takes_what_a_recipe_takes():
    validators = {
        model: jsonschema.Draft202012Validator(json.loads(to_json_schema(model)))
        for model in (Recipe, Comparison)
    }
    for name in names():
        written = yaml.safe_load(cli_recipe(name))
        validators[Comparison if "systems" in written else Recipe].validate(written)
    validator = validators[Recipe]
    wrong = yaml.safe_load(cli_recipe("docs-search"))
    wrong["steps"]["mined"]["negatives_per_qurey"] = 2
    assert not validator.is_valid(wrong)


def cli_recipe(name):
    from workflows.recipe.load import find

    return find(name).read_text(encoding="utf-8")


def test_every_field_that_a_docstring_explains_is_explained_in_the_schema():
    schema = json.loads(to_json_schema(Recipe))
    mine = schema["$defs"]["Mine"]["properties"]
    assert (
        mine["relative_margin"]["description"]
        == "A negative scores below this share of the positive's score."
    )
    profile = json.loads(to_json_schema(Profile))
    assert profile["properties"]["workers"]["description"] == "Training workers."
    jsonschema.validate(PROFILES["laptop"].model_dump(), profile)


def test_a_wrong_column_is_refused(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("name: a\ndocuments: {sources: [x.jsonl], columns: {text: null}}\n")
    with pytest.raises(RecipeError, match=r"a.yaml:2: `documents.columns`: `text` is null"):
        load(str(path))


def test_the_arithmetic_of_the_estimate():
    """A model of one weight, attention left out: 2 FLOPs a token forward, 6 with backward."""
    work = Work(documents=0, encoded=1, encoded_tokens=100, trained=1, trained_tokens=10, length=0, steps=0)
    cost = estimate(work, Backbone(weights=1, layers=1, width=1, longest=None), rate=1.0)
    assert cost.minutes * 60 * 0.6 == pytest.approx(2 * 100 + 6 * 10)
