"""Isolated atoms: labelled with the first dataset, reference of all energies, never trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from mlip_autopipec.database.campaigns import Campaigns
from mlip_autopipec.jobs.generate import GenerateMaker
from mlip_autopipec.jobs.label import OracleMaker
from mlip_autopipec.jobs.static import EMTStaticMaker
from mlip_autopipec.jobs.train import TrainMaker
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.sampling.seeds import StructureGenerator, isolated_atom
from mlip_autopipec.schemas.loop import LoopStatus
from mlip_autopipec.testing import ScriptedDynamicsMaker, StandInOracleMaker, StandInTrainer, stand_in_loop
from mlip_autopipec.training.linear import LinearACETrainer

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobflow import Flow, JobStore

    from mlip_autopipec.schemas.loop import OTFDocument

GENERATE = GenerateMaker(generator=StructureGenerator(n_structures=3, n_test=1, max_atoms=16, isolated_atoms=True))


def test_their_energies_are_the_reference(
    run_loop: Callable[[Flow], OTFDocument], memory_jobstore: JobStore, tmp_cwd
) -> None:
    maker = stand_in_loop(
        generate_maker=GENERATE,
        oracle_maker=OracleMaker(static_maker=EMTStaticMaker(), atom_maker=EMTStaticMaker(name="atom")),
        train_maker=TrainMaker(trainer=LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=5))),
        dynamics_maker=ScriptedDynamicsMaker(),
    )
    document = run_loop(maker.make(bulk("Cu", cubic=True), 300, campaign_id="copper"))
    assert document.status is LoopStatus.CONVERGED, document.why
    assert document.n_labels == 5
    assert document.potential is not None
    atom = isolated_atom("Cu")
    atom.calc = EMT()
    alone = atom.get_potential_energy()
    assert document.potential.reference_energies_eV == {"Cu": pytest.approx(alone)}
    assert (document.potential.n_train, document.potential.n_test) == (3, 1)
    (label,) = Campaigns(memory_jobstore).labels("copper", split="reference")
    assert (label.origin, label.n_atoms, label.energy_eV) == ("isolated_atom", 1, pytest.approx(alone))


def test_without_its_reference_a_campaign_says_so_and_trains_nothing(run_loop: Callable[[Flow], OTFDocument]) -> None:
    maker = stand_in_loop(
        generate_maker=GENERATE,
        oracle_maker=StandInOracleMaker(failing=["c000 004"], max_failed_fraction=0.9),
        train_maker=TrainMaker(trainer=StandInTrainer()),
    )
    document = run_loop(maker.make(bulk("Cu", cubic=True), 300))
    assert document.status is LoopStatus.ORACLE_FAILING
    assert "isolated atom: " in document.why
    assert document.n_failed_labels == 1
    assert document.n_labels == 4  # what was computed is kept
    assert document.potential_id is None
