"""The classification extension: the n largest elements as text `value:index` or `value:index:label`, largest first."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from headrace.serve.config import ConfigError
from headrace.serve.datatypes import Array
from headrace.serve.errors import bad_argument

MAX_LABEL_BYTES = 16 * 1024 * 1024

Labels = Sequence[str]


def labels_of(files: Mapping[str, str], outputs: Collection[str], folders: Sequence[Path]) -> dict[str, Labels]:
    """The names of the classes, by output. ConfigError names an output that is not there and a file that cannot be read."""
    found: dict[str, Labels] = {}
    for output, name in files.items():
        where = f"postprocess.labels: {output!r}: {name!r}"
        check_output("labels", output, outputs)
        if not name or Path(name).name != name:
            raise ConfigError(f"{where} is not the name of a file beside the model's versions")
        path = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if path is None:
            raise ConfigError(f"{where}: there is no such file beside the model's versions")
        with path.open("rb") as file:
            found[output] = labels_in(where, file.read(MAX_LABEL_BYTES + 1))
    return found


def labels_in(where: str, data: bytes | None) -> Labels:
    """The lines of a file, None: there is none. ConfigError with `where` in front."""
    if data is None:
        raise ConfigError(f"{where}: there is no such file in the package")
    if len(data) > MAX_LABEL_BYTES:
        raise ConfigError(f"{where} is longer than {MAX_LABEL_BYTES} bytes")
    try:
        return tuple(data.decode("utf-8").splitlines())
    except UnicodeDecodeError:
        raise ConfigError(f"{where} is not UTF-8") from None


def check_output(key: str, output: str, outputs: Collection[str]) -> None:
    if output not in outputs:
        raise ConfigError(f"postprocess.{key}: the model has no output {output!r}; it has {', '.join(outputs)}")


def top(scores: Array, count: int, batched: bool, labels: Labels = ()) -> Array:
    """BYTES elements `[batch, k]`, or `[k]` when not batched, k = min(count, classes). A class that has one gets its label.

    The sort is stable: the lower index comes first on ties, NaN last. Raises bad_argument for a BYTES output.
    """
    if scores.dtype == object:
        raise bad_argument("parameter 'classification' needs a numeric output")
    rows = scores.reshape(scores.shape[0], -1) if batched else scores.reshape(1, -1)
    k = min(count, rows.shape[1])
    out = np.empty((rows.shape[0], k), dtype=object)
    for i, row in enumerate(rows):
        for j, index in enumerate(_descending(row)[:k]):
            value = row[index]
            text = str(int(value)) if row.dtype.kind in "iub" else f"{float(value):f}"
            label = f":{labels[index]}" if index < len(labels) else ""
            out[i, j] = f"{text}:{index}{label}".encode()
    return out if batched else out[0]


def _descending(row: Array) -> Array:
    if row.dtype.kind in "iub":  # a stable descending sort without negation, which would wrap
        return (row.size - 1 - np.argsort(row[::-1], kind="stable"))[::-1]
    wide = row.astype(np.float64)
    return np.argsort(np.where(np.isnan(wide), np.inf, -wide), kind="stable")
