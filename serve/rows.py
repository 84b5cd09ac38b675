"""How many rows of requests may run together: what a model allows, and what its configuration asks for."""

from headrace.serve.config import ConfigError, ModelConfig
from headrace.serve.model import Model

DEFAULT_MAX_BATCH = 256


def batch_rows(model: Model, config: ModelConfig) -> tuple[int, str]:
    """The largest batch (0: requests are not merged) and why not. ConfigError when config.toml asks for more."""
    asked = config.batching.max_batch_size
    why = _obstacle(model)
    if asked == 0:
        return 0, "batching.max_batch_size is 0"
    if why and asked > 0 and config.batching.strict:
        raise ConfigError(f"batching.max_batch_size is {asked}, but the model cannot be batched: {why}")
    if why:
        return 0, why
    most: int | None = getattr(model, "max_rows", None)  # of an ensemble
    if most is not None and asked > most:
        raise ConfigError(f"batching.max_batch_size is {asked}, the steps take at most {most} rows")
    return (asked if asked > 0 else most or DEFAULT_MAX_BATCH), ""


def _obstacle(model: Model) -> str:
    if not model.inputs:
        return "the model has no input"
    for kind, specs in (("input", model.inputs), ("output", model.outputs)):
        for spec in specs:
            if not spec.shape:
                return f"{kind} {spec.name!r} has no dimension 0"
            if isinstance(spec.shape[0], int):
                return f"dimension 0 of {kind} {spec.name!r} is fixed to {spec.shape[0]}"
    rows = getattr(model, "fed_rows", model.rows)  # states go into a run as inputs: they may meet as rows do
    return "" if rows.independent else rows.reason or "rows are not proven independent"


__all__ = ["batch_rows"]
