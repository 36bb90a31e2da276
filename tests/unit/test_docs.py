"""README and docs/: every block of code is run or held against the program, every link leads somewhere.

A fence says what it is. `python` is run, page by page in the page's order; `sh` is parsed by bash, and each call of
embedloom by its own command line; `yaml` is read as a recipe, a comparison, a profile, or as part of a recipe; `text`
is for listings and pictures. What cannot be run here stands below a comment that says what it needs, as
`<!-- needs: cluster -->`: it is still parsed, and what it imports must be there.
"""

import ast
import importlib
import itertools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

from workflows import profile as profiles
from workflows.cli import app
from workflows.profile import Profile
from workflows.recipe.load import load, load_comparison
from workflows.recipe.schema import Recipe
from workflows.reference import to_markdown

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NEEDS = {"cluster", "cloud", "gpu", "server"}
"""What a block may need that a test has not: Ray; Kubernetes, images and databases; a GPU; a running service."""
NEEDED = re.compile(r"<!-- needs: (.+) -->")
OURS = re.compile(r"(\./)?((benchmarks|cluster|components|docs|mlflow|tests|workflows)/[\w./-]+)")
SHELL_ITSELF = ("--help", "--version", "--install-completion")
OPERATORS = (">", "|", "&", "&&", ";")


@dataclass(frozen=True)
class Block:
    """Code on a page; `line` is that of its first line, from 1."""

    page: Path
    line: int
    language: str
    text: str
    needs: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text("utf-8"))


def blocks_of(page: Path) -> Iterator[Block]:
    """Fenced and indented code; the language of the latter is `indented`."""
    before = None
    for token in tokens(page):
        if token.type in ("fence", "code_block"):
            needed = (
                NEEDED.fullmatch(before.content.strip()) if before and before.type == "html_block" else None
            )
            language = token.info.strip() if token.type == "fence" else "indented"
            line = (token.map or [0])[0] + (2 if token.type == "fence" else 1)
            yield Block(page, line, language, token.content, needed[1] if needed else None)
        before = token


def inlines(page: Path, kind: str) -> Iterator[Token]:
    return (child for token in tokens(page) for child in token.children or () if child.type == kind)


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def of(*languages: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("block", [each for each in BLOCKS if each.language in languages], ids=str)


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_block_is_accounted_for(block):
    assert block.language in {"python", "sh", "yaml", "text"}, (
        f"{block}: {block.language or 'a fence without a language'}; write ```python, ```sh, ```yaml or ```text"
    )
    assert block.needs is None or block.needs in NEEDS, f"{block}: needs one of {', '.join(sorted(NEEDS))}"
    if block.language == "text":
        assert "./embedloom" not in block.text, f"{block}: a command in a listing; it is ```sh"


# ---- commands


def parse(words: list[str]) -> None:
    """Hold the words behind `embedloom` against its command line. Nothing is called.

    Raises:
        typer.BadParameter.__base__ (click's UsageError): no such command or option, or an argument is missing.
    """
    command, name, context = typer.main.get_command(app), "embedloom", None
    rest = list(itertools.takewhile(lambda word: word not in OPERATORS, words))
    if set(SHELL_ITSELF) & set(rest):
        return
    while True:
        context = command.make_context(name, rest, parent=context)
        if not isinstance(command, typer.core.TyperGroup):
            return
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])


UsageError = typer.BadParameter.__base__


def commands_of(block: Block) -> Iterator[tuple[int, list[str]]]:
    """Line and words of each command, comments aside; a line that ends in a backslash goes on."""
    number, text = block.line, ""
    for offset, line in enumerate(block.text.splitlines()):
        number = number if text else block.line + offset
        text += line
        if text.endswith("\\"):
            text = text[:-1]
            continue
        if words := shlex.split(text, comments=True):
            yield number, words
        text = ""


@of("sh")
def test_commands_are_ones_that_there_are(block, tmp_path, monkeypatch):
    for name in ("EMBEDLOOM_ADDRESS", "EMBEDLOOM_ROOT", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, "http://127.0.0.1:8265")  # the pages export them
    monkeypatch.chdir(tmp_path)
    done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{block}: {done.stderr}"
    for line, words in commands_of(block):
        where = f"{block.page.name}:{line}"
        for found in filter(None, map(OURS.fullmatch, words)):
            assert (ROOT / found[2]).exists(), f"{where}: {found[2]} is not there"
        match words:
            case ["./embedloom", *arguments]:
                for file in filter(re.compile(r"[\w-]+\.\w+").fullmatch, arguments):
                    Path(file).touch()  # of the reader
                try:
                    parse(arguments)
                except UsageError as error:
                    pytest.fail(f"{where}: {error.format_message()}")
            case ["make", target, *_]:
                assert f"\n{target}:" in (ROOT / "Makefile").read_text(), f"{where}: no such target"
            case _:
                is_script = words[0] == "python" and OURS.fullmatch(words[1])
                assert is_script or block.needs, f"{where}: `{words[0]}` is run by no test; say what it needs"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_within_sentences_are_ones_that_there_are(page):
    for span in inlines(page, "code_inline"):
        name, *words = span.content.split()
        if name in ("embedloom", "./embedloom") and words:
            try:
                parse(shlex.split(span.content)[1:])
            except UsageError as error:
                if type(error).__name__ != "MissingParameter":  # a sentence may leave out what must be given
                    pytest.fail(f"{page.name}: `{span.content}`: {error.format_message()}")


def test_the_readme_names_every_command():
    readme = (ROOT / "README.md").read_text()
    missing = [name for name in typer.main.get_command(app).commands if f"`{name}" not in readme]
    assert not missing


# ---- recipes


@of("yaml")
def test_recipes_can_be_read(block, tmp_path):
    values = yaml.safe_load(block.text)
    path = tmp_path / "page.yaml"
    path.write_text(block.text)
    required = {name for name, field in Recipe.model_fields.items() if field.is_required()}
    try:
        if "systems" in values:
            load_comparison(str(path))
        elif required <= values.keys():
            load(str(path))
        elif values.keys() <= Profile.model_fields.keys():
            profiles.load(str(path))
        else:  # steps, or other sections, of the recipe that README begins with
            whole = yaml.safe_load(next(each.text for each in BLOCKS if each.language == "yaml"))
            if all(isinstance(value, dict) and "do" in value for value in values.values()):
                values = {"steps": whole["steps"] | values}
            path.write_text(yaml.safe_dump(whole | values, sort_keys=False))
            load(str(path))
    except ValueError as error:
        pytest.fail(f"{block}: {error}")


# ---- Python


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "page", sorted({each.page for each in BLOCKS if each.language == "python"}), ids=lambda p: p.name
)
def test_python_runs(page, tmp_path):
    """In a process of its own, for examples put things into tables; a traceback has the lines of the page."""
    lines = [""] * len(page.read_text().splitlines())
    for block in blocks_of(page):
        if block.language == "python" and not block.needs:
            code = block.text.splitlines()
            lines[block.line - 1 : block.line - 1 + len(code)] = code
    (tmp_path / page.name).write_text("\n".join(lines))
    done = subprocess.run(
        [sys.executable, page.name], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, f"{page.name}: {done.stderr}"


@of("python")
def test_python_that_is_not_run_imports_what_there_is(block):
    for node in ast.walk(ast.parse(block.text)):
        if block.needs and isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
            assert not missing, f"{block}: {node.module} has no {', '.join(missing)}"


# ---- the site


@pytest.mark.parametrize("what", ["recipe", "profile"])
def test_the_reference_is_what_the_models_say(what):
    model = {"recipe": Recipe, "profile": Profile}[what]
    command = f"embedloom schema {what} --markdown"
    page = ROOT / "docs" / f"{what}.md"
    assert page.read_text() == to_markdown(model, command), f"write it again: ./{command} > docs/{what}.md"


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub and MkDocs make them."""
    found = tokens(page)
    headings = [after.content for token, after in itertools.pairwise(found) if token.type == "heading_open"]
    return {re.sub(r"[^\w\s-]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in inlines(page, "link_open"):
        target, _, anchor = str(link.attrs["href"]).partition("#")
        if "://" in target:
            continue
        where = f"{page.relative_to(ROOT)}: {link.attrs['href']}"
        there = (page.parent / target).resolve() if target else page
        assert there.exists(), f"{where} leads to nothing"
        assert not anchor or anchor in anchors(there), f"{where} leads to no heading"
        if page.parent != ROOT:
            assert there.parent == page.parent, f"{where} leads out of the site; name the file in words"


def test_the_site_has_every_page_and_loads_nothing_from_elsewhere():
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert sorted(name for entry in site["nav"] for name in entry.values()) == [
        page.name for page in PAGES[1:]
    ]
    assert site["theme"]["font"] is False
    assert "extra_javascript" not in site
    for style in site["extra_css"]:
        written = (ROOT / "docs" / style).read_text()
        assert not re.search(r"@import|url\(", written), f"{style} loads something"
