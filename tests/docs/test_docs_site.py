"""The documentation: every page has its place, every link leads somewhere, every setting and field is described."""

from __future__ import annotations

import importlib.util
import inspect
import re
from functools import cache
from typing import TYPE_CHECKING

import pytest
import yaml
from markdown_it import MarkdownIt
from paths import ROOT
from pydantic import BaseModel, Field
from vasp_stand_in.failures import Failure

from mlip_autopipec.cli.exit_codes import ExitCode
from mlip_autopipec.doctor.result import Light
from mlip_autopipec.lammps.types import HaltReason, HaltVerdict, MDSettings, WalkStatus
from mlip_autopipec.schemas.label import LabelDocument
from mlip_autopipec.schemas.loop import LoopStatus

if TYPE_CHECKING:
    from enum import Enum
    from pathlib import Path
    from types import ModuleType

DOCS = ROOT / "docs"
PAGES = sorted(p for p in DOCS.rglob("*") if p.suffix in (".md", ".rst") and "_build" not in p.parts)
FOLDERS = ("docs", "tutorials", "deploy", "benchmarks")
FILES = sorted([*ROOT.glob("*.md"), *(f for name in FOLDERS for f in (ROOT / name).rglob("*.md"))])
FILES = [file for file in FILES if "_build" not in file.parts]
MARKDOWN = MarkdownIt("commonmark").enable("table")


@pytest.fixture(scope="module")
def generated() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generated_reference", DOCS / "_ext" / "generated_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _toctree(page: Path) -> list[Path]:
    """Pages that a page lists in its tables of contents."""
    blocks = re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    names = [line for block in blocks for line in block.splitlines() if line.strip() and not line.startswith(":")]
    return [p for name in names for p in PAGES if p.with_suffix("") == page.parent / name]


def test_every_page_is_in_exactly_one_table_of_contents() -> None:
    listed = [page for source in PAGES if source.suffix == ".md" for page in _toctree(source)]
    assert sorted([*listed, DOCS / "index.md"]) == PAGES


def _inline(text: str) -> list:
    return [child for token in MARKDOWN.parse(text) for child in token.children or []]


@cache
def _anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page, as GitHub and MyST make them."""
    tokens = MARKDOWN.parse(page.read_text(encoding="utf-8"))
    headings = [tokens[i + 1] for i, token in enumerate(tokens) if token.type == "heading_open"]
    plain = ["".join(c.content for c in h.children or [] if c.type in ("text", "code_inline")) for h in headings]
    return {re.sub(r"[^\w\- ]", "", heading.lower().strip()).replace(" ", "-") for heading in plain}


def _broken(file: Path, text: str) -> list[str]:
    wrong = []
    for token in _inline(text):
        target = token.attrGet("href") or token.attrGet("src")
        if token.type not in ("link_open", "image") or re.match(r"\w+:", str(target)):
            continue
        path, _, anchor = str(target).partition("#")
        aim = file.parent / path if path else file
        if not aim.exists():
            wrong.append(f"{target}: no such file")
        elif anchor and anchor not in _anchors(aim.resolve()):
            wrong.append(f"{target}: no such heading")
    return wrong


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_links_lead_somewhere(file: Path) -> None:
    assert _broken(file, file.read_text(encoding="utf-8")) == []


def test_links_that_lead_nowhere_are_found() -> None:
    text = "[a](gone.md) [b](concepts.md#gone) [c](concepts.md#the-words) [d](https://example.org) `[e](gone.md)`"
    assert _broken(DOCS / "index.md", text) == ["gone.md: no such file", "concepts.md#gone: no such heading"]


def test_every_setting_of_the_run_file_is_described_with_its_default(generated: ModuleType) -> None:
    page = generated.run_file()
    entry = re.search(r"```\{confval\} dynamics\.gamma_hi\n(.*?)```", page, re.DOTALL)
    assert entry is not None
    assert f":default: `{MDSettings().gamma_hi}`" in entry[1]
    assert "above gamma_hi MD halts" in entry[1]
    assert "```{confval} trainer.basis.cutoff" in page
    assert "```{confval} conditions[].temperature_K\n:type: number\n:default: none, required" in page


def test_every_field_of_every_document_is_described(generated: ModuleType) -> None:
    page = generated.documents()
    assert "### LabelDocument" in page
    for name, field in LabelDocument.model_fields.items():
        if name != "kind":
            assert f"`{name}` (" in page
            assert (field.description or "").split("`")[0] in page
    assert "([OracleRecord](#oraclerecord) or null)" in page
    assert "### OracleRecord" in page


def test_what_nobody_described_stops_the_build(generated: ModuleType) -> None:
    class Part(BaseModel):
        told: int = Field(1, description="Told.")
        untold: int = 2

    with pytest.raises(generated.UndescribedError, match=r"Part\.untold has no description"):
        generated._model(Part, set())


def test_markup_in_descriptions_is_shown_as_it_is(generated: ModuleType) -> None:
    assert generated._text("in runs/<name>, a*b, `x<y`") == r"in runs/\<name>, a\*b, `x<y`"


def test_links_of_files_elsewhere_are_those_of_the_site(generated: ModuleType) -> None:
    text = generated.from_root("CONTRIBUTING.md")
    assert "](changelog.md)" in text
    assert "](architecture.md)" in text
    assert _broken(DOCS / "contributing.md", text) == []
    assert _broken(DOCS / "tutorials.md", generated.from_root("tutorials", "README.md")) == []
    assert "CONVERGED" in generated.demo()


def test_citation_file_has_what_its_format_asks_for() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["cff-version"] == "1.2.0"
    assert citation["authors"]
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{citation["version"]}"' in pyproject
    assert f'license = "{citation["license"]}"' in pyproject
    for reference in citation["references"]:
        assert {"type", "title", "authors"} <= set(reference)


def test_make_bench_runs_every_benchmark() -> None:
    section = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\nbench:")[2].partition("\n\n")[0]
    scripts = {file.name for file in ROOT.glob("benchmarks/*.py") if not file.name.startswith("_")}
    assert set(re.findall(r"benchmarks/(\w+\.py)", section)) == scripts


def test_the_readme_leads_to_what_a_newcomer_looks_for() -> None:
    targets = {token.attrGet("href") for token in _inline((ROOT / "README.md").read_text(encoding="utf-8"))}
    pages = {"installation", "concepts", "comparison", "tutorials", "architecture", "benchmarks", "report"}
    assert {"CONTRIBUTING.md", *(f"docs/{page}.md" for page in pages)} <= targets


@pytest.mark.parametrize("enumeration", [WalkStatus, HaltReason, HaltVerdict, LoopStatus, ExitCode, Light, Failure])
def test_every_member_of_an_enumeration_is_described(enumeration: type[Enum]) -> None:
    source = inspect.getsource(enumeration)
    bare = [
        one.name for one in enumeration if not re.search(rf'^    {one.name} = [^\n]+\n    """', source, re.MULTILINE)
    ]
    assert not bare
