"""A request to a version that runs beside the one that answers: does it give what was recorded at its export?"""

from pathlib import Path

import numpy as np
import requests

from components.serving.errors import DeploymentError, ModelRefusedError
from components.serving.release import Release
from components.serving.verify import (
    GOLDEN_TOLERANCE,
    SCORE_TOLERANCE,
    compare_with_golden,
    compare_with_golden_scores,
)

_TIMEOUT_S = 60.0


def smoke_request(
    url: str, release: Release, directory: Path, api_key: str | None, max_memory_gib: float = 0.0
) -> None:
    """Ask the version for its golden vectors or scores, by its name and over HTTP as any client.

    Args:
        directory: the release's files.
        api_key: where the service needs one.
        max_memory_gib: what the version may take, for the words about one that fails; 0: no limit.

    Raises:
        DeploymentError: it did not answer.
        ModelRefusedError: it answered with something else than what was recorded, or as another version.
    """
    model = f"{release.model}/{release.version}"
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}

    def ask(method: str, path: str, body: dict | None = None) -> dict:
        try:
            answer = requests.request(method, f"{url}{path}", json=body, headers=headers, timeout=_TIMEOUT_S)
        except requests.RequestException as error:
            raise DeploymentError(f"{model} at {url} does not answer ({type(error).__name__})") from error
        if answer.status_code == 401:
            raise DeploymentError(f"the service at {url} needs an API key: set EMBEDLOOM_API_KEY")
        if not answer.ok:
            problem = f"{model} at {url} answers {answer.status_code}: {answer.text[:200]}"
            if answer.status_code >= 500 and max_memory_gib:
                # It was loaded, but what computes in it takes memory too.
                problem += f" It may have run out of the {max_memory_gib:g} GiB of memory that it may take."
            raise DeploymentError(problem)
        found = answer.json()
        if found["version"] != release.version:
            raise ModelRefusedError(f"{model} at {url} answers as version {found['version']}")
        return found

    def encode(texts: list[str], side: str) -> np.ndarray:
        found = ask("POST", "/v1/embeddings", {"model": model, "input": texts, "input_type": side})
        return np.array([row["embedding"] for row in found["data"]])

    def score(queries: list[str], documents: list[str]) -> list[float]:
        found = ask("POST", "/score", {"model": model, "queries": queries, "documents": documents})
        return [each["score"] for each in found["data"]]

    precision = ask("GET", f"/v1/models/{model}")["engine"].split()[-1]
    if release.kind == "embedding":
        compare_with_golden(encode, directory, release, GOLDEN_TOLERANCE[precision])
    else:
        compare_with_golden_scores(score, directory, release, SCORE_TOLERANCE[precision])
