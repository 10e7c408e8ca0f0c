"""What lies beside the file of a potential and was not asked for: its posterior, and its reference energies."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)

#: What a campaign writes, and the folder beside it that has the potential.
_RESULT, _FOLDER = "result.json", "potential"
#: A result is no larger than this (bytes).
_LARGEST = 50e6


def posterior_beside(yaml_file: Path) -> Path | None:
    """Return the file of the posterior that was written beside a potential; None if there is none."""
    found = yaml_file.with_name(f"{yaml_file.stem}.posterior.npz")
    return found if found.is_file() else None


def warn_of_references(yaml_file: Path) -> None:
    """Warn that a potential of a campaign is read without the reference energies that belong to it."""
    folder = yaml_file.resolve().parent
    result = folder.parent / _RESULT
    try:
        if folder.name != _FOLDER or not result.is_file() or result.stat().st_size > _LARGEST:
            return
        known = json.loads(result.read_text())["potential"]["reference_energies_eV"]
        told = {str(element): round(float(energy), 6) for element, energy in known.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # it is no result of a campaign
        return
    if any(told.values()):
        logger.warning(
            "'%s' is read without reference energies, so its energies are relative to those of '%s'; for total "
            "energies give reference_energies=%s, else reference_energies={}",
            yaml_file,
            result,
            told,
        )
