"""Files written whole or not at all, with bytes that depend on their content alone.

Each library is imported by the functions that need it, so that a stage loads only its own.
"""

from __future__ import annotations

import glob
import io
import json
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiment.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from torch import Tensor


# How to read again what this process has read, and what that was.
_inputs: dict[Path, tuple[Callable[[], object], object]] = {}
# All sources, before more than the first are loaded; a stage answers for those it comes to load.
_SOURCES = {
    path: (path.read_bytes, path.read_bytes()) for path in Path(__file__).parents[1].rglob("*.py")
}


def watch(path: Path, current: Callable[[], object]) -> None:
    """Let `inputs_unchanged` see whether what an input holds, now `current()`, stays the same."""
    _inputs[path] = current, current()


@contextmanager
def inputs_unchanged() -> Iterator[None]:
    """Run a stage, and make sure that no input has changed since it was read.

    DVC records the inputs of a stage as they are when the stage ends: what was computed from
    older ones would pass for a result of the newer ones.

    Raises:
        UserError: a source, a parameter or a file that was read is another one now.

    """
    _inputs.clear()
    yield
    loaded = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    sources = {path: source for path, source in _SOURCES.items() if str(path) in loaded}
    for path, (current, before) in (_inputs | sources).items():
        try:
            now = current()
        except (OSError, UserError):
            now = None
        if now != before:
            raise UserError(f"{path}: changed while the stage ran; run `dvc repro` again")


def read(path: Path) -> bytes:
    """The bytes of an input."""
    content = path.read_bytes()
    _inputs[path] = path.read_bytes, content
    return content


def write(path: Path, content: bytes) -> None:
    """Put `content` at `path` in one step: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        leftover.unlink(missing_ok=True)  # of a process that was killed while it wrote
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
    """Write a mapping as JSON; a number that is not finite raises ValueError."""
    write(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


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


def read_best(optimizer: str) -> dict[str, float]:
    """The tuned parameters in metrics/tune_<optimizer>.json: `lr`, for LRG-Adam `rank` too."""
    path = Path(f"metrics/tune_{optimizer}.json")
    best = read_json(path, "best")["best"]
    names = ["lr", "rank"] if optimizer == "lrg_adam" else ["lr"]
    if (
        not isinstance(best, dict)
        or sorted(best) != names
        or not all(type(value) in (int, float) and value > 0 for value in best.values())
    ):
        raise UserError(f"{path}: best = {best!r}; allowed: a number for {' and '.join(names)}")
    return best


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table without its index, each float with the digits that identify it."""
    write(path, table.to_csv(index=False, lineterminator="\n").encode())


def read_csv(path: Path, *columns: str, text: Collection[str] = ()) -> pd.DataFrame:
    """Read a table that `write_csv` wrote; columns in `text` need not hold numbers.

    Raises:
        UserError: the file is no such table, has no rows, lacks one of `columns`, or holds in a
            column what is not a number; an empty field is one, NaN.
    """
    import pandas as pd

    try:
        table = pd.read_csv(io.BytesIO(read(path)))
    except (ValueError, pd.errors.ParserError) as error:
        raise UserError(f"{path}: not a table: {' '.join(str(error).split())}") from None
    for column in columns:
        if column not in table:
            raise UserError(f"{path}: no column {column}")
    for column in table.columns.difference(list(text)):
        if not pd.api.types.is_numeric_dtype(table[column]):
            raise UserError(f"{path}: column {column}: not all numbers")
    if table.empty:
        raise UserError(f"{path}: no rows")
    return table


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays as an uncompressed .npz, readable with `allow_pickle=False`."""
    import numpy as np

    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write(path, buffer.getvalue())


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read what `write_arrays` wrote; a damaged file raises UserError."""
    import numpy as np

    try:
        with np.load(io.BytesIO(read(path)), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise
    except Exception as error:  # there are many ways to be no archive
        raise UserError(f"{path}: damaged, `dvc repro -f fetch_data` renews it: {error}") from None


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors, loadable with `torch.load(path, weights_only=True)`."""
    import torch

    # Saved to a buffer, since torch.save writes the name of a file into it.
    buffer = io.BytesIO()
    torch.save(dict(tensors), buffer)
    write(path, buffer.getvalue())


def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure as PNG, without the version of Matplotlib in its bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write(path, buffer.getvalue())
