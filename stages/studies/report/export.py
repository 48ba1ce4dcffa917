"""Print a study's table as Markdown and as LaTeX: python stages studies.report.export STUDY."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from experiment.report.measures import MEASURES
from experiment.stage.errors import UserError
from studies.report.tables import read_comparisons

HEADER = ("arm", "against", "measure", "mean", "difference", "95 % interval", "verdict")


def decimals(low: float, high: float) -> int:
    """Decimals that show half the width of an interval with two significant digits."""
    half = (high - low) / 2
    return min(max(1 - math.floor(math.log10(half)), 0), 9) if half > 0 else 4


def cells(table: pd.DataFrame) -> list[tuple[str, ...]]:
    """The rows of a table of comparisons as text."""
    found: list[tuple[str, ...]] = []
    for row in table.itertuples():
        places = decimals(row.interval_low, row.interval_high)
        found.append(
            (
                f"{row.label}, at {row.lr:g}",
                row.against,
                f"{MEASURES[row.measure].label} ({MEASURES[row.measure].unit})",
                f"{row.mean:.{places}f}",
                f"{row.difference:+.{places}f}",
                f"{row.interval_low:+.{places}f} to {row.interval_high:+.{places}f}",
                row.verdict,
            )
        )
    return found


def markdown(table: pd.DataFrame) -> str:
    """A table of comparisons in Markdown."""
    rows = [HEADER, ("---",) * len(HEADER), *cells(table)]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows
    )


def latex(table: pd.DataFrame) -> str:
    """A table of comparisons in LaTeX, for the package booktabs."""
    lines = [" & ".join(map(_escaped, row)) + r" \\" for row in (HEADER, *cells(table))]
    body = "\n".join(lines[1:])
    return (
        f"\\begin{{tabular}}{{lllrrrl}}\n\\toprule\n{lines[0]}\n\\midrule\n{body}\n"
        "\\bottomrule\n\\end{tabular}"
    )


def _escaped(text: str) -> str:
    special = {character: f"\\{character}" for character in "&%$#_{}"}
    special |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(character, character) for character in text)


def main(study: str) -> None:
    """Print the table of a study, of arms.yaml or of own.yaml, that has been compared."""
    paths = [Path(f"metrics/{folder}/{study}.csv") for folder in ("studies", "own")]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        raise UserError(
            f"study = {study!r}; allowed: one that has a table, {paths[0]} or {paths[1]}"
        )
    table = read_comparisons(path)
    print(markdown(table), latex(table), sep="\n\n")
