"""What a submission sends: git says what is ignored, and a secret is told by its name or by a key in it."""

import subprocess
import zipfile
from pathlib import Path

import pytest

from workflows import packing
from workflows.packing import UnsendableError, is_secret, pack

CODE = Path(__file__).parents[2]

TREE = {
    "recipe.yaml": "name: x",
    "data/corpus.jsonl": "{}",
    "data/cache/part.bin": "x",
    "logs/a.log": "x",
    "logs/keep.log": "x",
    "deep/er/notes.txt": "x",
    "deep/er/out/x.txt": "x",
    "deep/build": "a file of the name",
    "secret.env": "KEY=1",
    ".gitignore": "*.log\n!keep.log\n/data/cache/\n*.env\n",
    "deep/.gitignore": "out/\nbuild\n",
}


@pytest.fixture
def folder(tmp_path):
    for name, text in TREE.items():
        path = tmp_path / "work" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "work"


def sent(folder: Path, *names: str) -> set[str]:
    return {name for name in pack(folder, CODE, names).files if not name.startswith(packing.CODE)}


def test_what_git_ignores_stays_here(folder):
    git = ["git", "-C", str(folder)]
    subprocess.run([*git, "init", "-q"], check=True)
    listed = subprocess.run(
        [*git, "ls-files", "--others", "--exclude-standard"], capture_output=True, text=True, check=True
    )
    assert sent(folder) == set(listed.stdout.split())


def test_so_does_what_rayignore_names(folder):
    before = sent(folder)
    (folder / ".rayignore").write_text("data/\n")
    assert sent(folder) == before - {"data/corpus.jsonl"} | {".rayignore"}


def test_the_code_goes_along_and_only_once(folder):
    there = pack(folder, CODE).files
    assert {"workflows/cli.py", "components/storage.py", "workflows/recipes/docs-search.yaml"} <= set(there)
    assert not any("__pycache__" in name for name in there)
    assert pack(CODE, CODE).files["workflows/cli.py"] == CODE / "workflows" / "cli.py"


def test_a_folder_of_the_code_s_name_is_not_mixed_with_it(folder):
    (folder / "components").mkdir()
    (folder / "components" / "mine.py").write_text("")
    with pytest.raises(UnsendableError, match="has the name of a package of embedloom"):
        pack(folder, CODE)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (".env", "A=1"),
        ("prod.env", "A=1"),
        ("tls/server.key", "x"),
        ("id_ed25519", "x"),
        (".netrc", "x"),
        ("kubeconfig", "x"),
        ("ray-token", "x"),
        ("notes.txt", "-----BEGIN " + "OPENSSH PRIVATE KEY-----\n"),
        ("settings.py", "token = 'hf_" + "a" * 34 + "'"),
        ("settings.yaml", "key: AKIA" + "Q" * 16),
    ],
)
def test_a_secret_ends_it_with_its_name(folder, name, text):
    (folder / ".gitignore").unlink()
    (folder / "secret.env").unlink()
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    with pytest.raises(UnsendableError, match=f"^{name}: looks like a secret"):
        pack(folder, CODE)
    assert name in sent(folder, name)
    (folder / ".rayignore").write_text(f"/{name}\n")
    assert name not in sent(folder)


@pytest.mark.parametrize("name", [".env.example", "id_rsa.pub", "tokenizer.json", "keys.py", "monkey.txt"])
def test_what_is_none_is_sent(folder, name):
    (folder / name).write_text("token_count: 1")
    assert not is_secret(folder / name)
    assert name in sent(folder)


def test_this_project_can_be_sent_as_it_is():
    assert "workflows/cli.py" in pack(CODE, CODE).files


def test_a_large_file_ends_it_with_name_and_size(folder, monkeypatch):
    (folder / "vectors.npy").write_bytes(bytes(3 * 2**20))
    monkeypatch.setattr(packing, "LARGEST_FILE", 2 * 2**20)
    with pytest.raises(UnsendableError, match=r"vectors.npy \(3.0 MiB\): is larger than 2.0 MiB.*s3://"):
        pack(folder, CODE)
    assert "vectors.npy" in sent(folder, "vectors.npy")
    monkeypatch.setattr(packing, "LARGEST_PACKAGE", 2**20)
    with pytest.raises(UnsendableError, match=r"would send .* more than 1\.0 MiB; most of it: vectors"):
        pack(folder, CODE, ["vectors.npy"])


def test_send_names_what_is_there(folder):
    with pytest.raises(UnsendableError, match=r"--send nothing.bin: .* sends no such file"):
        pack(folder, CODE, ["nothing.bin"])


def test_the_same_files_make_the_same_bytes(folder, tmp_path):
    def written(name: str) -> bytes:
        pack(folder, CODE).write(tmp_path / name)
        return (tmp_path / name).read_bytes()

    first = written("a.zip")
    (folder / "recipe.yaml").write_text(TREE["recipe.yaml"])  # another time of change
    assert written("b.zip") == first
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.read("deep/er/notes.txt") == b"x"
    (folder / "recipe.yaml").write_text("name: y")
    assert written("c.zip") != first
