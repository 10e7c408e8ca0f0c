"""What a check finds."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Light(StrEnum):
    """How good it is."""

    GREEN = "green"
    """It works."""
    YELLOW = "yellow"
    """Something that not everybody needs is missing, or has to be known."""
    RED = "red"
    """It does not work."""


@dataclass(frozen=True)
class Result:
    """
    One line of the doctor.

    Parameters
    ----------
    name
        What was looked at.
    light
        Green, yellow or red.
    found
        What was found, with values and units.
    remedy
        What to do; empty for green.
    seconds
        How long it took.
    """

    name: str
    light: Light
    found: str
    remedy: str = ""
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return asdict(self)


def green(name: str, found: str) -> Result:
    """Return a result that is as it should be."""
    return Result(name, Light.GREEN, found)


def yellow(name: str, found: str, remedy: str) -> Result:
    """Return a result that has to be known."""
    return Result(name, Light.YELLOW, found, remedy)


def red(name: str, found: str, remedy: str) -> Result:
    """Return a result that needs a correction."""
    return Result(name, Light.RED, found, remedy)


def looked_at(name: str, check: Callable[..., Result], *arguments: Any, **named: Any) -> Result:
    """Run a check; what it did not foresee becomes a red result of this name instead of the end of all checks."""
    started = time.perf_counter()
    try:
        result = check(*arguments, **named)
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0][:300]
        result = red(name, f"{type(error).__name__}: {first}", "report it with this line if it is not clear what to do")
    return replace(result, seconds=time.perf_counter() - started)
