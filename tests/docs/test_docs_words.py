"""Pages keep to the words of docs/glossary.md."""

from __future__ import annotations

import re

import pytest
from paths import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
#: Words that the glossary replaces, where they have no other use.
REPLACED = r"cannot be meant|hardly meant|r[au]n through|let in\b|past use|\bsane\b|whoever|\banew\b|never met|\bdeck\b"


def replaced(text: str) -> list[str]:
    """Return the lines with words that the glossary replaces."""
    return [line for line in text.splitlines() if re.search(REPLACED, line, re.IGNORECASE)]


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "glossary.md"], ids=lambda page: page.name)
def test_pages_use_the_words_of_the_glossary(page):
    assert replaced(page.read_text(encoding="utf-8")) == []


def test_replaced_words_are_found():
    assert replaced("The loop ends.\nAll walkers ran through.") == ["All walkers ran through."]


def test_the_glossary_names_each_term_once():
    rows = re.findall(r"^\| ([^|]+?) \|", (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8"), re.MULTILINE)
    terms = [row for row in rows if row not in ("term", "write") and not row.startswith("---")]
    assert len(terms) > 50
    assert sorted(set(terms)) == sorted(terms)
