"""Print a study's table as Markdown and as LaTeX: python stages studies.report.export STUDY."""

import math
from pathlib import Path

import pandas as pd

from experiment.report.measures import MEASURES
from experiment.stage.errors import UserError
from studies.report.tables import read_comparisons


def decimals(low: float, high: float) -> int:
    """Decimals that show half the width of an interval with two significant digits."""
    half = (high - low) / 2
    return min(max(1 - math.floor(math.log10(half)), 0), 9) if half > 0 else 4


def cells(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table of comparisons as text."""
    rows = []
    for row in table.itertuples():
        places = decimals(row.interval_low, row.interval_high)
        low, high = (f"{end:+.{places}f}" for end in (row.interval_low, row.interval_high))
        rows.append(
            {
                "arm": f"{row.label}, at {row.lr:g}",
                "against": row.against,
                "measure": f"{MEASURES[row.measure].label} ({MEASURES[row.measure].unit})",
                "mean": f"{row.mean:.{places}f}",
                "difference": f"{row.difference:+.{places}f}",
                "95 % interval": f"{low} to {high}",
                "verdict": row.verdict,
            }
        )
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """A table of comparisons in Markdown."""
    escaped = cells(table).replace(r"\|", r"\\|", regex=True)
    return escaped.to_markdown(index=False, tablefmt="github", disable_numparse=True)


def main(study: str) -> None:
    """Print the table of a compared study, of arms.yaml or of own.yaml; LaTeX needs booktabs."""
    paths = [Path(f"metrics/{folder}/{study}.csv") for folder in ("studies", "own")]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        raise UserError(
            f"study = {study!r}; allowed: one that has a table, {paths[0]} or {paths[1]}"
        )
    table = read_comparisons(path)
    print(markdown(table), cells(table).to_latex(index=False, escape=True), sep="\n\n")
