"""
Reference pages made at build time from the models that the program itself uses.

A page says ``<!-- generated: NAME -->`` where the text belongs; NAME is a key of ``GENERATED``. What has no description
stops the build.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel

from mlip_autopipec.runfile.fields import Strict, section
from mlip_autopipec.runfile.model import RunFile, json_schema
from mlip_autopipec.schemas import campaign, label, loop, potential, walk
from mlip_autopipec.schemas.base import Document
from mlip_autopipec.settings import MLIPAutopipecSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
#: Documents in the order in which a campaign makes them.
MODULES = (campaign, label, walk, potential, loop)


class UndescribedError(ValueError):
    """A field of a run file or of a document that nobody has described."""


def type_text(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Say in words which values a JSON schema allows; a model by its name."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return type_text(definitions[name], definitions) if "enum" in definitions[name] else name
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(type_text(choice, definitions) for choice in choices))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type")
    if kind == "array":
        if items := schema.get("prefixItems"):
            return f"list of {len(items)}: " + ", ".join(type_text(item, definitions) for item in items)
        return f"list of {type_text(schema['items'], definitions)}" if schema.get("items") else "list"
    if kind == "object":
        values = schema.get("additionalProperties")
        return f"mapping to {type_text(values, definitions)}" if isinstance(values, dict) and values else "mapping"
    return "path" if schema.get("format") == "path" else kind or "anything"


def _text(description: str) -> str:
    """Escape what Markdown would take for markup, outside of code."""
    parts = description.split("`")
    parts[::2] = [re.sub(r"([<*])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


def _sections(hint: Any) -> list[type[Strict]]:
    """Models of sections in a type hint."""
    if isinstance(hint, type) and not isinstance(hint, UnionType) and not get_args(hint):
        return [hint] if issubclass(hint, Strict) else []
    return [found for part in get_args(hint) for found in _sections(part)]


def _default(field: Any) -> str:
    if field.is_required():
        return "none, required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "the defaults below"
    if isinstance(value, Path):
        value = str(value)
    if dataclasses.is_dataclass(value):
        value = dataclasses.asdict(value)
    return f"`{json.dumps(value)}`"


def _fields(model: type[Strict], prefix: str, schema: dict[str, Any], options: str) -> Iterator[str]:
    """Write all fields of a section, nested sections after it."""
    properties = (schema["$defs"].get(model.__name__) or schema)["properties"]
    for name, field in model.model_fields.items():
        if not field.description:
            raise UndescribedError(f"run file: {prefix}{name} ({model.__name__}) has no description")
        nested = _sections(field.annotation)
        kind = (
            "section"
            if nested and "list" not in type_text(properties[name], schema["$defs"])
            else type_text(properties[name], schema["$defs"])
        )
        kind = "section or null" if nested and not field.is_required() and field.get_default() is None else kind
        yield (
            f"```{{confval}} {prefix}{name}\n{options}:type: {kind}\n:default: {_default(field)}\n\n"
            f"{_text(field.description)}\n```\n"
        )
        for one in nested:
            yield from _fields(one, f"{prefix}{name}.", schema, options)


def run_file() -> str:
    """Return the reference of the run file: every section, field, type, default and description."""
    schema = RunFile.model_json_schema()
    general = ["## General\n"]
    parts: list[str] = []
    for name, field in RunFile.model_fields.items():
        if not field.description:
            raise UndescribedError(f"run file: {name} has no description")
        kind = type_text(schema["properties"][name], schema["$defs"])
        sections = _sections(field.annotation)
        many = kind.startswith("list")
        if sections:
            kind = "list of sections" if many else "section or null" if field.default is None else "section"
        told = f"```{{confval}} {name}\n:type: {kind}\n:default: {_default(field)}\n\n{_text(field.description)}\n```\n"
        if not sections:
            general.append(told)
            continue
        parts += [f"## {name}\n", told]
        for one in sections:
            options = ""
            if len(sections) > 1:  # the same names in each kind
                options = ":no-index:\n"
                parts.append(f"### {name} of kind {one.model_fields['kind'].default}\n")
            summary = _markdown(inspect.getdoc(one) or "")
            if summary and summary != field.description:
                parts.append(f"{summary}\n")
            parts += _fields(one, f"{name}[]." if many else f"{name}.", schema, options)
    return "\n".join(general + parts)


def _definition(name: str, kind: str, text: str) -> str:
    return f"`{name}` ({kind})\n: {_text(text)}\n"


def _as_model(cls: type) -> type[BaseModel]:
    """Describe a dataclass as the run file does."""
    return cls if issubclass(cls, BaseModel) else section(cls)


def _reachable(hint: Any) -> Iterator[type]:
    """Models and dataclasses in a type hint."""
    if get_args(hint):
        for part in get_args(hint):
            yield from _reachable(part)
    elif isinstance(hint, type) and (issubclass(hint, BaseModel) or dataclasses.is_dataclass(hint)):
        yield hint


def _parts_of(cls: type) -> list[type]:
    return [part for field in _as_model(cls).model_fields.values() for part in _reachable(field.annotation)]


def _model(cls: type, leave_out: set[str]) -> str:
    model = _as_model(cls)
    parts = [f"### {cls.__name__}\n", f"{_markdown(inspect.getdoc(cls) or '')}\n"]
    schema = model.model_json_schema()
    for name, value in schema["properties"].items():
        if name in leave_out:
            continue
        if name == "kind" and "const" in value:
            parts.append(f"`kind` is `{value['const']}`.\n")
            continue
        text = model.model_fields[name].description
        if not text:
            raise UndescribedError(f"stored documents: {cls.__name__}.{name} has no description")
        kind = type_text(value, schema.get("$defs", {}))
        for part in _reachable(model.model_fields[name].annotation):
            if not issubclass(part, BaseModel):  # a dataclass that jobflow stores as a mapping
                kind = kind.replace("mapping", part.__name__)
        parts.append(_definition(name, _linked(kind), text))
    return "\n".join(parts)


def _markdown(docstring: str) -> str:
    """Keep what a docstring says before its sections; Markdown and reStructuredText write code alike."""
    text = re.split(r"\n\w+\n-{3,}\n", docstring)[0]
    return re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"\1", text).strip()


def _linked(kind: str) -> str:
    return re.sub(r"(?<!`)\b([A-Z]\w+)\b(?!`)", lambda m: f"[{m[1]}](#{m[1].lower()})", kind)


def documents() -> str:
    """Return the stored documents, every field with type and description."""
    own = [
        cls
        for module in MODULES
        for cls in vars(module).values()
        if isinstance(cls, type) and issubclass(cls, Document) and cls.__module__ == module.__name__
    ]
    # a class that only others inherit from has their kind, and is no document of its own
    kinds = {cls.model_fields["kind"].default: cls for cls in own}
    known: list[type] = list(kinds.values())
    queue = list(known)
    while queue:
        for part in _parts_of(queue.pop(0)):
            if part not in known:
                known.append(part)
                queue.append(part)
    common = set(Document.model_fields)
    parts = ["## Fields of every document\n"]
    for name, value in Document.model_json_schema()["properties"].items():
        parts.append(_definition(name, type_text(value, {}), Document.model_fields[name].description or ""))
    parts.append("## Documents\n")
    parts += [_model(cls, common - {"kind"}) for cls in kinds.values()]
    parts.append("## Parts of documents\n")
    parts += [_model(cls, common if issubclass(cls, Document) else set()) for cls in known if cls not in kinds.values()]
    return "\n".join(parts)


def settings() -> str:
    """Return the rows of a table of the environment variables that describe a machine."""
    prefix = MLIPAutopipecSettings.model_config["env_prefix"]
    return "\n".join(
        f"| `{prefix}{name}` | `{field.default}` | {field.description} |"
        for name, field in MLIPAutopipecSettings.model_fields.items()
    )


def from_root(*path: str) -> str:
    """Return a Markdown file of the repository with its relative links as they are from docs/."""
    file = ROOT.joinpath(*path)

    def moved(link: re.Match[str]) -> str:
        target, hash_, anchor = link[1].partition("#")
        if target in ("CONTRIBUTING.md", "CHANGELOG.md"):
            target = target.lower()  # the pages of this site that show them
        elif (file.parent / target).resolve() == ROOT / "README.md":
            target = "index.md"
        else:
            target = os.path.relpath((file.parent / target).resolve(), ROOT / "docs")
        return f"]({target}{hash_}{anchor})"

    return re.sub(r"\]\((?!\w+:|#)([^)\s]+)\)", moved, file.read_text(encoding="utf-8"))


def demo() -> str:
    """Return the output of the demo as the README shows it."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"```\n(copper: .*?)```", readme, re.DOTALL)
    if found is None:
        raise ValueError("README.md no longer shows the output of `make demo`, which docs/index.md shows, too")
    return f"```text\n{found[1]}```"


#: What a page can ask for by name.
GENERATED: dict[str, Callable[[], str]] = {
    "run file": run_file,
    "documents": documents,
    "settings": settings,
    "tutorials": lambda: from_root("tutorials", "README.md"),
    "contributing": lambda: from_root("CONTRIBUTING.md"),
    "changelog": lambda: from_root("CHANGELOG.md"),
    "demo": demo,
}
#: Links to folders of the repository, which a site does not have, and the pages that show them.
FOLDERS = {"](../deploy/fireworks)": "](templates.md)"}
#: Links to notebooks; notebooks.py makes their pages.
_NOTEBOOK = re.compile(r"\]\(\.\./tutorials/([\w-]+\.ipynb)\)")


def fill(_: Sphinx, __: str, source: list[str]) -> None:
    """Put generated text where a page asks for it."""
    text = re.sub(r"<!-- generated: ([\w ]+) -->", lambda m: GENERATED[m[1]](), source[0])
    for link, page in FOLDERS.items():
        text = text.replace(link, page)
    source[0] = _NOTEBOOK.sub(r"](notebooks/\1)", text)


_ONE_LINERS: dict[str, list[str]] = {}


def keep_one_liner(_: Sphinx, what: str, name: str, __: Any, ___: Any, lines: list[str]) -> None:
    """Remember the docstring of an attribute before napoleon takes what precedes a colon for a type."""
    if what in ("attribute", "property") and not any(line.startswith("---") for line in lines):
        _ONE_LINERS[name] = list(lines)


def put_one_liner_back(_: Sphinx, __: str, name: str, ___: Any, ____: Any, lines: list[str]) -> None:
    """Undo what napoleon did to it."""
    lines[:] = _ONE_LINERS.pop(name, lines)


def publish_schema(app: Sphinx, exception: Exception | None) -> None:
    """Put the JSON schema of run files beside the pages, for editors."""
    if exception is None and app.builder.format == "html":
        Path(app.outdir, "run.schema.json").write_text(json.dumps(json_schema(), indent=2) + "\n", encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Tell Sphinx."""
    app.connect("source-read", fill)
    app.connect("autodoc-process-docstring", keep_one_liner, priority=400)  # napoleon's is 500
    app.connect("autodoc-process-docstring", put_one_liner_back, priority=600)
    app.connect("build-finished", publish_schema)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
