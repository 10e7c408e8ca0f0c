"""The files of the stand-in for VASP, element by element against those of real runs."""

import contextlib
import gzip
import json
import xml.etree.ElementTree as ET
from collections import Counter

import numpy as np
import pytest
from paths import SHARED_DATA
from pymatgen.io.vasp import Oszicar, Outcar, Poscar
from vasp_stand_in.command import main
from vasp_stand_in.potcars import make_believe_potcar

REAL_RUNS = SHARED_DATA / "vasp_runs"
LJ_OPTIONS = ["--calculator", "lj", "--arguments", json.dumps({"sigma": 2.1, "epsilon": 0.5, "rc": 6.0})]
pytestmark = pytest.mark.filterwarnings("ignore")

# Elements that only VASP writes, with the reason
LEFT_OUT = {
    "/calculation/dos/partial": "projections onto orbitals: an ASE calculator has none",
    "/calculation/projected": "the same",
    "/calculation/scstep/time[diag]": "times of subroutines that the stand-in does not have",
    "/calculation/scstep/time[diis]": "the same",
    "/calculation/scstep/time[orth]": "the same",
    "/incar/v[KPOINT_BSE]:int": "VASP 5.4.4 lists it without being asked",
    "/incar/i[LMIXTAU]:int": "VASP 5.4.4 calls this logical an integer",
    "/parameters/separator[miscellaneous]/i[ISPECIAL]:int": "gone in VASP 6",
    "/parameters/separator[response functions]/i[LUSEW]:logical": "gone in VASP 6",
    "/parameters/separator[response functions]/i[SELFENERGY]:logical": "renamed LSELFENERGY in VASP 6",
    "/parameters/separator[response functions]/i[TAUPAR]:int": "renamed NTAUPAR in VASP 6",
    "/parameters/separator[response functions]/i[OMEGAPAR]:int": "renamed NOMEGAPAR in VASP 6",
}
# Elements that the stand-in writes and some real run does not
ADDED = {
    "/calculation/scstep/time[dav]": "ALGO = All has no Davidson steps; the made-up loop always says so",
    "/incar/i[LMIXTAU]:logical": "see LMIXTAU above",
    "/incar/i[LORBIT]:int": "this run's VASP used LORBIT and did not list it",
}
ADDED_SINCE_544 = "/parameters/"  # the table is that of VASP 6.1.2
# Elements whose number may differ
COUNTS = {
    "/incar/": "VASP lists tags twice that it reads twice",
    "/calculation/scstep": "the number of electronic steps is made up",
    "/calculation/eigenvalues/array/set/set/set/r": "VASP rounds NBANDS up to a multiple of its band groups",
}
# Parameters whose values may differ
VALUES = {
    "NBANDS": "rounded up to a multiple of the band groups",
    "EBREAK": "derived from NBANDS",
    "NPAR": "the number of processes",
    "POMASS": "the real POTCAR's mass",
    "ENAUG": "the real POTCAR's EAUG",
    "NFREE": "of an optimiser that never runs",
    "MODEL_EPS0": "of model GW, derived from the density",
    "OMEGAGRID": "of GW, another default in VASP 5.4.4",
}


def elements_of(node, path="", found=None):
    """Count elements by path, name and type, with the shape of their rows."""
    found = Counter() if found is None else found
    for child in node:
        name, kind = child.get("name"), child.get("type")
        key = path + "/" + child.tag + (f"[{name}]" if name else "") + (f":{kind}" if kind else "")
        found[key] += 1
        if child.tag in {"v", "r"} and "/incar" not in key and "/parameters" not in key:
            found[f"{key} of {len((child.text or '').split())}"] += 1
        if child.tag in {"field", "dimension"}:
            found[f"{key} {child.text}"] += 1
        elements_of(child, key, found)
    return found


def parameters_of(node, path=""):
    """Map each parameter's path to its words."""
    for child in node:
        if child.tag == "separator":
            yield from parameters_of(child, f"{path}/{child.get('name')}")
        else:
            yield (path, child.get("name")), (child.text or "").split()


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """The real runs and runs of the stand-in from the same POSCAR, INCAR and KPOINTS."""
    if not REAL_RUNS.is_dir():
        pytest.skip("no ../shared/data/vasp_runs beside the checkout")
    folders = {}
    for real in sorted(path for path in REAL_RUNS.iterdir() if path.is_dir()):
        twin = tmp_path_factory.mktemp(real.name)
        for source, target in (("POSCAR",) * 2, ("INCAR",) * 2, ("KPOINTS",) * 2, ("KPOINTSbak", "KPOINTS")):
            if (packed := real / "outputs" / f"{source}.gz").is_file():
                (twin / target).write_text(gzip.decompress(packed.read_bytes()).decode())
        element = real.name[:2]
        (twin / "POTCAR").write_text(make_believe_potcar(element, {"Li": "Li_sv"}.get(element, element)))
        with contextlib.chdir(twin):
            assert main(LJ_OPTIONS) == 0
        folders[real / "outputs"] = twin
    assert len(folders) == 5
    return folders


def test_every_element_of_vasprun_is_that_of_vasp(twins):
    """Tag, name, type, number and shape agree, or stand with the reason in the tables above."""
    unused = set(LEFT_OUT) | set(ADDED) | set(COUNTS)
    for real, twin in twins.items():
        theirs = elements_of(ET.fromstring(gzip.decompress((real / "vasprun.xml.gz").read_bytes())))
        ours = elements_of(ET.parse(twin / "vasprun.xml").getroot())
        old = any("ISPECIAL" in key for key in theirs)
        for key in theirs.keys() | ours.keys():
            if theirs[key] == ours[key]:
                continue
            reasons = [table for table in (LEFT_OUT, ADDED, COUNTS) for entry in table if key.startswith(entry)]
            allowed = (
                (ours[key] == 0 and LEFT_OUT in reasons)
                or (theirs[key] == 0 and (ADDED in reasons or (old and key.startswith(ADDED_SINCE_544))))
                or (theirs[key] and ours[key] and COUNTS in reasons)
            )
            assert allowed, f"{real.parent.name}: {key} stands {theirs[key]} times in VASP's and {ours[key]} in ours"
            unused -= {entry for table in reasons for entry in table if key.startswith(entry)}
    assert not unused, f"listed as different, but nowhere is: {unused}"


def test_parameters_and_structures_have_the_values_of_vasp(twins):
    unused = set(VALUES)
    for real, twin in twins.items():
        theirs = ET.fromstring(gzip.decompress((real / "vasprun.xml.gz").read_bytes()))
        ours = ET.parse(twin / "vasprun.xml").getroot()
        known = dict(parameters_of(ours.find("parameters")))
        for key, words in parameters_of(theirs.find("parameters")):
            if key in known and known[key] != words:
                assert key[1] in VALUES, f"{real.parent.name}: {key} is {words} in VASP's and {known[key]} in ours"
                unused -= {key[1]}
        for path in ("structure[@name='initialpos']", "structure[@name='finalpos']", "calculation/structure"):
            for row_theirs, row_ours in zip(theirs.find(path).iter("v"), ours.find(path).iter("v"), strict=True):
                difference = np.array(row_theirs.text.split(), float) - np.array(row_ours.text.split(), float)
                assert abs(difference - np.round(difference)).max() < 2e-8  # 1.0 and 0.0 are the same place
        weights = [
            sorted(float(v.text) for v in tree.find("kpoints/varray[@name='weights']")) for tree in (theirs, ours)
        ]
        np.testing.assert_allclose(*weights, atol=1e-8)
    assert not unused


# Attributes of pymatgen's Outcar that only a real run has
OUTCAR_LEFT_OUT = {
    "electrostatic_potential": "an ASE calculator has no potential at the cores",
    "ngf": "read with it",
    "sampling_radii": "read with it",
    "Ediel_sol": "of the solvation model",
}


def test_pymatgen_reads_the_same_from_outcar_and_oszicar(twins, tmp_path):
    for real, twin in twins.items():
        theirs, ours = Outcar(real / "OUTCAR.gz"), Outcar(twin / "OUTCAR")
        for name, value in vars(theirs).items():
            if name in OUTCAR_LEFT_OUT or name.startswith("_") or name in {"data", "filename"}:
                continue
            other = getattr(ours, name)
            assert type(other) is type(value), name
            if isinstance(value, dict):
                assert value.keys() - OUTCAR_LEFT_OUT.keys() == other.keys(), name
            elif isinstance(value, list | tuple):
                assert len(value) == len(other), name
                assert not value or type(value[0]) is type(other[0])
                assert not value or not isinstance(value[0], dict) or value[0].keys() == other[0].keys()
        assert ours.nelect == pytest.approx(theirs.nelect, abs=1e-5)
        assert ours.spin == theirs.spin
        if (real / "vasp.out.gz").is_file():  # its tail has the lines of OSZICAR
            lines = gzip.decompress((real / "vasp.out.gz").read_bytes()).decode().splitlines()
            start = next(i for i, line in enumerate(lines) if line.split()[:2] == ["N", "E"])
            kept = [line for line in lines[start:] if ":" in line or "F=" in line or line.split()[:2] == ["N", "E"]]
            (tmp_path / "OSZICAR").write_text("\n".join(line for line in kept if "gam=" not in line))
            theirs, ours = Oszicar(tmp_path / "OSZICAR"), Oszicar(twin / "OSZICAR")
            assert ours.ionic_steps[0].keys() == theirs.ionic_steps[0].keys()
            assert ours.electronic_steps[0][0].keys() == theirs.electronic_steps[0][0].keys()


def test_contcar_is_that_of_vasp(twins):
    for real, twin in twins.items():
        theirs = gzip.decompress((real / "CONTCAR.gz").read_bytes()).decode().splitlines()
        ours = (twin / "CONTCAR").read_text().splitlines()
        assert [len(line.split()) for line in ours] == [len(line.split()) for line in theirs]
        ours, theirs = Poscar.from_str("\n".join(ours)).structure, Poscar.from_str("\n".join(theirs)).structure
        assert ours.species == theirs.species
        difference = ours.frac_coords - theirs.frac_coords
        assert abs(difference - np.round(difference)).max() < 1e-12
