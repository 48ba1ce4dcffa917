"""Files written whole or not at all, with bytes that depend only on their content.

Each library is imported by the functions that need it: none may load before the settings.
"""

from __future__ import annotations

import glob
import io
import json
import os
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiment.stage.errors import UserError, changed, reason

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from torch import Tensor

# What this process has read.
_inputs: dict[Path, bytes] = {}


@contextmanager
def unchanged() -> Iterator[None]:
    """Raise UserError at the end of the block if an input has changed since it was read."""
    _inputs.clear()
    yield
    for path, before in _inputs.items():
        if not path.exists() or path.read_bytes() != before:
            raise changed(path)


def read(path: Path) -> bytes:
    """Read an input, which `unchanged` watches from now on."""
    _inputs[path] = path.read_bytes()
    return _inputs[path]


def write(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        leftover.unlink(missing_ok=True)  # from a process that was killed while writing
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a mapping of finite JSON values, with one line per row or column of a table.

    A table is a list of rows, see `rows`, or a mapping of columns. DVC plots lists of rows, and
    joins several of them in one file side by side.
    """
    entries = ",\n".join(f"  {json.dumps(key)}: {_text(value)}" for key, value in content.items())
    write(path, f"{{\n{entries}\n}}\n".encode())


def _text(value: object) -> str:
    dump = partial(json.dumps, allow_nan=False)
    if isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value):
        return "[\n    " + ",\n    ".join(map(dump, value)) + "\n  ]"
    if isinstance(value, Mapping) and all(isinstance(column, list) for column in value.values()):
        columns = (f"{dump(name)}: {dump(column)}" for name, column in value.items())
        return "{\n    " + ",\n    ".join(columns) + "\n  }"
    return dump(value, indent=2).replace("\n", "\n  ")


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """Read what `write_json` wrote; a file that is not JSON, or lacks a key, raises UserError."""
    try:
        content = json.loads(read(path))
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from None
    for key in keys:
        if not isinstance(content, dict) or key not in content:
            raise UserError(f"{path}: no {key}")
    return content


def rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table for `write_json`; missing and non-finite values become null."""
    table = table.replace([float("inf"), -float("inf")], None)
    return table.astype(object).where(table.notna(), None).to_dict("records")


def read_rows(
    path: Path, key: str | None, *columns: str, other: Collection[str] = ()
) -> pd.DataFrame:
    """Read a table, in rows or columns, under a key of a JSON file; without a key, a CSV file.

    UserError is raised if it lacks one of `columns`, or one not in `other` holds no numbers.
    """
    import pandas as pd

    try:
        if key is None:
            table = pd.read_csv(io.BytesIO(read(path)))
        else:
            table = pd.DataFrame(read_json(path, key)[key])
        table[list(columns)].astype({name: float for name in columns if name not in other})
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise UserError(f"{path}: no table of {', '.join(columns)}: {reason(error)}") from None
    return table


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table without its index, each float with enough digits to restore it."""
    write(path, table.to_csv(index=False, lineterminator="\n").encode())


def read_csv(path: Path, *columns: str, other: Collection[str] = ()) -> pd.DataFrame:
    """Read a table that `write_csv` wrote; arguments and errors are those of `read_rows`."""
    return read_rows(path, None, *columns, other=other)


class _Entry(zipfile.ZipInfo):
    """An entry whose headers are the same on every Python version and system.

    They match those of `numpy.savez` on Linux since Python 3.11.4: dated 1980, with sizes only in
    the extra field. Earlier versions also wrote the sizes where this writes 0xFFFFFFFF.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.create_system = 3  # Unix
        self.create_version = self.extract_version = 45  # supports 64-bit sizes
        self.external_attr = 0o600 << 16

    def FileHeader(self, zip64: bool | None = None) -> bytes:  # noqa: ARG002, N802
        header = super().FileHeader(zip64=True)
        return header[:18] + b"\xff" * 8 + header[26:]


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays as an uncompressed .npz, readable with `allow_pickle=False`."""
    import numpy as np

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, array, allow_pickle=False)
            archive.writestr(_Entry(f"{name}.npy"), content.getvalue())
    write(path, buffer.getvalue())


def read_arrays(path: Path, *names: str) -> list[NDArray[Any]]:
    """Read arrays that `write_arrays` wrote; a damaged file raises UserError."""
    import numpy as np

    content = io.BytesIO(read(path))
    try:
        with np.load(content, allow_pickle=False) as archive:
            return [archive[name] for name in names]
    except Exception as error:  # a damaged archive raises errors of many types
        raise UserError(f"{path}: damaged, `dvc repro -f fetch_data` renews it: {error}") from None


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors, loadable with `torch.load(path, weights_only=True)`."""
    import torch

    # Saved to a buffer, because torch.save writes a file's name into the file.
    buffer = io.BytesIO()
    torch.save(dict(tensors), buffer)
    write(path, buffer.getvalue())


def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure as PNG, without the version of Matplotlib in its bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write(path, buffer.getvalue())
