"""Charge, spin and magnetic moments of a structure: they reach the code and the key of a label, or are refused."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.cp2k import CP2K
from ase.calculators.emt import EMT
from ase.calculators.espresso import Espresso, EspressoProfile
from ase.io.espresso import write_espresso_in
from atomate2.ase.jobs import GFNxTBStaticMaker

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.flows.given import as_frames
from mlip_autopipec.frames import pack_frames, unpack_frames
from mlip_autopipec.jobs.espresso import EspressoStaticMaker
from mlip_autopipec.jobs.label import OracleMaker
from mlip_autopipec.jobs.static import CalculatorStaticMaker, EMTStaticMaker
from mlip_autopipec.oracle.code_settings import refused_settings
from mlip_autopipec.oracle.electrons import tell
from mlip_autopipec.oracle.identity import canonical_form
from mlip_autopipec.oracle.vasp import vasp_static_maker
from mlip_autopipec.sampling.candidates import CandidateGenerator
from mlip_autopipec.sampling.seeds import StructureGenerator
from mlip_autopipec.schemas.label import AtomsRecord, LabelDocument
from mlip_autopipec.structures.electrons import check_one_state, take_over
from mlip_autopipec.structures.provenance import Provenance, Split


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # atomate2's makers leave a file


XTB = {"method": "GFN1-xTB", "verbosity": 0}


def ammonium(charge: int = 1) -> Atoms:
    """NH4 with its charge, in a box."""
    d = 1.03 / 3**0.5
    corners = [[d, d, d], [d, -d, -d], [-d, d, -d], [-d, -d, d]]
    atoms = Atoms("NH4", [[0, 0, 0], *corners], info={"charge": charge} if charge else {})
    atoms.positions[1] *= 1.05
    return as_frames(atoms)[0]


def iron(*moments: float) -> Atoms:
    atoms = bulk("Fe", cubic=True)
    atoms.set_initial_magnetic_moments(moments)
    return atoms


# ---- the physics


def test_ammonium_is_not_the_neutral_molecule() -> None:
    pytest.importorskip("tblite")
    from tblite.ase import TBLite

    oracle = OracleMaker(static_maker=GFNxTBStaticMaker(calculator_kwargs=dict(XTB)))
    neutral, charged = oracle.compute(ammonium(0)).atoms, oracle.compute(ammonium(1)).atoms
    alone = ammonium(0)
    alone.calc = TBLite(charge=1, **XTB)
    assert charged.get_potential_energy() == pytest.approx(alone.get_potential_energy(), abs=1e-6)
    assert charged.calc.results["forces"] == pytest.approx(alone.get_forces(), abs=1e-6)
    assert charged.get_potential_energy() - neutral.get_potential_energy() > 5  # the electron it lost
    assert np.abs(charged.calc.results["forces"] - neutral.calc.results["forces"]).max() > 0.1
    assert charged.info == {"charge": 1}
    assert "stress" in neutral.calc.results
    assert "stress" not in charged.calc.results  # it holds the background that makes the cell neutral


def test_any_calculator_maker_of_xtb_is_told_too() -> None:
    pytest.importorskip("tblite")
    generic = CalculatorStaticMaker(calculator_class="tblite.ase.TBLite", calculator_kwargs=dict(XTB))
    own = GFNxTBStaticMaker(calculator_kwargs=dict(XTB))
    labels = [OracleMaker(static_maker=maker).compute(ammonium(1)).atoms for maker in (generic, own)]
    assert labels[0].get_potential_energy() == pytest.approx(labels[1].get_potential_energy(), abs=1e-6)


def test_the_spin_reaches_xtb() -> None:
    pytest.importorskip("tblite")
    oracle = OracleMaker(static_maker=GFNxTBStaticMaker(calculator_kwargs=dict(XTB)))
    singlet, triplet = as_frames([molecule("CH2_s1A1d"), molecule("CH2_s1A1d")])
    singlet.arrays.pop("initial_magmoms", None)
    triplet.arrays.pop("initial_magmoms", None)
    triplet.info["multiplicity"] = 3
    energies = [oracle.compute(atoms).atoms.get_potential_energy() for atoms in (singlet, triplet)]
    assert abs(energies[0] - energies[1]) > 0.1


# ---- the key


def test_the_key_of_a_neutral_structure_is_what_it_was() -> None:
    plain = ammonium(0)
    assert set(canonical_form(plain)) == {"cell", "pbc", "numbers", "positions"}
    plain.info["charge"] = 0
    assert set(canonical_form(plain)) == {"cell", "pbc", "numbers", "positions"}


def test_charge_spin_and_moments_have_keys_of_their_own() -> None:
    oracle = OracleMaker(static_maker=vasp_static_maker())
    atoms = iron(2, 2)
    atoms.arrays.pop("initial_magmoms")
    others = [iron(2, -2), iron(2, 2), atoms.copy(), atoms.copy(), atoms.copy()]
    others[2].info["charge"] = 1
    others[3].info["charge"] = -1
    others[4].info["multiplicity"] = 3
    keys = {oracle.key_of(one) for one in [atoms, *others]}
    assert len(keys) == 6
    turned = iron(2, -2)[[1, 0]]
    assert oracle.key_of(turned) == oracle.key_of(iron(2, -2))
    records = {oracle.asked(one).sha256 for one in [atoms, *others]}
    assert len(records) == 1  # one level of theory


# ---- what is refused


@pytest.mark.parametrize(
    ("maker", "atoms", "told"),
    [
        (EMTStaticMaker(), bulk("Cu"), r"Cu has a total charge of \+1 e, and the oracle EMTStaticMaker has no electr"),
        (
            CalculatorStaticMaker(calculator_class="ase.calculators.abinit.Abinit"),
            bulk("Cu"),
            r"CalculatorStaticMaker is not known to take a charge",
        ),
    ],
)
def test_an_oracle_that_is_not_told_is_refused(maker, atoms, told) -> None:
    charged = atoms.copy()
    charged.info["charge"] = 1
    with pytest.raises(InvalidInputError, match=told):
        OracleMaker(static_maker=maker).check_structures([charged])
    with pytest.raises(InvalidInputError, match=told):
        OracleMaker(static_maker=maker).key_of(charged)


def test_moments_that_an_oracle_does_not_take(caplog) -> None:
    oracle = OracleMaker(static_maker=CalculatorStaticMaker(calculator_class="ase.calculators.cp2k.CP2K"))
    with pytest.raises(InvalidInputError, match=r"moments of -2 and 2 Bohr magnetons on Fe.*takes no moments"):
        oracle.check_structures([iron(2, -2)])
    oracle.check_structures([iron(2, 2)])
    assert "takes no moments of single atoms: those of 1 structures are not used" in caplog.text
    plain = iron(2, 2)
    plain.arrays.pop("initial_magmoms")
    assert oracle.key_of(iron(2, 2)) == oracle.key_of(plain)


def test_one_composition_in_two_states_is_refused() -> None:
    twice = ammonium(1).repeat((2, 1, 1))
    twice.info["charge"] = 2
    check_one_state([ammonium(1), twice, molecule("H2O")], "structures")
    with pytest.raises(InvalidInputError, match=r"hold H4N with a total charge of \+1 e, and with no charge"):
        check_one_state([ammonium(1), ammonium(0)], "structures")


def with_spin(name: str, multiplicity: int) -> Atoms:
    atoms = Atoms(name) if len(name) == 1 else molecule(name)
    atoms.info["multiplicity"] = multiplicity
    return as_frames(atoms)[0]


def test_radicals_and_lone_atoms_are_other_structures_than_closed_shells() -> None:
    lone = [with_spin("H", 2), with_spin("O", 3)]
    check_one_state([molecule("H2"), with_spin("O2", 3), molecule("O3"), *lone], "labels")
    check_one_state([molecule("H2O2"), with_spin("OH", 2), molecule("C2H6"), with_spin("CH3", 2)], "labels")
    with pytest.raises(InvalidInputError, match="hold O2 with no multiplicity, and with a spin multiplicity of 3"):
        check_one_state([molecule("O2"), with_spin("O2", 3)], "labels")
    crystal = bulk("Fe")
    twice = crystal * (2, 1, 1)
    crystal.info["multiplicity"], twice.info["multiplicity"] = 3, 5
    check_one_state([crystal, twice], "labels")
    twice.info["multiplicity"] = 3
    with pytest.raises(InvalidInputError, match="hold Fe with"):
        check_one_state([crystal, twice], "labels")


def test_an_oracle_without_spin_takes_references_that_have_it() -> None:
    atom = with_spin("H", 2)
    oracle = OracleMaker(static_maker=EMTStaticMaker())
    with pytest.raises(InvalidInputError, match="spin multiplicity of 2, and the oracle"):
        oracle.check_structures([atom])
    oracle.check_structures([Provenance(split=Split.REFERENCE).mark(atom)])


def test_a_charge_in_the_settings_of_a_calculator_is_refused() -> None:
    (charge,) = refused_settings("tblite.ase.TBLite", {"charge": 1, "multiplicity": 1})
    assert "give it to the structure that has it" in charge
    assert len(refused_settings("tblite.ase.TBLite", {"multiplicity": 3, "electric_field": [0, 0, 0.1]})) == 2


@dataclass
class ToldMaker(EMTStaticMaker):
    """As a maker of one's own that knows charges may be."""

    takes = frozenset(["charge", "multiplicity"])

    def _get_calculator(self):
        return Seeing()


class Seeing(EMT):
    """EMT that counts charge and spin into the energy."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        self.results["free_energy"] = self.results["energy"] = 100.0 * atoms.info["charge"] + atoms.info["multiplicity"]


def test_a_maker_of_ones_own_sees_them() -> None:
    atoms = bulk("Cu", cubic=True)
    atoms.info.update(charge=2, multiplicity=3)
    assert OracleMaker(static_maker=ToldMaker()).compute(atoms).atoms.get_potential_energy() == pytest.approx(203)


# ---- the input of codes


def test_the_input_of_quantum_espresso(tmp_path) -> None:
    maker = EspressoStaticMaker(pseudopotentials={"Fe": "Fe.UPF"}, input_data={"system": {"ecutwfc": 30}})
    atoms = iron(2, -2)
    atoms.info.update(charge=1, multiplicity=2)
    given = OracleMaker(static_maker=maker).given(atoms)
    calculator = Espresso(
        profile=EspressoProfile("pw.x", tmp_path), pseudopotentials=maker.pseudopotentials, input_data=maker.input_data
    )
    tell(calculator, "ase.calculators.espresso.Espresso", given)
    with (tmp_path / "pw.in").open("w") as file:
        write_espresso_in(file, given, **calculator.parameters)
    written = (tmp_path / "pw.in").read_text().lower().replace(" ", "")
    for line in ("tot_charge=1", "tot_magnetization=1", "nspin=2", "ecutwfc=30"):
        assert line in written
    assert "starting_magnetization(1)=2" in written
    assert "starting_magnetization(2)=-2" in written
    assert maker.input_data == {"system": {"ecutwfc": 30}}


def slab_input(tmp_path, atoms, **control) -> str:
    maker = EspressoStaticMaker(
        pseudopotentials={"Cu": "Cu.UPF"},
        input_data={"system": {"ecutwfc": 30}, "control": control},
        pseudo_dir=str(tmp_path),
    )
    (tmp_path / "Cu.UPF").write_text("make-believe")
    OracleMaker(static_maker=maker).check(["Cu"])
    calculator = maker._get_calculator()
    maker.set_along_vacuum(atoms, calculator)
    with (tmp_path / "pw.in").open("w") as file:
        write_espresso_in(file, atoms, **calculator.parameters)
    return (tmp_path / "pw.in").read_text().lower().replace(" ", "").replace("'", "")


def test_the_dipole_correction_of_quantum_espresso(tmp_path) -> None:
    (layer,) = as_frames(slab())
    written = slab_input(tmp_path, layer, tefield=True, dipfield=True)
    for line in ("tefield=.true.", "dipfield=.true.", "edir=3", "eamp=0", "eopreg=0.1"):
        assert line in written
    # the saw-tooth turns in the middle of the vacuum, half a cell from the atoms
    turns = float(written.split("emaxpos=")[1].split("\n")[0])
    assert (turns + 0.05) % 1 == pytest.approx(0.0, abs=0.02) or (turns + 0.05) % 1 == pytest.approx(1.0, abs=0.02)
    assert written.split("k_points")[1].splitlines()[1].endswith("1000")  # one k-point along vacuum, no shift
    generic = {"input_data": {"control": {"tefield": True, "dipfield": True}}}  # nobody sets eamp, which is 0.001
    assert len(refused_settings("ase.calculators.espresso.Espresso", generic)) == 1
    with pytest.raises(InvalidInputError, match="tefield"):
        slab_input(tmp_path, layer, tefield=True, dipfield=True, eamp=0.01)
    plain = slab_input(tmp_path, bulk("Cu"), tefield=True, dipfield=True)
    assert "tefield" not in plain
    assert "dipfield" not in plain


def test_the_input_of_cp2k_by_ase() -> None:
    atoms = molecule("O2")
    atoms.info.update(charge=-1, multiplicity=2)
    calculator = CP2K.__new__(CP2K)  # its constructor starts cp2k_shell
    calculator._shell = None
    calculator.parameters = SimpleNamespace(**CP2K.default_parameters)
    calculator.set = calculator.parameters.__dict__.update
    tell(calculator, "ase.calculators.cp2k.CP2K", atoms)
    assert (calculator.parameters.charge, calculator.parameters.multiplicity, calculator.parameters.uks) == (
        -1,
        2,
        True,
    )
    smeared = "&FORCE_EVAL\n &DFT\n  &SCF\n   &SMEAR ON\n    METHOD FERMI_DIRAC\n   &END\n  &END\n &END\n&END\n"
    for inp, n_kept in ((smeared, 1), (smeared.replace("METHOD", "FIXED_MAGNETIC_MOMENT 7\nMETHOD"), 1), ("", 0)):
        calculator.parameters.inp = inp
        tell(calculator, "ase.calculators.cp2k.CP2K", atoms)  # else the field goes on to any other multiplicity
        written = calculator.parameters.inp
        assert written.count("FIXED_MAGNETIC_MOMENT 1\n") == written.count("FIXED_MAGNETIC_MOMENT") == n_kept


def test_moments_of_the_structure_go_before_those_of_the_maker() -> None:
    maker = _Recording(initial_moments_muB={"Fe": 5.0})
    oracle = OracleMaker(static_maker=maker)
    oracle.compute(iron(2, -2))
    assert _Recorder.seen == [2, -2]
    plain = iron(2, 2)
    plain.arrays.pop("initial_magmoms")
    label = oracle.compute(plain).atoms
    assert _Recorder.seen == [5, 5]
    assert label.calc.results["magmoms"].tolist() == [1.5, 1.5]  # those that were computed


class _Recorder(EMT):
    seen: ClassVar[list[float]] = []
    implemented_properties: ClassVar[list[str]] = [*EMT.implemented_properties, "magmoms"]

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        type(self).seen = atoms.get_initial_magnetic_moments().tolist()
        n = len(atoms)
        self.results = {"energy": 0.0, "free_energy": 0.0, "forces": np.zeros((n, 3)), "magmoms": np.full(n, 1.5)}


@dataclass
class _Recording(EMTStaticMaker):
    takes = frozenset(["moments"])

    def _get_calculator(self):
        return _Recorder()


# ---- through the loop


def test_supercells_have_the_charge_of_all_their_cells() -> None:
    cell = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    cell.info.update(charge=1, multiplicity=2)
    made = StructureGenerator(min_width=11.0, max_atoms=64, n_structures=3, n_test=1, dimers=None).generate([cell])
    own = [atoms for atoms in made if Provenance.of(atoms).split is not Split.REFERENCE]
    assert {len(atoms) for atoms in own} == {64}
    assert {(atoms.info["charge"], atoms.info["multiplicity"]) for atoms in own} == {(8, 9)}
    atoms = [atoms for atoms in made if Provenance.of(atoms).split is Split.REFERENCE]
    assert not any("charge" in one.info for one in atoms)


def test_candidates_and_stored_structures_keep_them() -> None:
    start = iron(2, -2) * (2, 2, 2)
    start.info.update(charge=1, multiplicity=2)
    (frame,) = unpack_frames(pack_frames([start]))
    made = CandidateGenerator(n_samples=6).generate(frame, frames=[frame])
    for one in made:
        assert (one.info["charge"], one.info["multiplicity"]) == (1, 2)
        assert one.get_initial_magnetic_moments().tolist() == [2, -2] * 8
    stored = AtomsRecord.model_validate(AtomsRecord.from_atoms(start).model_dump()).to_atoms()
    assert stored.info == {"charge": 1, "multiplicity": 2}
    assert stored.get_initial_magnetic_moments().tolist() == [2, -2] * 8
    assert AtomsRecord.model_validate({"numbers": [1], "positions_A": [[0, 0, 0]], "cell_A": np.eye(3).tolist(),
                                       "pbc": [True] * 3}).to_atoms().info == {}  # fmt: skip


def test_elements_of_charged_cells_are_not_exchanged() -> None:
    made = StructureGenerator(n_structures=2, n_test=0, pair_cutoff=3.0).generate([ammonium(1)])
    assert {atoms.get_chemical_formula() for atoms in made if len(atoms) > 1} == {"H4N"}


def test_a_charged_cell_that_would_be_cut_is_refused() -> None:
    oracle = OracleMaker(static_maker=vasp_static_maker())
    with pytest.raises(InvalidInputError, match=r"max_atoms.*H4N of 5 atoms has a total charge"):
        oracle.check_structures([ammonium(1)], largest=4)
    oracle.check_structures([ammonium(1)], largest=5)


def test_frames_of_md_have_the_electrons_of_their_start() -> None:
    frame = take_over(iron(2, -2), bulk("Fe", cubic=True))
    assert frame.get_initial_magnetic_moments().tolist() == [2, -2]
    neutral = take_over(bulk("Fe", cubic=True), ammonium(1)[:2])
    assert "charge" not in neutral.info


# ---- periodicity that an oracle has


def slab() -> Atoms:
    atoms = fcc111("Cu", (1, 1, 4), vacuum=8)
    atoms.rattle(0.1, seed=2)
    return atoms


@pytest.mark.parametrize("kind", ["emt", "xtb"])
def test_a_slab_is_the_same_in_a_box(kind) -> None:
    maker = EMTStaticMaker()
    if kind == "xtb":
        pytest.importorskip("tblite")
        maker = GFNxTBStaticMaker(calculator_kwargs=dict(XTB))
    oracle, atoms = OracleMaker(static_maker=maker), slab()
    assert atoms.pbc.tolist() == [True, True, False]
    (boxed,) = as_frames(atoms)
    open_, closed = oracle.compute(atoms).atoms, oracle.compute(boxed).atoms
    assert open_.get_potential_energy() == pytest.approx(closed.get_potential_energy(), abs=1e-6)
    assert open_.calc.results["forces"] == pytest.approx(closed.calc.results["forces"], abs=1e-5)
    assert "stress" in closed.calc.results
    assert ("stress" in open_.calc.results) == (kind == "emt")  # of a cell that the oracle was given instead
    assert LabelDocument.from_labelled(
        open_, uuid="u", campaign_id="c", cycle=0, index=0, origin="given", energy_kind="free_energy"
    ).to_atoms().pbc.all() == (kind == "xtb")
