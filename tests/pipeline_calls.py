"""Whether steps are ones that their functions can be called with."""

import inspect
import json

from components.synthesis import endpoint, settings, writer
from components.training.settings import read_options
from workflows.engine.step import resolve


def check_calls(steps):
    """Every step binds to its function's signature, and its config is plain values."""
    for step in steps:
        parameters = inspect.signature(resolve(step.fn)).parameters
        given = {**step.inputs, **step.config, **step.execution, "output": None, "monitor": None}
        given |= {name: None for name in ("state", "cache", "run_id") if name in parameters}
        bound = inspect.signature(resolve(step.fn)).bind(**given)
        if "learning_rate" in step.config:
            read_options(bound.arguments["options"])
        if "prompt_version" in step.config:
            at_endpoint = "base_url" in step.execution
            engine, own = (endpoint.Endpoint, {"model": "m"}) if at_endpoint else (writer.Hardware, {})
            settings.read_options(bound.arguments["options"], engine, **own)
        json.dumps(dict(step.config))
