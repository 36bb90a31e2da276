"""Docstrings of installed libraries, read from source with `ast`. No library is ever imported.

An object is public if no part of its name within its module begins with an underscore and it can be reached
by a public path: either a package above it exposes it (`numpy.linalg` exposes what `numpy/linalg/_linalg.py`
defines, by `from ._linalg import *`), or every part of its module's name is public. It is named by the
shortest such package, which is how its users write it: `numpy.linalg.svd`.
"""

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

SCHEME = "docstrings://"
# Tests are no documentation, vendored copies belong to another library.
SKIPPED_FOLDERS = {"tests", "test", "_vendor", "vendor", "externals", "thirdparty_files", "third_party"}
FEWEST_SUMMARY_WORDS, MOST_SUMMARY_WORDS = 3, 30

_SIGNATURE = re.compile(r"[\w.]+\(.*\)(\s*->.*)?$")
# A docstring that begins with a section, a list of arguments (`input_ids (torch.Tensor of shape ...): ...`),
# a directive or code.
_NO_SUMMARY = re.compile(
    r"(Args|Arguments|Parameters|Returns?|Yields|Raises|Examples?)\b ?[:-]|\w+ \(.*\) ?:|\.\. |```|>>>"
)
_ROLE = re.compile(r":[\w:]+:`~?(?:[^`<]*<)?([^`>]+)>?`")
# A template that is filled while the library is imported: `%(name)s`, or a line that is nothing but `{name}`.
_TEMPLATE = re.compile(r"%\(\w+\)[sd]|^\s*\{\w+\}\s*$", re.MULTILINE)
_PLACEHOLDER = re.compile(r"\{\w+\}")


@dataclass(frozen=True)
class Docstring:
    """A documented public object.

    Attributes:
        name: dotted public name, `numpy.linalg.svd`.
        kind: "function", "class" or "method".
        file: source file, relative to the folder that holds the library.
        text: the docstring as `inspect.cleandoc` gives it.
    """

    name: str
    kind: str
    file: str
    text: str


@dataclass(frozen=True)
class Labelled:
    """A docstring as retrieval data: `summary` is the query, `body` the text of its document."""

    summary: str
    body: str


@dataclass
class _Module:
    file: str
    is_package: bool
    docstrings: list[tuple[str, str, str]] = field(default_factory=list)  # name in the module, kind, text
    defined: set[str] = field(default_factory=set)
    imported: dict[str, tuple[str, str]] = field(default_factory=dict)  # name here -> (module, name there)
    stars: list[str] = field(default_factory=list)
    exported: set[str] | None = None  # a literal __all__


def libraries(source: str) -> list[str]:
    """The import names in `docstrings://numpy,scipy`.

    Raises:
        ValueError: none is named, or one is not a top-level import name.
    """
    names = [name.strip() for name in source.removeprefix(SCHEME).split(",") if name.strip()]
    if not names:
        raise ValueError(f"{source}: no library is named; write for example {SCHEME}numpy,scipy")
    for name in names:
        if not name.isidentifier():
            raise ValueError(f"{source}: `{name}` is not a top-level import name such as numpy or sklearn")
    return names


def locate(library: str) -> Path:
    """The folder of an installed package, or the file of a single-module library.

    Raises:
        ValueError: it is not installed, or has no Python source.
    """
    try:
        spec = importlib.util.find_spec(library)  # of a top-level name: finds, does not import
    except ValueError:
        spec = None
    if spec is None:
        raise ValueError(
            f"{SCHEME}{library}: no library of this import name is installed here "
            f"(the import name counts: sklearn, not scikit-learn)"
        )
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    if spec.origin and spec.origin.endswith(".py"):
        return Path(spec.origin)
    raise ValueError(f"{SCHEME}{library}: it has no Python source to read docstrings from")


def source_files(library: str) -> list[Path]:
    """The Python files that `read_docstrings` reads, sorted."""
    root = locate(library)
    if root.is_file():
        return [root]
    files = [
        file for file in root.rglob("*.py") if not SKIPPED_FOLDERS & set(file.relative_to(root).parts[:-1])
    ]
    return sorted(files, key=lambda file: file.relative_to(root).parts)


def distribution_versions(library: str) -> dict[str, str]:
    """Version by name of the distributions that hold the library; empty for the standard library."""
    names = sorted(set(_distributions().get(library, [])))
    return {name: importlib.metadata.version(name) for name in names}


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def library_digest(library: str) -> str:
    """SHA-256 (hex) of version and source, from the hashes the installer recorded, else from the files."""
    locate(library)
    digest = hashlib.sha256()
    versions = distribution_versions(library)
    recorded = []
    for name, version in versions.items():
        digest.update(f"{name}=={version}\n".encode())
        record = importlib.metadata.distribution(name).read_text("RECORD") or ""
        # Scripts and byte code differ between machines; the source does not.
        recorded += [line for line in record.splitlines() if re.match(rf"{library}(/.*)?\.py,sha256=", line)]
    if not recorded:
        root = locate(library).parent
        for file in source_files(library):
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            recorded.append(f"{file.relative_to(root).as_posix()},{content}")
    digest.update("\n".join(sorted(recorded)).encode())
    return digest.hexdigest()


def read_docstrings(library: str, on_file: Callable[[], None] = lambda: None) -> list[Docstring]:
    """Every documented public function, class and method of an installed library, sorted by name.

    An object that is defined twice (in both branches of an `if`) counts once, with its first docstring. A
    file that this version of Python cannot parse is left out, as an import of it would fail.

    Args:
        library: top-level import name.
        on_file: called after each file.

    Raises:
        ValueError: the library is not installed, or has no Python source.
    """
    root = locate(library).parent
    modules: dict[str, _Module] = {}
    for file in source_files(library):
        relative = file.relative_to(root)
        parts = relative.with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        module = _read_module(file, relative.as_posix(), name, is_package)
        if module is not None:
            modules[name] = module
        on_file()

    public = _public_names(modules)
    found: dict[str, Docstring] = {}
    for name, module in modules.items():
        for local, kind, text in module.docstrings:
            top, _, rest = local.partition(".")
            stem = public.get((name, top)) or (f"{name}.{top}" if _is_public(name) else None)
            if stem is not None:
                full = f"{stem}.{rest}" if rest else stem
                found.setdefault(full, Docstring(full, kind, module.file, text))
    return [found[name] for name in sorted(found)]


def label(text: str) -> Labelled | str:
    """Cut a docstring into summary and body, or say in one word why it cannot serve.

    The summary is the first paragraph with white space folded and reStructuredText marks removed; a signature
    that stands before it goes to the body.

    Returns:
        the two parts, or a reason: `template`, `no_summary`, `no_body`, `summary_too_short`,
        `summary_too_long`, `summary_in_body`.
    """
    first, rest = _paragraph(text)
    signature = ""
    if _SIGNATURE.fullmatch(_fold(first)):
        signature = first
        first, rest = _paragraph(rest)
    summary = _fold(_ROLE.sub(r"\1", first).replace("`", ""))
    words = len(summary.split())
    if _TEMPLATE.search(text) or _PLACEHOLDER.search(first):
        return "template"
    if _NO_SUMMARY.match(_fold(first)):
        return "no_summary"
    if not rest:
        return "no_body"
    if words < FEWEST_SUMMARY_WORDS:
        return "summary_too_short"
    if words > MOST_SUMMARY_WORDS:
        return "summary_too_long"
    body = f"{signature}\n\n{rest}" if signature else rest
    folded = _fold(body)
    if summary in folded or _fold(first) in folded:
        return "summary_in_body"
    return Labelled(summary, body)


def _paragraph(text: str) -> tuple[str, str]:
    """The first paragraph and what comes after it; the indentation of the rest stays."""
    first, _, rest = re.sub(r"\n[ \t]+\n", "\n\n", text.strip()).partition("\n\n")
    return first, rest.strip("\n").rstrip()


def _fold(text: str) -> str:
    return " ".join(text.split())


def _is_public(dotted: str) -> bool:
    return not any(part.startswith("_") for part in dotted.split("."))


def _read_module(file: Path, relative: str, name: str, is_package: bool) -> _Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return None
    module = _Module(relative, is_package)
    for node in _statements(tree.body):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                module.defined.add(node.name)
                module.docstrings += _documented(node, prefix="")
            case ast.ImportFrom():
                origin = _absolute(node, name, is_package)
                for alias in node.names:
                    if alias.name == "*":
                        module.stars.append(origin)
                    else:
                        module.imported[alias.asname or alias.name] = (origin, alias.name)
            case ast.Assign(targets=[ast.Name(id="__all__")], value=ast.List() | ast.Tuple() as value):
                module.exported = {item.value for item in value.elts if _is_string(item)}  # type: ignore[attr-defined]
    return module


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module, those inside `if`, `try` and `with` included (`if TYPE_CHECKING:`)."""
    for node in body:
        yield node
        match node:
            case ast.If():
                yield from _statements(node.body + node.orelse)
            case ast.Try():
                handlers = [statement for handler in node.handlers for statement in handler.body]
                yield from _statements(node.body + handlers + node.orelse + node.finalbody)
            case ast.With():
                yield from _statements(node.body)


def _documented(node: ast.AST, prefix: str) -> Iterator[tuple[str, str, str]]:
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    if node.name.startswith("_"):
        return
    is_class = isinstance(node, ast.ClassDef)
    text = ast.get_docstring(node)
    if text:
        kind = "class" if is_class else "method" if prefix else "function"
        # An escape such as "\ud800" in the source is half of a character, which no table can hold.
        yield prefix + node.name, kind, text.encode("utf-8", "replace").decode()
    if is_class:
        for child in _statements(node.body):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield from _documented(child, f"{prefix}{node.name}.")


def _absolute(node: ast.ImportFrom, module: str, is_package: bool) -> str:
    """The module that `from ..x import y` in `module` means."""
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    base = parts[: len(parts) - node.level + is_package]
    return ".".join([*base, node.module] if node.module else base)


def _is_string(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _public_names(modules: dict[str, _Module]) -> dict[tuple[str, str], str]:
    """(module, name) of a definition -> its shortest name in a public package above it."""
    namespaces: dict[str, set[str]] = {}

    def namespace(name: str) -> set[str]:
        """The names that a module holds, those of its star imports included."""
        if name not in namespaces:
            module = modules[name]
            # Stands there while its star imports are followed: they may come back to it.
            names = namespaces[name] = module.defined | module.imported.keys()
            for star in module.stars:
                if star in modules and star != name:
                    exported = modules[star].exported
                    names |= namespace(star) if exported is None else namespace(star) & exported
        return namespaces[name]

    def definition(module: str, name: str, above: frozenset[tuple[str, str]]) -> tuple[str, str] | None:
        """Follow imports to where a name is defined; None for a module, a constant or another library."""
        if module not in modules or (module, name) in above:
            return None
        here = modules[module]
        if name in here.defined:
            return module, name
        above = above | {(module, name)}
        if name in here.imported:
            return definition(*here.imported[name], above)
        for star in reversed(here.stars):
            if star in modules and name in namespace(star):
                return definition(star, name, above)
        return None

    public: dict[tuple[str, str], str] = {}
    packages = [name for name, module in modules.items() if module.is_package and _is_public(name)]
    for package in sorted(packages, key=lambda name: (name.count("."), name)):
        for name in sorted(namespace(package)):
            found = None if name.startswith("_") else definition(package, name, frozenset())
            if found and found[0].startswith(f"{package}.") and not found[1].startswith("_"):
                public.setdefault(found, f"{package}.{name}")
    return public
