"""The pages of this repository, and what stands on them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from project import ROOT


@dataclass(frozen=True)
class Page:
    """A page in Markdown."""

    path: str  # from the root of the repository

    @cached_property
    def source(self) -> str:
        return (ROOT / self.path).read_text()

    @cached_property
    def lines(self) -> list[str]:
        return self.source.splitlines()

    @cached_property
    def text(self) -> str:
        """The same without its line breaks, so that a sentence can be looked for."""
        return " ".join(self.source.split())

    def blocks(self, language: str) -> list[str]:
        """The blocks of code in a language."""
        blocks = re.findall(r"^```(\w*)\n(.*?)^```$", self.source, re.DOTALL | re.MULTILINE)
        return [content for found, content in blocks if found == language]

    @cached_property
    def prose(self) -> str:
        """The page without its blocks of code."""
        return re.sub(r"^```.*?^```$", "", self.source, flags=re.DOTALL | re.MULTILINE)

    @cached_property
    def quoted(self) -> list[str]:
        """Everything between backticks in the prose, each with its line breaks as spaces."""
        return [" ".join(one.split()) for one in re.findall(r"`([^`]+)`", self.prose)]


FRONT = Page("README.md")
DETAIL = Page("stages/README.md")
STUDIES = Page("stages/studies/README.md")
BENCHMARK = Page("stages/benchmark/README.md")
OPTIMIZER = Page("stages/lrg_adam/README.md")
CONTRIBUTING = Page("CONTRIBUTING.md")
PAGES = (FRONT, DETAIL, STUDIES, BENCHMARK, OPTIMIZER, CONTRIBUTING)
