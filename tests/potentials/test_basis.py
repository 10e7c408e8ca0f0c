"""Bases are those of pyace, function by function and radial function by radial function."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from pyace import create_multispecies_basis_config

from mlip_autopipec.potentials.basis import LADDER_SHAPE, BasisSettings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("elements", "n", "shape"),
    [
        (["Si"], 10, LADDER_SHAPE),
        (["Si"], 600, LADDER_SHAPE),
        (["Si"], 5000, ([4, 2], [0, 1])),
        (["Cu", "Au"], 30, ([8, 3, 2], [0, 2, 1])),
        (["Cu", "Au"], 1, ([8, 3, 2], [0, 2, 1])),
        (["Cu", "Au", "Ag"], 45, ([6, 2, 1], [0, 2, 1])),
        (["Cu", "Au"], 100, None),
    ],
)
def test_a_basis_is_that_of_pyace(
    elements: list[str], n: int, shape: tuple[list[int], list[int]] | None, tmp_path: Path
) -> None:
    limits = (None, None) if shape is None else tuple(map(list, shape))
    settings = BasisSettings(n, 5.5, *limits, radial_basis="ChebExpCos", radial_parameters=[4.0])
    settings.configuration(elements).save(str(tmp_path / "ours.yaml"))
    create_multispecies_basis_config(settings.section(elements)).save(str(tmp_path / "pyace.yaml"))
    assert (tmp_path / "ours.yaml").read_text() == (tmp_path / "pyace.yaml").read_text()


def test_the_bases_of_a_ladder_of_an_alloy_take_seconds() -> None:
    started = time.process_time()
    for n in (10, 20, 30, 45, 70, 100, 150, 220):
        BasisSettings(n, 6.0, *map(list, LADDER_SHAPE)).configuration(["Mg", "O"])
    assert time.process_time() - started < 20  # 90 s while pyace checked all functions each time
