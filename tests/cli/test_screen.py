"""What the screen shows of a job that failed."""

from __future__ import annotations

import traceback

import pytest

from mlip_autopipec.cli.local import first_of_error
from mlip_autopipec.errors import ExplorationError


def failed(text: str) -> str:
    try:
        try:
            raise KeyError("cause")
        except KeyError as error:
            raise ExplorationError(text) from error
    except ExplorationError:
        return f"explore failed with exception:\n{traceback.format_exc()}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Colvars refuses it: Error: no d\n  # period = 0\n  name", "Colvars refuses it: Error: no d"),
        ("the template lacks:\n  timestep\n  dump", "the template lacks: timestep"),
        ("one line", "one line"),
    ],
)
def test_the_error_is_shown_by_its_first_line(text: str, shown: str) -> None:
    assert first_of_error(failed(text)) == f"mlip_autopipec.errors.ExplorationError: {shown}"


def test_a_message_without_a_traceback_is_shown_by_its_last_line() -> None:
    assert first_of_error("explore failed with exception:\nkilled") == "killed"
