"""Outputs of codes as labels: what is read of them, which steps are left out, what is refused."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.io import Trajectory
from paths import SHARED_DATA

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.oracle.files import read_labels_file
from mlip_autopipec.runfile.model import RunFile
from mlip_autopipec.runfile.structures import load_structure
from mlip_autopipec.structures.electrons import charge_of
from mlip_autopipec.structures.readers import read_structure

RUN = SHARED_DATA / "vasp_runs" / "Si8_displaced" / "outputs"
#: Of this run of VASP 6.
ENERGY = -45.96471


def _text(name: str) -> str:
    file = RUN / f"{name}.gz"
    if not file.is_file():
        pytest.skip(f"{file} is not there")
    with gzip.open(file, "rt") as stream:
        return stream.read()


def _steps_of(text: str) -> tuple[str, str, str]:
    """Return a vasprun.xml of one step as what is before the step, the step, and what is after it."""
    begin, end = text.index("<calculation>"), text.index("</calculation>") + len("</calculation>\n")
    return text[:begin], text[begin:end], text[end:]


def _moved(step: str, shift: float) -> str:
    """Return the step with its first atom elsewhere, so that it is another structure."""
    head, rest = step.split('<varray name="positions" >', 1)
    first, rest = rest.split("<v>", 1)
    numbers, rest = rest.split("</v>", 1)
    x, y, z = (float(word) for word in numbers.split())
    return f'{head}<varray name="positions" >{first}<v> {x + shift:.8f} {y:.8f} {z:.8f} </v>{rest}'


def test_every_step_of_vasp_is_a_label(tmp_path):
    before, step, after = _steps_of(_text("vasprun.xml"))
    path = tmp_path / "vasprun.xml"
    path.write_text(before + step + _moved(step, 0.01) + after)
    found = read_labels_file(path)
    assert [atoms.calc.results["energy"] for atoms in found] == pytest.approx([ENERGY] * 2, abs=1e-4)
    assert found.remarks[0] == "labels: 'vasprun.xml' (vasprun.xml of VASP): 2 of 2 steps"
    (outcar,) = read_labels_file(RUN / "OUTCAR.gz")
    assert np.allclose(outcar.calc.results["forces"], found[0].calc.results["forces"], atol=1e-5)
    assert np.allclose(outcar.calc.results["stress"], found[0].calc.results["stress"], atol=1e-4)


def test_a_step_that_did_not_converge_is_left_out(tmp_path):
    before, step, after = _steps_of(_text("vasprun.xml"))
    first, *rest = re.findall(r"<scstep>.*?</scstep>\n", step, re.DOTALL)
    begin = step.index(first)
    # as many iterations as are allowed, and the last still changes the energy
    short = step[:begin] + "".join([first, *rest][:5]) + step[step.index(rest[-1]) + len(rest[-1]) :]
    before = re.sub(r'(name="NELM">)\s*\d+', r"\g<1> 5", before)
    path = tmp_path / "vasprun.xml"
    path.write_text(before + short + after)
    with pytest.raises(InvalidInputError, match=r"holds no label: step 0 did not converge"):
        read_labels_file(path)


def test_an_unconverged_step_of_an_outcar_is_left_out(tmp_path):
    text = _text("OUTCAR")
    begin = text.rindex("\n", 0, text.index("Iteration") - 60)
    said = "aborting loop because EDIFF is reached"
    late = text[begin:].replace(said, "aborting loop EDIFF was not reached (unconverged)")
    (tmp_path / "OUTCAR").write_text(text[:begin] + late + text[begin:])
    found = read_labels_file(tmp_path / "OUTCAR")
    assert len(found) == 1
    assert "1 of 2 steps; left out: step 0 did not converge" in found.remarks[0]


def test_a_step_that_was_stopped_is_left_out(tmp_path):
    """By STOPCAR or a wall time: fewer iterations than NELM, and the last still changes the energy."""
    before, step, after = _steps_of(_text("vasprun.xml"))
    first, *rest = re.findall(r"<scstep>.*?</scstep>\n", step, re.DOTALL)
    begin = step.index(first)
    short = step[:begin] + "".join([first, *rest][:5]) + step[step.index(rest[-1]) + len(rest[-1]) :]
    path = tmp_path / "vasprun.xml"
    path.write_text(before + step + _moved(short, 0.01) + after)
    found = read_labels_file(path)
    assert len(found) == 1
    assert "1 of 2 steps; left out: step 1 did not converge" in found.remarks[0]
    # a dispersion correction is in the last iteration alone, and says nothing of its convergence
    with_dispersion = before.replace("<incar>", '<incar>\n  <i type="int" name="IVDW"> 12</i>', 1)
    path.write_text(with_dispersion + step + _moved(short, 0.01) + after)
    assert len(read_labels_file(path)) == 2


def _with(text: str, *tags: str) -> str:
    """Return a vasprun.xml of a run with other tags."""
    for tag in tags:
        name, value = tag.split(" = ")
        text = text.replace("</incar>", f'  <i name="{name}"> {value}</i>\n </incar>', 1)
        text = re.sub(rf'(name="{name}"[^>]*>)[^<]*(?=</i>)', rf"\g<1> {value}", text)
    return text


@pytest.mark.parametrize(
    ("tag", "told"), [("EDIFF = 0.1", "EDIFF = 0.1: forces are noise"), ("PREC = Low", "PREC = Low: the grids")]
)
def test_runs_that_are_no_good_are_refused(tag, told, tmp_path):
    path = tmp_path / "vasprun.xml"
    path.write_text(_with(_text("vasprun.xml"), tag))
    with pytest.raises(InvalidInputError, match=told):
        read_labels_file(path)


def test_what_makes_labels_noisy_is_said_once_for_all_files(tmp_path):
    before, step, after = _steps_of(_with(_text("vasprun.xml"), "EDIFF = 1e-4", "LREAL = A", "ISMEAR = 1"))
    paths = [tmp_path / f"{name}.xml" for name in "abc"]
    for index, path in enumerate(paths):
        path.write_text(before + _moved(step, 0.01 * index) + after)
    said = read_labels_file(paths).remarks
    for tag in ("EDIFF = 1e-4: ", "LREAL = A: ", "ISMEAR = 1: it is for metals alone"):
        (line,) = [one for one in said if tag in one]
        assert line.startswith("labels: 'a.xml' and 2 more: ")
    assert not [one for one in read_labels_file(RUN / "vasprun.xml.gz").remarks if "noise" in one]


def test_an_outcar_says_its_settings_and_the_cutoffs_of_its_potentials(tmp_path):
    text = _text("OUTCAR")
    path = tmp_path / "OUTCAR"
    path.write_text(text)
    assert len(read_labels_file(path).remarks) == 1
    for before, after, told in (
        ("EDIFF  = 0.1E-06", "EDIFF  = 0.1E-03", "EDIFF = 0.1E-03: forces carry noise"),
        ("ENCUT  =  700.0", "ENCUT  =  300.0", "ENCUT = 300: below 1.3 times the ENMAX of PAW_PBE Si"),
        ("ENCUT  =  700.0", "ENCUT  =  200.0", "ENCUT = 200: below the ENMAX of PAW_PBE Si 05Jan2001, 245.345 eV"),
    ):
        assert before in text
        path.write_text(text.replace(before, after))
        assert any(told in one for one in read_labels_file(path).remarks), told
    path.write_text(text.replace("ENCUT  =  700.0", "ENCUT  =  100.0"))
    with pytest.raises(InvalidInputError, match=r"ENCUT = 100: below the ENMIN of PAW_PBE Si 05Jan2001, 184.009 eV"):
        read_labels_file(path)


def _two_runs(tmp_path, *tags):
    text = _text("vasprun.xml")
    before, step, after = _steps_of(_with(text, *tags))
    (tmp_path / "a.xml").write_text(text)
    (tmp_path / "b.xml").write_text(before + _moved(step, 0.01) + after)
    return [tmp_path / "a.xml", tmp_path / "b.xml"]


@pytest.mark.parametrize(
    ("tags", "told"),
    [
        (["GGA = PE"], "functional: PS in '.*a.xml' and PE in '.*b.xml'"),
        (["METAGGA = R2SCAN"], "functional: PS .* and R2SCAN"),
        (["LHFCALC = T", "HFSCREEN = 0.2", "AEXX = 0.25"], "PS with 0.25 exact exchange, HFSCREEN 0.2"),
        (["IVDW = 12"], "dispersion: none in .* and IVDW 12"),
        (["LDAU = T", "LDAUL = 1", "LDAUU = 2.0"], "U of Si: none in .* and l = 1, U = 2, J = 0 eV"),
        (["LSORBIT = T"], "spin-orbit coupling: off in .* and on"),
        (["ENMAX = 400"], "cutoff: 700 eV in .* and 400 eV"),
    ],
)
def test_runs_of_two_levels_of_theory_are_refused(tags, told, tmp_path):
    with pytest.raises(InvalidInputError, match=rf"not computed alike: .*{told}"):
        read_labels_file(_two_runs(tmp_path, *tags))


def test_another_potential_is_another_level_of_theory(tmp_path):
    first, second = _two_runs(tmp_path)
    second.write_text(second.read_text().replace("PAW_PBE Si 05Jan2001", "PAW_PBE Si_GW 04May2012"))
    with pytest.raises(InvalidInputError, match=r"potential of Si: PAW_PBE Si 05Jan2001 in .* and PAW_PBE Si_GW"):
        read_labels_file([first, second])
    (tmp_path / "OUTCAR").write_text(_text("OUTCAR").replace("PAW_PBE Si 05Jan2001", "PAW_PBE Si_GW 04May2012"))
    with pytest.raises(InvalidInputError, match="potential of Si"):  # and of a text beside an XML
        read_labels_file([first, tmp_path / "OUTCAR"])


@pytest.mark.parametrize("tag", ["SIGMA = 0.2", "ENMAX = 690", "PREC = Normal"])
def test_small_differences_of_two_runs_are_said(tag, tmp_path):
    found = read_labels_file(_two_runs(tmp_path, tag))
    assert len(found) == 2
    assert any("the files differ in" in one and "'" in one for one in found.remarks)


def test_an_xml_and_a_text_of_one_run_agree(tmp_path):
    before, step, after = _steps_of(_text("vasprun.xml"))
    (tmp_path / "b.xml").write_text(before + _moved(step, 0.01) + after)
    assert not any("differ" in one for one in read_labels_file([tmp_path / "b.xml", RUN / "OUTCAR.gz"]).remarks)


@pytest.mark.parametrize("value", [".TRUE.", "T"])
def test_an_outcar_of_a_learned_force_field_is_refused(value, tmp_path):
    begin, rest = _text("OUTCAR").split("\n", 1)
    (tmp_path / "OUTCAR").write_text(f"{begin}\n   ML_LMLFF = {value}\n{rest}")
    with pytest.raises(InvalidInputError, match=r"ML_LMLFF.*machine-learned"):
        read_labels_file(tmp_path / "OUTCAR")


def test_of_a_run_that_was_stopped_the_whole_steps_are_read(tmp_path):
    before, step, _ = _steps_of(_text("vasprun.xml"))
    path = tmp_path / "vasprun.xml"
    path.write_text(before + step + _moved(step, 0.01) + step[: step.index('name="forces"') + 200])
    assert len(read_labels_file(path)) == 2
    text = _text("OUTCAR")
    begin = text.rindex("\n", 0, text.index("Iteration") - 60)
    (tmp_path / "OUTCAR").write_text(text + text[begin : begin + 20_000])
    assert len(read_labels_file(tmp_path / "OUTCAR")) == 1


@pytest.mark.parametrize(
    ("tag", "value", "told"),
    [("ML_LMLFF", "T", "machine-learned"), ("ICHARG", "11", "density is kept"), ("EFIELD", "0.1", "external field")],
)
def test_a_run_whose_numbers_mean_something_else_is_refused(tag, value, told, tmp_path):
    text = _text("vasprun.xml")
    path = tmp_path / "vasprun.xml"
    path.write_text(text.replace("<incar>", f'<incar>\n  <i name="{tag}">{value}</i>', 1))
    with pytest.raises(InvalidInputError, match=rf"vasprun.xml.*{tag}.*{told}"):
        read_labels_file(path)


def test_the_charge_of_a_run_is_read_and_its_stress_is_not(tmp_path):
    text = _text("vasprun.xml")
    path = tmp_path / "vasprun.xml"
    path.write_text(re.sub(r'(name="NELECT">)\s*[\d.]+', r"\g<1> 31.0", text))
    found = read_labels_file(path)
    assert found[0].info["charge"] == 1
    assert "stress" not in found[0].calc.results
    outcar = _text("OUTCAR")
    (tmp_path / "OUTCAR").write_text(re.sub(r"(NELECT =)\s+[\d.]+", r"\g<1>      31.0000", outcar))
    assert read_labels_file(tmp_path / "OUTCAR")[0].info["charge"] == 1


@pytest.mark.parametrize("name", ["vasprun.xml", "OUTCAR"])
@pytest.mark.parametrize("electrons", ["31.0000", "32.0000"])
def test_a_structure_of_a_charged_run_has_its_charge(name, electrons, tmp_path):
    pattern = r'(name="NELECT">)\s*[\d.]+' if name == "vasprun.xml" else r"(NELECT =)\s+[\d.]+"
    (tmp_path / name).write_text(re.sub(pattern, rf"\g<1>      {electrons}", _text(name)))
    taken = load_structure(tmp_path, Path(name), None, None)
    assert taken.atoms.info.get("charge", 0) == (1 if electrons == "31.0000" else 0)
    assert any("total charge of +1 e" in one for one in taken.remarks) == (electrons == "31.0000")


@pytest.mark.parametrize(("tag", "value"), [("PSTRESS", "100.0"), ("ISIF", "0")])
def test_a_stress_that_is_none_is_left_out(tag, value, tmp_path):
    text = _text("vasprun.xml")
    path = tmp_path / "vasprun.xml"
    path.write_text(re.sub(rf'(name="{tag}">)\s*[\d.]+', rf"\g<1> {value}", text))
    found = read_labels_file(path)
    assert "stress" not in found[0].calc.results
    assert any("is not used" in remark and tag in remark for remark in found.remarks)


#: Two steps of MD as pw.x prints them, the second with a field that is less converged than it was asked to.
_PW = """
     Program PWSCF v.7.2 starts on 1Jan2024 at 0:0:0
     bravais-lattice index     =            0
     lattice parameter (alat)  =      10.2000  a.u.
     unit-cell volume          =    1061.2080 (a.u.)^3
     number of atoms/cell      =            2
     number of atomic types    =            1
     number of electrons       =         {electrons:.2f}
     scf convergence threshold =      1.0E-08
     celldm(1)=  10.200000  celldm(2)=   0.000000  celldm(3)=   0.000000
     celldm(4)=   0.000000  celldm(5)=   0.000000  celldm(6)=   0.000000

     crystal axes: (cart. coord. in units of alat)
               a(1) = (   1.000000   0.000000   0.000000 )
               a(2) = (   0.000000   1.000000   0.000000 )
               a(3) = (   0.000000   0.000000   1.000000 )

     atomic species   valence    mass     pseudopotential
     Si                4.00    28.08600     Si( 1.00)

   Cartesian axes

     site n.     atom                  positions (alat units)
         1        Si     tau(   1) = (  -0.1230000  -0.1230000  -0.1230000  )
         2        Si     tau(   2) = (   0.1230000   0.1230000   0.1230000  )

!    total energy              =     -14.44793733 Ry
     estimated scf accuracy    <          3.0E-09 Ry

     convergence has been achieved in  11 iterations

     Forces acting on atoms (cartesian axes, Ry/au):

     atom    1 type  1   force =    -0.02329809   -0.02329806   -0.02329824
     atom    2 type  1   force =     0.02329809    0.02329806    0.02329824

ATOMIC_POSITIONS (alat)
Si           -0.1240000000       -0.1230000000       -0.1230000000
Si            0.1230000000        0.1230000000        0.1230000000

!    total energy              =     -14.44796266 Ry
     estimated scf accuracy    <          {accuracy} Ry

     convergence has been achieved in   2 iterations

     Forces acting on atoms (cartesian axes, Ry/au):

     atom    1 type  1   force =    -0.02308122   -0.02308119   -0.02308050
     atom    2 type  1   force =     0.02308122    0.02308119    0.02308050

"""


def test_steps_of_quantum_espresso(tmp_path):
    path = tmp_path / "md.out"
    path.write_text(_PW.format(electrons=8, accuracy="7.8E-10"))
    first, second = read_labels_file(path)
    assert first.calc.results["energy"] == pytest.approx(-14.44793733 * units.Ry, rel=1e-6)
    assert first.calc.results["forces"][0, 0] == pytest.approx(-0.02329809 * units.Ry / units.Bohr, rel=1e-5)
    assert first.cell.lengths() == pytest.approx(10.2 * units.Bohr, rel=1e-6)
    assert second.positions[0, 0] == pytest.approx(-0.124 * 10.2 * units.Bohr, rel=1e-5)
    path.write_text(_PW.format(electrons=8, accuracy="2.0E-04"))
    found = read_labels_file(path)
    assert len(found) == 1
    assert "1 of 2 steps; left out: step 1 did not converge" in found.remarks[0]
    path.write_text(_PW.format(electrons=7, accuracy="7.8E-10"))
    assert read_labels_file(path)[0].info["charge"] == 1


def test_outputs_of_quantum_espresso_of_two_levels_are_refused(tmp_path):
    said = "     kinetic-energy cutoff     =      40.0000  Ry\n     Exchange-correlation= PBE\n"
    moved = _PW.replace("-0.1230000  -0.1230000  -0.1230000", "-0.1220000  -0.1230000  -0.1230000")
    head = "     number of electrons "
    for other, told in (
        (said.replace("PBE", "SCAN"), "functional: PBE in .* and SCAN"),
        (said.replace("40.", "60."), "cutoff: 40.0000 Ry in .* and 60.0000 Ry"),
    ):
        for name, text, level in (("a.out", _PW, said), ("b.out", moved, other)):
            (tmp_path / name).write_text(text.replace(head, f"{level}{head}").format(electrons=8, accuracy="7.8E-10"))
        with pytest.raises(InvalidInputError, match=told):
            read_labels_file([tmp_path / "a.out", tmp_path / "b.out"])
    path = tmp_path / "vasprun.xml"
    path.write_text(_text("vasprun.xml"))
    with pytest.raises(InvalidInputError, match=r"code: VASP in .* and Quantum ESPRESSO"):
        read_labels_file([path, tmp_path / "a.out"])


def _castep(kind="single point energy", dispersion="off", after="", energy=-214.5):
    """Return an output of CASTEP of two silicon atoms, as short as its reader takes it."""
    line = "+-------------------------------------------------+"
    return f"""{line}
|      CCC   AA    SSS  TTTTT  EEEEE  PPPP        |
| Welcome to Academic Release CASTEP version 22.1 |
{line}
 ************************************ Title ************************************
 ***************************** General Parameters *****************************
 output         length unit                                        : A
 type of calculation                            : {kind}
 DFT+D: Semi-empirical dispersion correction    : {dispersion}

 *******************************************************************************

                           -------------------------------
                                      Unit Cell
                           -------------------------------
        Real Lattice(A)              Reciprocal Lattice(1/A)
   5.0000000     0.0000000     0.0000000        1.256637061   0.000000000   0.000000000
   0.0000000     5.0000000     0.0000000        0.000000000   1.256637061   0.000000000
   0.0000000     0.0000000     5.0000000        0.000000000   0.000000000   1.256637061

                           -------------------------------
                                     Cell Contents
                           -------------------------------
                         Total number of ions in cell =    2
                      Total number of species in cell =    1

            xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
            x  Element    Atom        Fractional coordinates of atoms  x
            x            Number           u          v          w      x
            x----------------------------------------------------------x
            x  Si           1         0.000000   0.000000   0.000000   x
            x  Si           2         0.270000   0.250000   0.250000   x
            xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx

Final energy =  {energy:.10f}     eV
{after}
 ************************** Forces **************************
 *                                                          *
 *               Cartesian components (eV/A)                *
 * -------------------------------------------------------- *
 *                         x            y            z      *
 *                                                          *
 * Si              1      0.30000     -0.10000      0.00000 *
 * Si              2     -0.30000      0.10000      0.00000 *
 *                                                          *
 ************************************************************
Total time          =     12.51 s
Finalisation time   =      0.01 s
"""


CORRECTED = "Dispersion corrected final energy* =  -215.4000000000     eV"


@pytest.mark.parametrize(
    ("dispersion", "after", "energy"), [("off", "", -214.5), ("on", CORRECTED, -215.4)], ids=["plain", "dispersion"]
)
def test_the_energy_of_castep_is_the_one_of_its_forces(dispersion, after, energy, tmp_path):
    """ASE's reader keeps an energy with dispersion by another name, and forces are with it."""
    (tmp_path / "si.castep").write_text(_castep(dispersion=dispersion, after=after))
    (label,) = read_labels_file(tmp_path / "si.castep")
    assert label.get_potential_energy() == pytest.approx(energy, abs=1e-9)
    assert label.get_forces()[0].tolist() == [0.3, -0.1, 0.0]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"kind": "transition state search"}, "prints energies of structures that it does not print"),
        ({"kind": "phonon calculation", "after": "phonon method : finite displacement"}, "by finite displacements"),
        ({"dispersion": "on"}, "no corrected energy is printed"),
    ],
)
def test_energies_of_castep_of_other_structures_are_refused(changes, told, tmp_path):
    """The first had the reactant with the energy of the transition state."""
    (tmp_path / "si.castep").write_text(_castep(**changes))
    with pytest.raises(InvalidInputError, match=told):
        read_labels_file(tmp_path / "si.castep")


def test_a_relaxation_of_castep_of_which_one_step_is_read_says_so(tmp_path):
    after = " TPSD: finished iteration   0 with total energy\n TPSD: finished iteration   1 with total energy"
    (tmp_path / "si.castep").write_text(_castep("geometry optimization", after=after))
    assert (
        "labels: of the 2 steps of 'si.castep' the last alone is read"
        in read_labels_file(tmp_path / "si.castep").remarks
    )


def test_a_trajectory_of_ase_keeps_the_forces_of_fixed_atoms(tmp_path):
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    atoms.calc = EMT()
    raw = atoms.get_forces()
    atoms.set_constraint(FixAtoms([0]))
    with Trajectory(tmp_path / "md.traj", "w") as trajectory:
        trajectory.write(atoms)
    (label,) = read_labels_file(tmp_path / "md.traj")
    assert np.allclose(label.calc.results["forces"], raw, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("cp2k.out", " CP2K| version string:   CP2K version 2023.1\n", "output of CP2K .Hartree and Hartree/bohr"),
        ("run.abo", ".Version 9.10.3  of ABINIT \n", "output of ABINIT"),
        ("labels.pckl", "garbage", "no output that labels are read from"),
    ],
)
def test_what_is_not_read_is_refused_with_a_way_out(name, text, told, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidInputError, match=rf"{name}.*{told}.*write it as extended XYZ"):
        read_labels_file(tmp_path / name)


def test_a_run_without_a_step_is_refused(tmp_path):
    (tmp_path / "cut.out").write_text("     Program PWSCF v.7.2 starts\n")
    with pytest.raises(InvalidInputError, match=r"cut.out.*holds no label: it has no step"):
        read_labels_file(tmp_path / "cut.out")


def test_a_run_file_takes_several_outputs(tmp_path):
    before, step, after = _steps_of(_text("vasprun.xml"))
    (tmp_path / "a_vasprun.xml").write_text(before + step + after)
    (tmp_path / "b_vasprun.xml").write_text(before + _moved(step, 0.01) + after)
    (tmp_path / "run.yaml").write_text(
        "name: si\nstructures: [{bulk: {name: Si}}]\nconditions: [{temperature_K: 300}]\noracle: {kind: emt}\n"
        "start_from: {labels: [a_vasprun.xml, b_vasprun.xml]}\n"
    )
    found = RunFile.load(tmp_path / "run.yaml").load_labels()
    assert len(found) == 2
    assert any("b_vasprun.xml" in remark for remark in found.remarks)


AIMS = """\
  | Number of atoms                   :        2
  | Number of spin channels           :        1
  The structure contains        2 atoms,  and a total of          {electrons:.3f} electrons.
{relaxation}  | Atomic structure:
  |       Atom                x [A]            y [A]            z [A]
  |    1: Species H              0.000000         0.000000         0.000000
  |    2: Species F              0.920000         0.000000         0.000000
  | Number of Kohn-Sham states (occupied + empty):       11
          Begin self-consistency iteration #    1

  Date     :  20160131, Time     :  153229.029
"""
AIMS_FORCES = """\
{said}  | Electronic free energy        :         {energy:.15E} eV
  Total atomic forces (unitary forces cleaned) [eV/Ang]:
  |   1         {force:.15E}          0.000000000000000E+00          0.000000000000000E+00
  |   2         {back:.15E}          0.000000000000000E+00          0.000000000000000E+00
"""
AIMS_ATOMS = """\
  {heading}
                      x [A]             y [A]             z [A]       Atom
   atom               {x:.8f}        0.00000000        0.00000000  H
   atom               0.92000000        0.00000000        0.00000000  F
"""
#: x of hydrogen in A, energy in eV, force on hydrogen in eV/A: a spring of 40 eV/A^2.
AIMS_STEPS = [(x, -2700.0 + 20 * (x + 0.005) ** 2, -40 * (x + 0.005)) for x in (0.0, 0.01, 0.02, 0.03)]


def _aims_md(said=("",) * 4, electrons=10.0):
    """Return an output of MD as FHI-aims prints it: energy, forces, then the structure they belong to."""
    steps = []
    for i, ((x, energy, force), words) in enumerate(zip(AIMS_STEPS, said, strict=True)):
        heading = "Final atomic" if i == len(AIMS_STEPS) - 1 else "Atomic"
        heading += " structure (and velocities) as used in the preceding time step:"
        one = AIMS_FORCES.format(said=words, energy=energy, force=force, back=-force)
        steps.append(one + (AIMS_ATOMS.format(heading=heading, x=x) if i else ""))
    begins = "          Begin self-consistency loop: Re-initialization.\n"
    head = "          Invoking FHI-aims ...\n" + AIMS.format(electrons=electrons, relaxation="")
    return head + begins.join(steps) + "          Have a nice day.\n"


def _aims_relaxation():
    end = "  Geometry optimization: Attempting to predict improved coordinates.\n"
    again = "          Begin self-consistency loop: Re-initialization.\n"
    steps = []
    for i, (x, energy, force) in enumerate(AIMS_STEPS):
        before = AIMS_ATOMS.format(heading="Updated atomic structure:", x=x) + again if i else ""
        steps.append(before + AIMS_FORCES.format(said="", energy=energy, force=force, back=-force) + end)
    head = "          Invoking FHI-aims ...\n" + AIMS.format(electrons=10, relaxation="  Geometry relaxation:\n")
    last = AIMS_ATOMS.format(heading="Final atomic structure:", x=AIMS_STEPS[-1][0])
    return head + "".join(steps) + last + "          Have a nice day.\n"


def _read_aims(tmp_path, text):
    path = tmp_path / "aims.out"
    path.write_text(text)
    found = read_labels_file(path)
    return [(a.positions[0, 0], a.calc.results["energy"], a.calc.results["forces"][0, 0]) for a in found], found


@pytest.mark.parametrize("text", [_aims_md(), _aims_relaxation()])
def test_every_step_of_fhi_aims_has_its_own_structure(tmp_path, text):
    """The last step of MD had the first structure of the run: its heading is another one."""
    steps, found = _read_aims(tmp_path, text)
    assert np.allclose(steps, AIMS_STEPS, atol=1e-7)
    assert not any(charge_of(atoms) for atoms in found)


@pytest.mark.parametrize(("text", "ends"), [(_aims_md(), 3), (_aims_relaxation(), 4)])
def test_finished_steps_of_a_stopped_run_of_fhi_aims_are_read(tmp_path, text, ends):
    cut = text[: text.rindex("  Total atomic forces")]
    steps, found = _read_aims(tmp_path, cut)
    assert np.allclose(steps, AIMS_STEPS[:3], atol=1e-7)
    assert any("did not end; its 3 finished steps are read" in one for one in found.remarks)
    steps, _ = _read_aims(tmp_path, text.replace("Have a nice day.", ""))
    assert np.allclose(steps, AIMS_STEPS[:ends], atol=1e-7)
    with pytest.raises(InvalidInputError, match="stopped before its first step was finished"):
        _read_aims(tmp_path, cut[: cut.index("  Total atomic forces")])


def test_steps_of_fhi_aims_that_did_not_converge_are_left_out(tmp_path):
    bad = "  Self-consistency cycle not converged.\n"
    steps, found = _read_aims(tmp_path, _aims_md(("", bad, "", "")))
    assert np.allclose(steps, [AIMS_STEPS[i] for i in (0, 2, 3)], atol=1e-7)
    assert "3 of 4 steps; left out: step 1 did not converge" in found.remarks[0]
    again = bad + "  Self-consistency cycle not yet converged - restarting mixer to attempt better convergence.\n"
    with pytest.raises(InvalidInputError, match="not all of its steps are converged"):
        _read_aims(tmp_path, _aims_md(("", again, "", "")))


def test_electrons_of_fhi_aims_tell_the_charge(tmp_path):
    _, found = _read_aims(tmp_path, _aims_md(electrons=9.0))
    assert [charge_of(atoms) for atoms in found] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("POSCAR", "x\n1.0\n4 0 0\n0 4 0\n0 0 4\nCu\n1\nDirect\n0 0 0\n", r"a structure \(vasp\).*goes to structures"),
        ("md.lammpstrj", "ITEM: TIMESTEP\n0\n", "a dump of LAMMPS"),
        ("l.cfg", "BEGIN_CFG\n Size\n 1\n", "a data set of MLIP"),
        ("input.data", "begin\nlattice 7 0 0\natom 0 0 0 Pd 0 0 0 0 0\nend\n", "a data set of RuNNer or n2p2"),
        ("ML_AB", " 1.0 Version\n*****\n", "an ML_AB file of VASP; give the vasprun.xml"),
        ("run.yaml", "name: x\nstructures: []\n", "a run file"),
        ("p.yaml", "elements: [Pd]\n", "a potential; it goes to potential"),
        ("l.npz", "PK", "an array or data set of another program"),
        ("l.pckl.gzip", "x", "a pickle, which runs code"),
        ("l.db", "SQLite format 3", "`ase convert"),
        ("INCAR", "ENCUT = 500\n", "holds no forces of VASP"),
    ],
)
def test_a_file_of_another_role_is_named_with_where_it_goes(name, text, told, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidInputError, match=rf"{name}' .*{told}"):
        read_labels_file(tmp_path / name)


def test_a_trajectory_without_energies_goes_to_structures(tmp_path):
    with Trajectory(tmp_path / "md.traj", "w") as stream:
        stream.write(bulk("Cu", cubic=True))
    with pytest.raises(InvalidInputError, match=r"md.traj' holds 1 structures without energies and forces.*structures"):
        read_labels_file(tmp_path / "md.traj")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_part_of_a_dataset(encoding, tmp_path):
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=1)
    atoms.calc = EMT()
    energy = atoms.get_potential_energy()
    atoms.get_forces()
    ase.io.write(tmp_path / "plain", atoms, format="extxyz")
    path = tmp_path / "l.xyz"
    path.write_bytes((tmp_path / "plain").read_text().encode(encoding))
    assert read_labels_file(path)[0].calc.results["energy"] == pytest.approx(energy)
    output = _text("vasprun.xml")
    (tmp_path / "vasprun.xml").write_bytes(output.encode("utf-8-sig"))
    assert len(read_labels_file(tmp_path / "vasprun.xml")) == 1


def test_the_last_step_of_fhi_aims_as_a_structure_is_its_own(tmp_path):
    path = tmp_path / "md.out"
    path.write_text(_aims_md())
    last = read_labels_file(path)[-1]
    assert np.allclose(read_structure(path).structure.positions, last.positions)
