"""Documents that are listed leave their bulk data in the store, and say so when it is asked for."""

from __future__ import annotations

import pytest
from ase.build import bulk

from mlip_autopipec.errors import MLIPError
from mlip_autopipec.frames import pack_frames
from mlip_autopipec.schemas.walk import WalkDocument


def test_a_walk_gives_its_trace_and_frames():
    payload = {"final": pack_frames([bulk("Cu")]), "frames": pack_frames([]), "trace": {"step": [0, 10]}}
    walk = WalkDocument(uuid="w", walker=0, status="CONVERGED", payload=payload)
    assert walk.trace() == {"step": [0, 10]}
    assert walk.final_atoms() == bulk("Cu")
    assert walk.dumped_frames() == []


@pytest.mark.parametrize("ask", [WalkDocument.trace, WalkDocument.final_atoms, WalkDocument.dumped_frames])
def test_a_walk_without_them_says_how_to_read_them(ask):
    with pytest.raises(MLIPError, match=r"walk document w has no .* with it.*Campaigns\.walk or"):
        ask(WalkDocument(uuid="w", walker=0, status="CONVERGED"))
