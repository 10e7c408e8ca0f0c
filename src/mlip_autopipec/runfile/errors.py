"""Where in a run file a mistake is, and what would have been right."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import yaml

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.runfile.text import Loc, misread, parsed, read_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from pydantic import ValidationError
    from yaml.nodes import Node

#: Most mistakes that are told at once.
_MOST_TOLD = 20
#: Longest value that is quoted whole.
_LONGEST = 80


class RunFileText:
    """
    The text of a run file, with the line of every key.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    InvalidInputError
        It is not there, is no YAML, holds nothing, or holds a key twice.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise InvalidInputError(_no_file(path))
        text = read_text(path)
        self.content, self._root = parsed(text, path)
        if not isinstance(self.content, dict):
            raise InvalidInputError(
                f"run file '{path}' holds {_shown(self.content)}, not a mapping of keys to values; "
                "`mlip-autopipec init` writes one to begin with"
            )
        if twice := list(_twice(self._root, ())):
            raise self.error([(loc, "is given twice; YAML would use the last one without a message") for loc in twice])
        if traps := list(misread(self._root, ())):
            raise self.error(traps)

    def line(self, loc: Loc) -> tuple[int, Loc]:
        """
        Return the line of a field, and the part of ``loc`` that the file holds.

        Parts of pydantic's location that name a choice (the ``linear`` of ``trainer.linear.basis``) are passed over;
        of a field that is missing it is the line of what it is missing in.
        """
        node, line, found = self._root, 0, []
        for part in loc:
            if isinstance(node, yaml.MappingNode):
                entry = next(((k, v) for k, v in node.value if k.value == str(part)), None)
                if entry is None:
                    continue
                line, node = entry[0].start_mark.line, entry[1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                line = node.start_mark.line
            else:
                continue
            found.append(part)
        return line + 1, tuple(found)

    def error(self, problems: Sequence[tuple[Loc, str]]) -> InvalidInputError:
        """Make one error of several problems, each a location and what is wrong there."""
        lines = []
        for loc, what in problems[:_MOST_TOLD]:
            line, _ = self.line(loc)
            lines.append((line, f"  line {line}, {'.'.join(map(str, loc))}: {what}"))
        told = [text for _, text in sorted(lines)]
        if len(problems) > _MOST_TOLD:
            told.append(f"  and {len(problems) - _MOST_TOLD} more")
        return InvalidInputError(f"run file '{self.path}':\n" + "\n".join(told))

    def explain(self, error: ValidationError, schema: Mapping[str, Any]) -> InvalidInputError:
        """
        Tell pydantic's errors in a user's terms.

        Parameters
        ----------
        error
            What pydantic raised for the content.
        schema
            JSON schema of the model, which knows the keys that are allowed.
        """
        problems = []
        found_errors = error.errors(include_url=False)
        for one in found_errors[:_MOST_TOLD]:
            loc, kind = one["loc"], one["type"]
            _, found = self.line(loc)
            if kind == "extra_forbidden":
                problems.append((found, _unknown_key(str(loc[-1]), _allowed_keys(schema, loc[:-1]), one["input"])))
            elif kind == "missing":
                problems.append(((*found, loc[-1]), "is missing" + _description(schema, loc)))
            elif kind.startswith("union_tag"):  # a section of another kind than there is, or of none
                name = one["ctx"]["discriminator"].strip("'")
                known = sorted({key for part in _parts(schema, loc) for key in _mapping(part)})
                tag = one["ctx"].get("tag")
                said = "is missing" if tag is None else f"unknown {name} '{tag}'"
                problems.append(((*found, name), f"{said}; {nearest(str(tag), known)}"))
            else:
                message = one["msg"].removeprefix("Value error, ")
                problems.append((found, f"{message} (got {_shown(one['input'])})"))
        return self.error(problems)

    @contextmanager
    def blamed(self, *loc: int | str) -> Iterator[None]:
        """Add file, line and field to an error that the values below ``loc`` cause."""
        try:
            yield
        except InvalidInputError as error:
            inner = loc if error.field is None else (*loc, *_below_first(error.field))
            # an unsuitable default has no line in the file; its section has
            raise self.error([(inner if self.line(inner)[1] == inner else loc, str(error))]) from error
        except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
            # arguments of others' functions and classes, whose types are known to them alone
            told = f"is refused where it is used: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise self.error([(loc, told)]) from error


def _below_first(field: str) -> list[str]:
    """Return the keys of a field without the class or section that it begins with."""
    first, _, below = field.partition(".")
    return (below or first).split(".")


def nearest(word: str, known: Sequence[str]) -> str:
    """Suggest the known word that was probably meant, and list what is allowed."""
    lowered = {name.lower(): name for name in known}
    close = get_close_matches(word.lower(), list(lowered), n=1, cutoff=0.6)
    close = close or [name for name in lowered if name.split("_")[0] == word.lower()][:1]
    hint = f"did you mean '{lowered[close[0]]}'? " if close else ""
    return f"{hint}allowed are {', '.join(sorted(known)) or 'none'}"


def _no_file(path: Path) -> str:
    """Say that there is no such run file, and which one was probably meant."""
    if path.is_dir():
        return f"'{path}' is a folder; name the run file, for instance {path.name}.yaml"
    if path.exists():
        return f"'{path}' is no file; name the run file"
    others = sorted(one.name for one in path.parent.glob("*.y*ml"))
    close = get_close_matches(path.name, others, n=1) or others[:1]
    hint = f"; there is {path.parent / close[0]}" if close else "; `mlip-autopipec init` writes one"
    return f"run file '{path}' does not exist{hint}"


def _unknown_key(key: str, allowed: Sequence[str], value: Any) -> str:
    return f"unknown key '{key}' (got {_shown(value)}); {nearest(key, allowed)}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _allowed_keys(schema: Mapping[str, Any], loc: Loc) -> list[str]:
    return sorted({key for part in _parts(schema, loc) for key in part.get("properties", {})})


def _description(schema: Mapping[str, Any], loc: Loc) -> str:
    found = [part["description"] for part in _parts(schema, loc) if "description" in part]
    return f": {found[0]}" if found else ""


def _parts(schema: Mapping[str, Any], loc: Loc) -> list[Mapping[str, Any]]:
    """Return the parts of a JSON schema that describe what stands at ``loc``."""
    parts = _choices(schema, schema)
    for part in loc:
        below: list[Mapping[str, Any]] = []
        for one in parts:
            if isinstance(part, int):
                below += _choices(schema, one.get("items", {}))
            elif part in one.get("properties", {}):
                below += _choices(schema, one["properties"][part])
            elif part in _mapping(one):
                below += _choices(schema, {"$ref": _mapping(one)[part]})
        parts = below or parts  # the name of a choice that is no key
    return parts


def _mapping(part: Mapping[str, Any]) -> dict[str, str]:
    mapping: dict[str, str] = part.get("discriminator", {}).get("mapping", {})
    return mapping


def _choices(schema: Mapping[str, Any], part: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Follow a reference, and all alternatives."""
    if "$ref" in part:
        part = {**schema["$defs"][part["$ref"].removeprefix("#/$defs/")], **part}
        del part["$ref"]
    found = [part]
    if "discriminator" not in part:
        for other in part.get("anyOf", []):
            found += _choices(schema, other)
    return found


def _twice(node: Node | None, loc: Loc) -> Iterator[Loc]:
    if isinstance(node, yaml.MappingNode):
        names = Counter(str(key.value) for key, _ in node.value)
        yield from ((*loc, name) for name, times in sorted(names.items()) if times > 1)
        for key, value in node.value:
            yield from _twice(value, (*loc, str(key.value)))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _twice(value, (*loc, index))
