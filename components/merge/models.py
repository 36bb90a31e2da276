"""The merge of whole model directories: tensor after tensor, and all that belongs to a model beside its weights.

What is written stands in a folder within the target until it is whole, and config.json comes to its place last:
before that nothing takes the target for a model.
"""

import itertools
import json
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import get_args

import torch

from components.merge.shares import Shares
from components.merge.tensor import HELD, Granularity, Method, Read, TensorMerge, Write, merge_tensor
from components.merge.weights import Weights, check_same, write_weights
from components.model.agreement import ENCODING_FILE, GOLDEN_FILE
from components.model.embedder import read_spec
from components.model.export import seal
from components.model.reranker_export import seal_reranker
from components.model.reranker_file import RERANKER_FILE, read_reranker_spec
from components.monitor import Monitor

_CONFIG = "config.json"
_OF_THE_OLD_WEIGHTS = (
    "*.safetensors", "*.safetensors.index.json", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.gguf",
    "onnx", "openvino", "*.onnx", "openvino_model*", GOLDEN_FILE, ".*", "__pycache__",
)  # fmt: skip
_ENCODES = (
    "tokenizer.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)
_NO_ENCODING = ("__version__", "truncation", "padding")
_STAGING = ".merging"


@dataclass(frozen=True)
class Merging:
    """How models are merged.

    Attributes:
        method, per: as of `tensor.merge_tensor`.
        shares: how much each model counts.
    """

    shares: Shares
    method: Method = "karcher"
    per: Granularity = "tensor"

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ValueError(f"method is {self.method!r}; it must be one of {get_args(Method)}")
        if self.per not in get_args(Granularity):
            raise ValueError(f"per is {self.per!r}; it must be one of {get_args(Granularity)}")
        if self.method == "slerp" and len(self.shares.everywhere) != 2:
            raise ValueError(
                f"slerp is between two models, and there are {len(self.shares.everywhere)}; take method 'karcher'"
            )


def merge_models(
    models: Sequence[Path], base: Path | None, target: Path, merging: Merging, monitor: Monitor
) -> list[TensorMerge]:
    """Merge model directories into one.

    A piece of one tensor of each model is in memory at a time. Tensors of integers are copied. Tokenizer, modules,
    prompts and encoding are those of the models; digest and space id (of a reranker scorer id) are made anew, and
    so are golden vectors (scores), for which the result is loaded once. Output embeddings that are tied and that
    one of the models leaves out are left out.

    Args:
        models: directories; the result does not depend on their order, its files are laid out like the last one's.
        base: the model that they all come from; differences from it are merged and added to it. None: the
            weights themselves are merged.
        target: does not exist, is empty, or holds what a merge left that was killed.

    Raises:
        ValueError: the models do not encode alike, their tensors differ in name, shape or dtype, or integers
            differ in value; nothing was written.
    """
    killed = (target / _STAGING).is_dir() and not (target / _CONFIG).exists()
    if target.exists() and not killed and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} exists and is not empty; give the merged model a folder of its own")
    for model in models:
        if not (model / _CONFIG).is_file():
            raise ValueError(f"{model} is no model directory: {_CONFIG} is missing")
        check_encodes_alike(models[-1], model)
    if killed:
        shutil.rmtree(target)  # it was empty before that merge
    target.mkdir(parents=True, exist_ok=True)
    staging = target / _STAGING
    try:
        with ExitStack() as stack:
            merger = Merger(models, base, merging, stack)
            shutil.copytree(models[-1], staging, ignore=partial(_left_behind, models[-1]))
            tensors: list[TensorMerge] = []
            done = itertools.count(1)

            def fill(name: str, write: Write) -> None:
                report = merger.merge(name, write)
                if report:
                    tensors.append(report)
                monitor.progress(next(done), len(merger.names), "tensors")

            write_weights(merger.like, merger.left_out, staging, fill)
        shutil.copyfile(models[-1] / _CONFIG, staging / _CONFIG)
        _renew(staging)
        _move(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return tensors


class Merger:
    """The tensors of several models, merged one at a time.

    Args:
        models, base: as of `merge_models`.
        stack: keeps the models' files open.

    Attributes:
        like: the model whose files the result is laid out like.
        names: the tensors of the result, in the order of those files.
        left_out: tied tensors that are not in the result.

    Raises:
        ValueError: tensors that differ in name, shape or dtype, or a pattern of the shares that fits none.
    """

    def __init__(self, models: Sequence[Path], base: Path | None, merging: Merging, stack: ExitStack) -> None:
        self._merging = merging
        self._models = [stack.enter_context(Weights(model)) for model in models]
        self._base = None if base is None else stack.enter_context(Weights(base))
        self.like = self._models[-1]
        weights = [*self._models, *([self._base] if self._base else [])]
        tied = [each.tied_heads() for each in weights]
        lacking = {head for heads in tied for head in heads if any(head not in w.entries for w in weights)}
        self.left_out = frozenset(lacking)
        self._shares_as = {head: name for heads in tied for head, name in heads.items()}
        for other in weights:
            # training may have started from weights of less precision than it keeps
            check_same(self.like, other, dtypes=other is not self._base, tied=self.left_out)
        self.names = [name for name in self.like.names if name not in lacking]
        merging.shares.check_patterns(self.names)

    def merge(self, name: str, write: Write) -> TensorMerge | None:
        """Merge a tensor, piece by piece; None for one of integers, which is copied.

        Raises:
            ValueError: integers that differ between the models, or a float that is not finite.
        """
        entry = self.like.entries[name]
        reads = [self._reader(model, name) for model in self._models]
        if not entry.dtype.is_floating_point:
            self._copy(name, entry.elements, reads, write)
            return None
        return merge_tensor(
            name,
            entry.shape,
            entry.dtype,
            reads,
            None if self._base is None else self._reader(self._base, name),
            # a tied tensor is merged like the one that it repeats, or the two would come apart
            self._merging.shares.of(self._shares_as.get(name, name)),
            self._merging.method,
            self._merging.per,
            write,
        )

    @staticmethod
    def _reader(weights: Weights, name: str) -> Read:
        return lambda start, stop: weights.read(name, start, stop)

    @staticmethod
    def _copy(name: str, elements: int, reads: Sequence[Read], write: Write) -> None:
        for start in range(0, elements, HELD):
            stop = min(start + HELD, elements)
            first, *others = [read(start, stop) for read in reads]
            if any(not torch.equal(first, other) for other in others):
                raise ValueError(f"the integers of {name} differ between the models and cannot be merged")
            write(first)


def check_encodes_alike(one: Path, other: Path) -> None:
    """Refuse models whose texts become other tokens, or whose vectors are pooled otherwise.

    Rerankers likewise: the prompt is one, or the length.

    Raises:
        ValueError: naming the file, and for embedloom's own models the field, that differs.
    """
    ours, theirs = _spec(one), _spec(other)
    for name, value in ours.items() if theirs else ():
        if name != "padding_side" and theirs.get(name) != value:
            raise ValueError(
                f"{name} is {value!r} in {one} and {theirs.get(name)!r} in {other}; they cannot be merged"
            )
    modules = {
        path.relative_to(model).as_posix() for model in (one, other) for path in model.glob("*/config.json")
    }
    for name in (*_ENCODES, *sorted(modules)):
        first, second = _content(one / name), _content(other / name)
        if first != second:
            raise ValueError(
                f"{name} differs between {one} and {other}; models that encode differently cannot be merged"
            )


def _spec(model: Path) -> dict[str, object]:
    """What an embedder or a reranker of embedloom says of itself; nothing of a model made elsewhere."""
    if (model / ENCODING_FILE).is_file():
        return read_spec(model).to_json()
    told = read_reranker_spec(model)
    return asdict(told.prompt) if told.prompt else {"length": told.length} if told.length else {}


def _content(path: Path) -> object:
    """The JSON of a file, without what a program writes of itself and of its last call; None: there is none."""
    if not path.is_file():
        return None
    content = json.loads(path.read_text("utf-8"))
    if isinstance(content, dict):
        return {key: value for key, value in content.items() if key not in _NO_ENCODING}
    return content


def _left_behind(root: Path, folder: str, names: list[str]) -> set[str]:
    """What is not copied: weights in any form, what was computed from them, and the model's config.json."""
    left = {name for name in names for pattern in _OF_THE_OLD_WEIGHTS if fnmatch(name, pattern)}
    return left | ({_CONFIG} if Path(folder) == root else set())


def _renew(directory: Path) -> None:
    """What is computed from weights: digest, identity, golden rows. Of models made elsewhere there is none."""
    if (directory / ENCODING_FILE).is_file():
        seal(directory)
    elif (directory / RERANKER_FILE).is_file():
        seal_reranker(directory)


def _move(staging: Path, target: Path) -> None:
    """Everything to its place, config.json last: until it is there nothing takes the folder for a model."""
    for path in sorted(staging.iterdir(), key=lambda path: path.name == _CONFIG):
        path.replace(target / path.name)
