"""Settings with which a code gives other numbers than the energy, forces and stress of a structure at rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ase import Atoms

from mlip_autopipec.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

#: What to do about most of them.
LEAVE_OUT = "leave it out"


@dataclass(frozen=True)
class Rule:
    """
    A setting that is refused for labels.

    Parameters
    ----------
    name
        Of the setting, as in the code's own manual.
    refused
        Tells from its value and all settings whether it is refused.
    why
        What the numbers would mean with it.
    cure
        What to do.
    """

    name: str
    refused: Callable[[Any, Mapping[str, Any]], bool]
    why: str
    cure: str = LEAVE_OUT


def broken(rules: Iterable[Rule], settings: Mapping[str, Any]) -> list[str]:
    """
    Return why settings are refused for labels.

    Parameters
    ----------
    rules
        Of the code.
    settings
        Names, written as in the rules, and values.

    Returns
    -------
    list of str
        One line for each setting: name, value, why, and what to do. Empty if none is refused.
    """
    return [
        f"{rule.name} = {_said(settings[rule.name])}: {rule.why}; {rule.cure}"
        for rule in rules
        if rule.name in settings and rule.refused(settings[rule.name], settings)
    ]


def refuse(code: str, reasons: list[str], where: str = "its settings") -> None:
    """
    Refuse settings.

    Raises
    ------
    InvalidInputError
        If there is a reason. The message holds all of them.
    """
    if reasons:
        raise InvalidInputError(f"{code} cannot label with {where}: {'. '.join(reasons)}")


def crystal_of(elements: Sequence[str]) -> Atoms:
    """Make a crystal of some elements, to see the input that a code would get; of hydrogen where none is given."""
    symbols = list(elements) or ["H"]
    places = [[2.5 * index, 0, 0] for index in range(len(symbols))]
    return Atoms(symbols, places, cell=[2.5 * len(symbols), 4, 5], pbc=True)


def switched_on(value: Any, settings: Mapping[str, Any] | None = None) -> bool:
    """Tell whether a value is neither zero nor off; of a list, whether one of its values is."""
    del settings
    if isinstance(value, (list, tuple)):
        return any(switched_on(item) for item in value)
    if isinstance(value, str):
        word = value.strip().strip(".").upper()
        if word in ("", "F", "FALSE", "NO", "OFF", "NONE"):
            return False
        try:
            return any(float(number.replace("D", "E")) != 0 for number in word.split())
        except ValueError:
            return True
    return bool(value)


def other_than(*allowed: Any) -> Callable[[Any, Mapping[str, Any]], bool]:
    """Make a test for values that are not among those that are allowed; words in any case."""
    plain = [_plain(value) for value in allowed]
    return lambda value, _: _plain(value) not in plain


def one_of(*values: Any) -> Callable[[Any, Mapping[str, Any]], bool]:
    """Make a test for values that are refused; words in any case."""
    plain = [_plain(value) for value in values]
    return lambda value, _: _plain(value) in plain


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        word = value.strip().strip("'\"").lower()
        try:
            return float(word.replace("d", "e"))
        except ValueError:
            return word
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _said(value: Any) -> str:
    text = " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
