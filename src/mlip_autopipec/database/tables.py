"""Documents as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlip_autopipec.schemas.base import Document


def to_table(documents: Sequence[Document]) -> pd.DataFrame:
    """
    Make a table of documents: one row each, one column per number or word.

    Fields of nested documents get a dot (``test.forces_rmse_meV_A``); lists and bulk data are
    left out, except lists of words (``elements``), which are joined.
    """
    rows = [_flat(document.model_dump(mode="json")) for document in documents]
    bulky = {name for row in rows for name, value in row.items() if isinstance(value, list)}
    return pd.DataFrame([{name: value for name, value in row.items() if name not in bulky} for row in rows])


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            row |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list) and all(isinstance(item, str) for item in value):
            row[prefix + name] = " ".join(value)
        else:
            row[prefix + name] = value
    return row
