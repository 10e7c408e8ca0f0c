"""Sort documents, and pick fields of them, as MongoDB does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from maggma.core import Sort


def ordered(documents: list[dict[str, Any]], sort: Mapping[str, Sort | int]) -> list[dict[str, Any]] | None:
    """Sort documents by fields that are words in all of them, or numbers in all; None where some are not."""
    for field, direction in reversed(list(sort.items())):
        values = [_value(document, field) for document in documents]
        if not all(type(value) is str for value in values) and not all(type(value) in (int, float) for value in values):
            return None
        order = direction if isinstance(direction, int) else direction.value
        places = sorted(range(len(documents)), key=values.__getitem__, reverse=order < 0)
        documents = [documents[place] for place in places]
    return documents


def _value(document: dict[str, Any], field: str) -> Any:
    value: Any = document
    for name in field.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def tree(names: Iterable[str]) -> dict[str, Any]:
    """Return dotted names as nested dictionaries; an empty one takes all below it."""
    found: dict[str, Any] = {}
    for name in names:
        branch = found
        for part in name.split("."):
            branch = branch.setdefault(part, {})
    return found


def projected(value: Any, fields: dict[str, Any]) -> Any:
    """Return some fields of a document, as MongoDB's projection does: of lists those of their documents."""
    if not fields:
        return value
    if isinstance(value, list):
        return [projected(item, fields) for item in value if isinstance(item, dict | list)]
    found = {}
    for name, below in fields.items():
        if name in value and (not below or isinstance(value[name], dict | list)):
            found[name] = projected(value[name], below)
    return found
