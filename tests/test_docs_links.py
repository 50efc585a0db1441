"""Every relative link of a page leads to a file that is there, and every anchor to a heading of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "results").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def prose(text: str) -> Iterator[str]:
    """The lines of a page that are no code."""
    fenced = False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield line


def anchors(page: Path) -> set[str]:
    """A heading's anchor is its words in lower case, joined by hyphens; the second of the same words gets a number."""
    seen: Counter[str] = Counter()
    found = set()
    for line in prose(page.read_text()):
        if title := re.match(r"#{1,6} (.+)", line):
            words = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", title[1]).lower()
            anchor = re.sub(r"[^\w\- ]", "", words).strip().replace(" ", "-")
            found.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
            seen[anchor] += 1
    return found


def page_of(path: Path) -> Path:
    """The page that a link to a folder opens."""
    return path / "README.md" if path.is_dir() else path


def broken(page: Path) -> Iterator[str]:
    for line in prose(page.read_text()):
        for link in LINK.findall(re.sub(r"`[^`]*`", "", line)):
            if re.match(r"[a-z]+:", link):
                continue
            place, _, anchor = link.partition("#")
            path = (page.parent / place).resolve() if place else page
            if not path.exists() or anchor and anchor not in anchors(page_of(path)):
                yield link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert list(broken(page)) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# One, `two`\n# One, two\n```\n# code\n```\n")
    page = tmp_path / "page.md"
    page.write_text("# Here\n[a](other.md) [b](other.md#one-two) [c](other.md#one-two-1) [d](#here) [e](https://x.org/none)\n"
                    "`[f](code.md)`\n```\n[g](code.md)\n```\n[h](gone.md) [i](other.md#code) [j](#there)\n")
    assert list(broken(page)) == ["gone.md", "other.md#code", "#there"]
