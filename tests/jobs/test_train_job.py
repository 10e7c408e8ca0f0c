"""What the training job says about the labels it is given."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mlip_autopipec.jobs.train import warn_of_mixed_settings
from mlip_autopipec.oracle.record import OracleRecord
from mlip_autopipec.schemas.label import LabelDocument

if TYPE_CHECKING:
    import pytest


def label(uuid: str, record: OracleRecord | None) -> LabelDocument:
    return LabelDocument(uuid=uuid, index=0, state="successful", origin="given", computed_with=record)


def test_labels_of_other_settings_are_named(caplog: pytest.LogCaptureFixture) -> None:
    one, other = (OracleRecord.of("VASP", {"ENCUT": encut}, functional="PBE") for encut in (520, 680))
    labels = [label("a", one), label("b", one), label("c", other), label("d", None)]
    with caplog.at_level(logging.WARNING):
        warn_of_mixed_settings(labels)
    assert [record.getMessage() for record in caplog.records] == [
        "label c was computed with other settings than a: ENCUT: 520 and 680"
    ]
    caplog.clear()
    warn_of_mixed_settings(labels[:2])
    assert not caplog.records
