"""The text of a run file as plain data: small, flat, and read by YAML as people read it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

from mlip_autopipec.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from yaml.nodes import Node

Loc = tuple[int | str, ...]

#: Loader that makes plain data alone; the one in C is ten times as fast.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
#: Largest run file in bytes, deepest nesting, most values with all that anchors repeat.
LARGEST_BYTES, DEEPEST, MOST_VALUES = 1_000_000, 30, 50_000
#: Whole numbers that YAML 1.1 reads to another base than people.
_OCTAL, _SIXTY = re.compile(r"[-+]?0[0-7_]+"), re.compile(r"[-+]?\d[\d_]*(:[0-5]?\d)+(\.\d*)?")
_LONGEST_MESSAGE = 600


def read_text(path: Path) -> str:
    """Read a file, unless it is too large to be a run file."""
    try:
        with path.open("rb") as stream:
            content = stream.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise InvalidInputError(f"run file '{path}' cannot be read: {error.strerror}") from error
    if len(content) > LARGEST_BYTES:
        raise InvalidInputError(f"run file '{path}' is larger than {LARGEST_BYTES / 1e6:g} MB; is it another file?")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidInputError(
            f"run file '{path}' is not valid YAML: line {line} holds bytes that are no UTF-8 text; is it another file?"
        ) from error


def parsed(text: str, path: Path) -> tuple[Any, Node | None]:
    """
    Return the data of a run file, and the tree with the lines of everything.

    Raises
    ------
    InvalidInputError
        It is no YAML, or would hang a reader: nested deeply, repeating itself, with numbers of hundreds of digits.
    """
    try:
        _check_size(path, text)
        root = yaml.compose(text, Loader=_LOADER)
        return (None if root is None else yaml.SafeLoader("").construct_document(root)), root
    except InvalidInputError:
        raise
    except (yaml.YAMLError, ValueError, OverflowError, TypeError, AttributeError) as error:
        told = str(error)
        told = told if len(told) <= _LONGEST_MESSAGE else f"{told[:_LONGEST_MESSAGE]} ..."
        raise InvalidInputError(f"run file '{path}' is not valid YAML: {told}") from error


def _check_size(path: Path, text: str) -> None:
    depth, total, opened = 0, 0, list[tuple[str | None, int]]()
    sizes: dict[str, int] = {}
    for event in yaml.parse(text, Loader=_LOADER):
        what = ""
        if isinstance(event, yaml.AliasEvent):
            if any(name == event.anchor for name, _ in opened):
                what = f"*{event.anchor} holds itself; write it out"
            total += sizes.get(str(event.anchor), 0)
        elif isinstance(event, yaml.CollectionStartEvent):
            total, depth = total + 1, depth + 1
            opened.append((event.anchor, total - 1))
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            if event.anchor:
                sizes[event.anchor] = 1
            if event.implicit[0] and re.match(r"[-+]?\d{400}", event.value):
                what = "a number of more than 400 digits"
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
            name, before = opened.pop()
            if name:
                sizes[name] = total - before
        if depth > DEEPEST:
            what = f"the file is nested deeper than {DEEPEST} levels; is it another file?"
        if total > MOST_VALUES:
            what = f"the file holds more than {MOST_VALUES} values; is it another file?"
        if what:
            line = 0 if event.start_mark is None else event.start_mark.line
            raise InvalidInputError(f"run file '{path}':\n  line {line + 1}: {what}")


def misread(node: Node | None, loc: Loc) -> Iterator[tuple[Loc, str]]:
    """Find numbers that YAML 1.1 reads to base 8 or 60 (0600 is 384, 1:30 is 90), and keys that are no words."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if not key.tag.endswith((":str", ":merge")):
                kind = key.tag.rpartition(":")[2]
                yield (*loc, str(key.value)[:40]), f"is a key that YAML reads as {kind}, not as a word; quote it"
            yield from misread(value, (*loc, str(key.value)))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from misread(value, (*loc, index))
    elif isinstance(node, yaml.ScalarNode) and not node.style:
        base = 8 if node.tag.endswith(":int") and _OCTAL.fullmatch(node.value) else 0
        base = 60 if node.tag.endswith((":int", ":float")) and _SIXTY.fullmatch(node.value) else base
        if base:
            hint = "write it without the leading 0" if base == 8 else "write the number"
            yield loc, f"is {node.value}, which YAML reads as a number to base {base}; {hint}, or quote it"
