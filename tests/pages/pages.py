"""The pages of this repository, and what stands on them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from project import ROOT


@dataclass(frozen=True)
class Page:
    """A page in Markdown."""

    path: str  # from the root of the repository

    @cached_property
    def source(self) -> str:
        return (ROOT / self.path).read_text()

    @property
    def folder(self) -> Path:
        return (ROOT / self.path).parent

    def blocks(self, language: str) -> list[str]:
        """The blocks of code in a language."""
        blocks = re.findall(r"^```(\w*)\n(.*?)^```$", self.source, re.DOTALL | re.MULTILINE)
        return [content for found, content in blocks if found == language]

    @cached_property
    def prose(self) -> str:
        """The page without its blocks of code and the calls that make its tables."""
        return re.sub(r"^```.*?^```$|<!--.*?-->", "", self.source, flags=re.DOTALL | re.MULTILINE)

    @cached_property
    def quoted(self) -> list[str]:
        """Everything between backticks in the prose, each with its line breaks as spaces."""
        return [" ".join(one.split()) for one in re.findall(r"`([^`]+)`", self.prose)]


FRONT = Page("README.md")
DETAIL = Page("stages/README.md")
OPTIMIZER = Page("stages/lrg_adam/README.md")
PAGES = (
    FRONT,
    DETAIL,
    Page("stages/studies/README.md"),
    Page("stages/benchmark/README.md"),
    OPTIMIZER,
    Page("CONTRIBUTING.md"),
)
