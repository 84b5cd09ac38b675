"""What serving needs of a loaded model, wherever it runs."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from headrace.runtime.errors import HeadraceError
from headrace.serve.datatypes import Array


class TensorSpec(Protocol):
    """One input or output of a loaded model. A dimension is an int, None when unknown, or symbolic: anything whose text
    is its name. Shape None is unknown rank."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[Any, ...] | None: ...


class RowProof(Protocol):
    """Whether row i of every output depends on row i of the inputs alone, and what stands in the way."""

    @property
    def independent(self) -> bool: ...
    @property
    def reason(self) -> str: ...


class VerifyReport(Protocol):
    """The outcome of running a package's golden data again; `max_error` NaN: it has none. `outputs`: error and bound of
    each."""

    @property
    def ok(self) -> bool: ...
    @property
    def message(self) -> str: ...
    @property
    def max_error(self) -> float: ...
    @property
    def outputs(self) -> Mapping[str, tuple[float, float]]: ...


class Model(Protocol):
    """A loaded model (`headrace.runtime.load`). `run` is thread-safe."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def rows(self) -> RowProof: ...
    @property
    def properties(self) -> Mapping[str, str]: ...
    @property
    def weight_bytes(self) -> int: ...
    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]: ...
    def verify(self) -> VerifyReport: ...
    def close(self) -> None: ...


Loader = Callable[[Path], Any]  # may have `for_config(config)`: the loader for a model that is configured so


class GoldenError(HeadraceError):
    """The golden data of the package does not come out on this host."""


def proven(model: Model) -> VerifyReport:
    """Run the golden data, which also warms the model up. GoldenError where it does not come out."""
    report = model.verify()
    if not report.ok:
        raise GoldenError(f"the golden data of the package do not come out on this machine: {report.message}")
    return report
