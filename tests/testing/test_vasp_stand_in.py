"""The stand-in for VASP: its numbers against ASE, settings, k-points, refusals, POTCARs."""

import contextlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.io import read, write
from ase.units import GPa
from pymatgen.io.vasp import Incar, Kpoints, Oszicar, Outcar, Poscar, Vasprun
from pymatgen.io.vasp.inputs import POTCAR_FUNCTIONAL_MAP, PotcarSingle
from vasp_stand_in import write_potcars
from vasp_stand_in.command import main
from vasp_stand_in.errors import InvalidInputError
from vasp_stand_in.inputs import read_poscar
from vasp_stand_in.potcars import FUNCTIONALS, make_believe_potcar, valence_electrons

pytestmark = pytest.mark.filterwarnings("ignore")

INCAR = """ENCUT = 400  # eV
EDIFF = 1E-6 ; ISMEAR = 0 ; SIGMA = 0.05
KSPACING = 0.5
NSW = 0; PREC = Accurate ! static
"""
LJ = {"sigma": 2.1, "epsilon": 0.5, "rc": 6.0}
LJ_OPTIONS = ["--calculator", "lj", "--arguments", json.dumps(LJ)]


def mixed_triclinic():
    """Eight atoms of three elements in an interleaved order, in a compressed triclinic cell."""
    atoms = bulk("Cu", cubic=True) * (1, 1, 2)
    atoms.symbols[:] = ["Cu", "Al", "Al", "Cu", "Ni", "Ni", "Cu", "Al"]
    atoms.set_cell(atoms.cell @ [[0.95, 0.06, 0.01], [0, 0.97, 0.04], [0.02, 0, 0.93]], scale_atoms=True)
    atoms.rattle(0.08, seed=3)
    return atoms


def write_input(folder, atoms, incar=INCAR, kpoints=None):
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "POSCAR", atoms, format="vasp", direct=True, vasp5=True, sort=False)
    (folder / "INCAR").write_text(incar)
    if kpoints:
        (folder / "KPOINTS").write_text(kpoints)
    blocks = (folder / "POSCAR").read_text().splitlines()[5].split()
    (folder / "POTCAR").write_text("".join(make_believe_potcar(element, element) for element in blocks))
    return folder


def run_here(folder, *options):
    """Run in this process: as the executable, without its start-up."""
    with contextlib.chdir(folder):
        return main(list(options))


def run_process(folder, *options, **variables):
    """Run the executable."""
    command = [sys.executable, "-m", "vasp_stand_in", *options]
    return subprocess.run(
        command, cwd=folder, env=os.environ | variables, capture_output=True, text=True, timeout=60, check=False
    )


def vasprun_of(folder, **kwargs):
    return Vasprun(folder / "vasprun.xml", parse_potcar_file=False, **kwargs)


# --- numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "calculator"),
    [
        ([], EMT()),
        (LJ_OPTIONS, LennardJones(**LJ)),
        (["--calculator", "ase.calculators.morse.MorsePotential", "--arguments", '{"epsilon": 0.3, "r0": 2.5}'], None),
    ],
)
def test_numbers_are_those_of_ase(tmp_path, options, calculator):
    """Energy, forces in POSCAR's order and stress, as pymatgen and ASE read them, are the calculator's."""
    if calculator is None:
        from ase.calculators.morse import MorsePotential

        calculator = MorsePotential(epsilon=0.3, r0=2.5)
    write_input(tmp_path, mixed_triclinic())
    assert run_here(tmp_path, *options) == 0
    expected = read(tmp_path / "POSCAR")
    expected.calc = calculator
    energy, forces, stress = expected.get_potential_energy(), expected.get_forces(), expected.get_stress(voigt=False)
    assert abs(forces).max() > 0.1

    run = vasprun_of(tmp_path)
    step = run.ionic_steps[-1]
    print_error = 0.51e-8  # eight decimals
    assert run.converged_electronic
    assert [str(site.specie) for site in run.final_structure] == expected.get_chemical_symbols()
    for kind in ("e_fr_energy", "e_wo_entrp", "e_0_energy"):
        assert step[kind] == pytest.approx(energy, abs=print_error)
    np.testing.assert_allclose(step["forces"], forces, atol=print_error)
    np.testing.assert_allclose(np.array(step["stress"]) * -0.1 * GPa, stress, atol=print_error)

    outcar, oszicar = Outcar(tmp_path / "OUTCAR"), Oszicar(tmp_path / "OSZICAR")
    assert outcar.final_fr_energy == pytest.approx(energy, abs=print_error)
    assert outcar.final_energy == pytest.approx(energy, abs=print_error)
    assert oszicar.ionic_steps[-1]["F"] == pytest.approx(energy, rel=1e-7)
    for name in ("vasprun.xml", "OUTCAR"):
        atoms = read(tmp_path / name)
        assert atoms.get_chemical_symbols() == expected.get_chemical_symbols()
        np.testing.assert_allclose(atoms.get_forces(), forces, atol=0.6e-6)
        np.testing.assert_allclose(atoms.get_stress(voigt=False), stress, atol=1e-8)
        assert atoms.get_potential_energy() == pytest.approx(energy, abs=print_error)
    np.testing.assert_allclose(
        Poscar.from_file(tmp_path / "CONTCAR").structure.frac_coords,
        Poscar.from_file(tmp_path / "POSCAR").structure.frac_coords % 1,
        atol=1e-14,
    )


def test_sign_of_the_stress_is_that_of_vasp(tmp_path):
    """A compressed crystal has a positive pressure in kB, the volume derivative of the energy."""
    atoms = bulk("Cu", a=3.4)
    write_input(tmp_path, atoms)
    assert run_here(tmp_path) == 0
    energies = []
    for factor in (0.999, 1.001):
        strained = atoms.copy()
        strained.set_cell(atoms.cell * factor ** (1 / 3), scale_atoms=True)
        strained.calc = EMT()
        energies.append(strained.get_potential_energy())
    pressure_kB = -(energies[1] - energies[0]) / (0.002 * atoms.get_volume()) / (0.1 * GPa)
    stress = np.array(vasprun_of(tmp_path).ionic_steps[-1]["stress"])
    assert pressure_kB > 100
    np.testing.assert_allclose(np.diag(stress), pressure_kB, rtol=1e-4)


def test_gfn_xtb_through_tblite(tmp_path):
    tblite = pytest.importorskip("tblite.ase", reason="tblite is not installed (extra 'xtb')")
    write_input(tmp_path, bulk("Si"), INCAR + "ISPIN = 2\n")
    assert run_here(tmp_path, "--calculator", "gfn-xtb") == 0
    expected = read(tmp_path / "POSCAR")
    expected.calc = tblite.TBLite(method="GFN1-xTB", verbosity=0)
    assert vasprun_of(tmp_path).ionic_steps[-1]["e_fr_energy"] == pytest.approx(
        expected.get_potential_energy(), abs=1e-6
    )


def test_entropy_tells_the_kinds_of_energy_apart(tmp_path):
    write_input(tmp_path, bulk("Cu", a=3.5))
    assert run_here(tmp_path, "--entropy", "0.25") == 0
    expected = read(tmp_path / "POSCAR")
    expected.calc = EMT()
    energy = expected.get_potential_energy()
    last, outcar = vasprun_of(tmp_path).ionic_steps[-1], Outcar(tmp_path / "OUTCAR")
    found = [last["e_fr_energy"], last["e_wo_entrp"], last["e_0_energy"]]
    assert found == pytest.approx([energy, energy + 0.25, energy + 0.125], abs=1e-8)
    assert [outcar.final_fr_energy, outcar.final_energy_wo_entrp, outcar.final_energy] == pytest.approx(found)
    assert outcar.final_energy_contribs["EENTRO"] == -0.25
    assert sum(outcar.final_energy_contribs.values()) == pytest.approx(energy, abs=1e-8)


def test_energies_can_be_counted_from_the_free_atoms(tmp_path):
    atoms = mixed_triclinic()
    write_input(tmp_path, atoms)
    assert run_here(tmp_path, "--energy-zero", "atoms") == 0
    total = 0.0
    for part, sign in [(read(tmp_path / "POSCAR"), 1), *((Atoms(symbol), -1) for symbol in atoms.symbols)]:
        part.calc = EMT()
        total += sign * part.get_potential_energy()
    assert total < -10
    assert vasprun_of(tmp_path).ionic_steps[-1]["e_fr_energy"] == pytest.approx(total, abs=1e-7)


def test_magnetisation_is_zero_where_the_calculator_has_none(tmp_path):
    write_input(tmp_path, mixed_triclinic(), INCAR + "ISPIN = 2\nLORBIT = 11\nMAGMOM = 8*0.6\n")
    assert run_here(tmp_path) == 0
    outcar = Outcar(tmp_path / "OUTCAR")
    assert outcar.spin
    assert outcar.total_mag == 0  # EMT knows no spin; MAGMOM is a start, not a result
    assert [moment["tot"] for moment in outcar.magnetization] == [0.0] * 8
    assert Oszicar(tmp_path / "OSZICAR").ionic_steps[-1]["mag"] == 0
    assert len(vasprun_of(tmp_path).eigenvalues) == 2


def test_any_calculator_by_its_import_path_with_magnetic_moments(tmp_path):
    (tmp_path / "own.py").write_text(
        "from ase.calculators.emt import EMT\n"
        "class Magnetic(EMT):\n"
        "    implemented_properties = [*EMT.implemented_properties, 'magmoms']\n"
        "    def __init__(self, moment):\n"
        "        super().__init__()\n"
        "        self.moment = moment\n"
        "    def calculate(self, *args):\n"
        "        super().calculate(*args)\n"
        "        self.results['magmoms'] = [self.moment * (i + 1) for i in range(len(self.atoms))]\n"
    )
    write_input(tmp_path, bulk("Ni") * (2, 1, 1), INCAR + "ISPIN = 2\nLORBIT = 11\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    options = ["--calculator", "own.Magnetic", "--arguments", '{"moment": 0.25}']
    assert run_process(tmp_path, *options, PYTHONPATH=path).returncode == 0
    outcar = Outcar(tmp_path / "OUTCAR")
    assert outcar.total_mag == pytest.approx(0.75)
    assert [moment["tot"] for moment in outcar.magnetization] == [0.25, 0.5]
    assert Oszicar(tmp_path / "OSZICAR").ionic_steps[-1]["mag"] == pytest.approx(0.75)
    assert "calculator own:Magnetic, NOT VASP" in (tmp_path / "OUTCAR").read_text()[:200]


# --- settings and k-points ---------------------------------------------------------------------


def test_settings_are_echoed(tmp_path):
    """What pymatgen reads from INCAR it reads from vasprun.xml again."""
    atoms = bulk("Cu") * (2, 1, 1)
    incar = INCAR + "ISPIN = 2\nMAGMOM = 2*1.5\nLREAL = .FALSE.\nALGO = Fast\nLDAUU = 3.5\nNELM = 77\nLASPH = True\n"
    write_input(tmp_path, atoms, incar)
    assert run_here(tmp_path) == 0
    run, written = vasprun_of(tmp_path), Incar.from_file(tmp_path / "INCAR")
    for name, value in written.items():
        assert run.incar[name] == value, name
    assert run.parameters["ENMAX"] == 400
    assert run.parameters["NELM"] == 77
    assert run.parameters["NELECT"] == 22 == Outcar(tmp_path / "OUTCAR").nelect
    assert run.parameters["NBANDS"] == run.eigenvalues[next(iter(run.eigenvalues))].shape[1]
    assert run.potcar_symbols == ["PAW_PBE Cu MAKE-BELIEVE"]


def test_electronic_steps_converge_below_ediff_and_not_before(tmp_path):
    write_input(tmp_path, bulk("Cu", a=3.5))
    assert run_here(tmp_path) == 0
    steps = vasprun_of(tmp_path).ionic_steps[-1]["electronic_steps"]
    changes = np.abs(np.diff([step["e_fr_energy"] for step in steps]))
    assert changes[-1] < 1e-6
    assert (changes[:-1] > 1e-6).all()
    assert [step["E"] for step in Oszicar(tmp_path / "OSZICAR").electronic_steps[0]] == pytest.approx(
        [step["e_fr_energy"] for step in steps]
    )


def test_too_small_nelm_is_unconverged_with_another_energy(tmp_path):
    write_input(tmp_path, bulk("Cu", a=3.5), INCAR + "NELM = 5\n")
    assert run_here(tmp_path) == 0
    run = vasprun_of(tmp_path)
    expected = bulk("Cu", a=3.5)
    expected.calc = EMT()
    assert not run.converged_electronic
    assert run.ionic_steps[-1]["e_fr_energy"] > expected.get_potential_energy() + 1e-4


def test_k_points_without_and_with_symmetry(tmp_path):
    """KSPACING's mesh is that of VASP's formula; weights add up to 1, whatever the symmetry."""
    atoms = bulk("Cu", a=3.6)
    lengths = 2 * np.pi * np.linalg.norm(atoms.cell.reciprocal(), axis=1)
    divisions = np.ceil(lengths / 0.5).astype(int)
    counts = {}
    for isym in (-1, 0, 2):
        write_input(tmp_path, atoms, INCAR + f"ISYM = {isym}\n")
        assert run_here(tmp_path) == 0
        run = vasprun_of(tmp_path)
        assert list(run.kpoints.kpts[0]) == list(divisions)
        assert sum(run.actual_kpoints_weights) == pytest.approx(1, abs=1e-6)
        counts[isym] = len(run.actual_kpoints)
    assert counts[-1] == divisions.prod()
    assert counts[0] == (divisions.prod() + 1 if divisions.prod() % 2 else divisions.prod() + 8) // 2
    assert counts[2] < counts[0]


def test_kpoints_file_is_used(tmp_path):
    atoms = bulk("Cu", a=3.6)
    listed = "list\n2\nReciprocal\n0 0 0 1\n0.5 0 0 3\n"
    write_input(tmp_path / "list", atoms, kpoints=listed)
    assert run_here(tmp_path / "list") == 0
    run = vasprun_of(tmp_path / "list")
    np.testing.assert_allclose(run.actual_kpoints, [[0, 0, 0], [0.5, 0, 0]])
    np.testing.assert_allclose(run.actual_kpoints_weights, [0.25, 0.75])
    write_input(tmp_path / "mp", atoms, INCAR + "ISYM = -1\n", "mesh\n0\nMonkhorst\n2 2 1\n0 0 0\n")
    assert run_here(tmp_path / "mp") == 0
    run = vasprun_of(tmp_path / "mp")
    assert run.kpoints.style is Kpoints.supported_modes.Monkhorst
    assert {tuple(np.abs(point)) for point in run.actual_kpoints} == {(0.25, 0.25, 0.0)}
    write_input(tmp_path / "line", atoms, kpoints="line\n10\nLine\nReciprocal\n0 0 0\n0.5 0 0\n")
    assert run_here(tmp_path / "line") == 1


@pytest.mark.parametrize(
    "text",
    [
        "2.0\n1.5 0 0.2\n0 1.6 0\n0.1 0 1.7\nCu Al Cu\n1 1 2\nDirect\n0 0 0\n.5 .5 -0.1\n0 .5 .5\n1.25 0 .5\n",
        "-40.0\n3 0 0.2\n0 3 0\n0.1 0 3\nCu Al\n1 1\nDirect\n0 0 0\n0.4 -0.3 0.3\n",
        "1.5\n3 0 0.2\n0 3 0\n0.1 0 3\nCu Al\n1 1\nCartesian\n0 0 0\n1.2 -1.4 1.6\n",
        "1\n3 0 0\n0 3 0\n0 0 3\nAl\n2\nSelective\nDirect\n0 0 0 T T F\n.5 .5 -1e-17 F F F\n\n1 1 1\n1 1 1\n",
    ],
)
def test_poscar_is_read_as_pymatgen_and_ase_read_it(tmp_path, text):
    text = f"title\n{text}"
    (tmp_path / "POSCAR").write_text(text)
    _, _, _, ours = read_poscar(tmp_path / "POSCAR")
    theirs, ase = Poscar.from_str(text).structure, read(tmp_path / "POSCAR", format="vasp")
    assert ours.get_chemical_symbols() == ase.get_chemical_symbols() == [site.specie.symbol for site in theirs]
    for cell, positions in ((theirs.lattice.matrix, theirs.frac_coords), (ase.cell, ase.get_scaled_positions(False))):
        np.testing.assert_allclose(ours.cell, cell, atol=1e-12)
        np.testing.assert_allclose(ours.get_scaled_positions(wrap=False), positions % 1 % 1, atol=1e-12)


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "INCAR").write_text("NSW = 5\nIBRION = 2\n"), "NSW = 5"),
        (lambda f: (f / "INCAR").write_text("IBRION = 8\n"), "IBRION = 8"),
        (lambda f: (f / "INCAR").write_text("LSORBIT = .TRUE.\n"), "LSORBIT"),
        (lambda f: (f / "POTCAR").unlink(), "POTCAR is missing"),
        (
            lambda f: (f / "POTCAR").write_text(make_believe_potcar("Al", "Al")),
            "POTCAR holds Al but POSCAR lists Cu Al",
        ),
    ],
)
def test_what_vasp_or_the_stand_in_cannot_do_is_refused(tmp_path, capsys, change, message):
    write_input(tmp_path, mixed_triclinic()[:2])
    change(tmp_path)
    assert run_here(tmp_path) == 1
    assert message in capsys.readouterr().out
    assert not (tmp_path / "vasprun.xml").exists()


def test_a_calculator_that_cannot_is_an_error(tmp_path, capsys):
    write_input(tmp_path, bulk("Si"))
    assert run_here(tmp_path) == 1
    assert "EMT" in capsys.readouterr().out.upper()
    assert not (tmp_path / "vasprun.xml").exists()
    assert run_here(tmp_path, "--calculator", "no.such.Thing") == 1
    assert "cannot be imported" in capsys.readouterr().out


# --- what it says of itself -------------------------------------------------------------------------


def test_every_file_says_that_it_is_not_vasp(tmp_path):
    write_input(tmp_path, bulk("Cu"))
    result = run_process(tmp_path)
    assert result.returncode == 0
    assert result.stderr == ""
    for text in (result.stdout, (tmp_path / "OUTCAR").read_text(), (tmp_path / "vasprun.xml").read_text()):
        head = text[:1500]
        assert "stand-in of mlip_autopipec, calculator EMT, NOT VASP" in head
        assert "made up" in head
    version = vasprun_of(tmp_path).vasp_version
    assert "stand-in" in version
    assert "not vasp" in version.lower()
    assert version.split(".")[0] == "6"  # emmet takes the part before the first point for a number


def test_it_starts_without_pymatgen_and_atomate2(tmp_path):
    """They take seconds to import, and every label is a start."""
    write_input(tmp_path, bulk("Cu"))
    code = (
        "import sys; from vasp_stand_in.command import main; assert main([]) == 0; "
        "assert not {'pymatgen.core', 'atomate2', 'jobflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)


# --- make-believe POTCARs -----------------------------------------------------------------------------


def test_pymatgen_finds_the_potcars_in_both_layouts(tmp_path):
    """In a process of its own, since pymatgen reads its settings once."""
    write_potcars(tmp_path, ["Cu", "Si"], "PBE_64", layout="files")
    write_potcars(tmp_path, ["Cu", "Si"], "PBE_54", {"Cu": "Cu"}, layout="folders")
    code = (
        "from pymatgen.io.vasp import Potcar; "
        "p = [*Potcar(['Cu_pv', 'Si'], functional='PBE_64'), *Potcar(['Cu', 'Si'], functional='PBE_54')]; "
        "print([(s.symbol, s.element, s.nelectrons, s.functional) for s in p])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=os.environ | {"PMG_VASP_PSP_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    silicon = "('Si', 'Si', 4.0, 'PBE')"
    assert done.stdout.strip() == f"[('Cu_pv', 'Cu', 17.0, 'PBE'), {silicon}, ('Cu', 'Cu', 11.0, 'PBE'), {silicon}]"


def test_potcars_are_make_believe_and_complete(tmp_path):
    from pymatgen.io.vasp.sets import MatPESStaticSet

    for functional, (folder, _) in FUNCTIONALS.items():
        assert POTCAR_FUNCTIONAL_MAP[functional] == folder
    write_potcars(tmp_path)
    wanted = MatPESStaticSet.CONFIG["POTCAR"].values()
    assert {path.name.removeprefix("POTCAR.") for path in (tmp_path / "POT_PAW_PBE_64").iterdir()} == set(wanted)
    with pytest.warns(match="not known to pymatgen"):
        potcar = PotcarSingle.from_file(tmp_path / "POT_PAW_PBE_64" / "POTCAR.Cu_pv")
    assert "MAKE-BELIEVE" in potcar.TITEL
    assert "no data of VASP" in potcar.COPYR
    counts = {
        "Si": 4,
        "Cu_pv": 17,
        "Li_sv": 3,
        "Al": 3,
        "Ge_d": 14,
        "W_sv": 14,
        "Pt": 10,
        "Au": 11,
        "Fe_pv": 14,
        "O": 6,
    }
    assert {symbol: valence_electrons(symbol.split("_")[0], symbol) for symbol in counts} == counts
    with pytest.raises(InvalidInputError, match="Xx"):
        write_potcars(tmp_path, ["Xx"])
