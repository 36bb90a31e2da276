"""How large a model is, before it is loaded: from the headers of its files, or from its name.

Import-light: a plan shows what training it will take.
"""

import json
import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from components.model.names import fetch_model

_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blk|blocks)\.(\d+)\.")
_IN_NAME = re.compile(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)([BM])(?![A-Za-z0-9])", re.IGNORECASE)


@dataclass(frozen=True)
class ModelSize:
    """Numbers of weights.

    Attributes:
        weights: all of them: what is stored, and what an optimizer has a state for.
        in_products: those of the layers' matrices, which every token passes; without embedding tables and heads.
    """

    weights: int
    in_products: int


def model_size(name: str, layers: int | None = None) -> ModelSize | None:
    """The size of a model.

    Args:
        name: as a recipe names it. What is on this machine is measured by the shapes in its safetensors headers. Of a
            hub id the number in the name is taken (Qwen/Qwen3-Embedding-4B), embedding table included, as if all
            weights were in products; so is a GGUF file's.
        layers: keep only the first so many.

    Returns:
        None: neither can be told.
    """
    if name.startswith(("package://", "/", ".", "~")) or Path(name).exists():
        path = fetch_model(name)
        files = sorted(path.glob("*.safetensors")) if path.is_dir() else []
        if files:
            return _measured(files, layers)
        name = path.name
    found = _IN_NAME.search(name.rpartition("/")[2])
    if found is None:
        return None
    weights = round(float(found[1]) * {"B": 1e9, "M": 1e6}[found[2].upper()])
    return ModelSize(weights, weights)


def _measured(files: list[Path], layers: int | None) -> ModelSize:
    weights = in_products = 0
    for file in files:
        with file.open("rb") as opened:
            [length] = struct.unpack("<Q", opened.read(8))
            header = json.loads(opened.read(length))
        for tensor, entry in header.items():
            if tensor == "__metadata__":
                continue
            layer = _LAYER.search(tensor)
            if layer and layers is not None and int(layer[1]) >= layers:
                continue
            count = math.prod(entry["shape"])
            weights += count
            in_products += count if layer and len(entry["shape"]) == 2 else 0
    return ModelSize(weights, in_products)
