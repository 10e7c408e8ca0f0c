"""Every field of a structure, for every kind of oracle: what the oracle is given of it, and if it is in the key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from atomate2.ase.jobs import GFNxTBStaticMaker, LennardJonesStaticMaker
from atomate2.cp2k.jobs.core import StaticMaker as Cp2kStaticMaker

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.jobs.espresso import EspressoStaticMaker
from mlip_autopipec.jobs.label import OracleMaker
from mlip_autopipec.jobs.static import CalculatorStaticMaker, EMTStaticMaker
from mlip_autopipec.oracle.vasp import vasp_static_maker

if TYPE_CHECKING:
    from ase import Atoms

ORACLES: dict[str, Any] = {
    "EMT": EMTStaticMaker(),
    "Lennard-Jones": LennardJonesStaticMaker(calculator_kwargs={"sigma": 2.0, "epsilon": 0.1}),
    "GFN-xTB": GFNxTBStaticMaker(calculator_kwargs={"method": "GFN1-xTB"}),
    "VASP": vasp_static_maker(),
    "CP2K": Cp2kStaticMaker(),
    "Quantum ESPRESSO": EspressoStaticMaker(pseudopotentials={"Cu": "Cu.UPF"}),
    "CP2K of ASE": CalculatorStaticMaker(calculator_class="ase.calculators.cp2k.CP2K"),
    "VASP of ASE": CalculatorStaticMaker(calculator_class="ase.calculators.vasp.Vasp"),
    "ABINIT of ASE": CalculatorStaticMaker(calculator_class="ase.calculators.abinit.Abinit"),
    "another of ASE": CalculatorStaticMaker(calculator_class="ase.calculators.siesta.Siesta"),
}
_OWN = ("GFN-xTB", "VASP", "CP2K", "Quantum ESPRESSO", "CP2K of ASE", "VASP of ASE")
_MOMENTS = ("VASP", "Quantum ESPRESSO", "VASP of ASE", "ABINIT of ASE")
#: Fields, the oracles that are told of them, and what happens with all others.
FIELDS: dict[str, tuple[dict[str, Any], tuple[str, ...], str]] = {
    "total charge": ({"info": {"charge": 1}}, _OWN, "refused"),
    "multiplicity": ({"info": {"multiplicity": 3}}, _OWN, "refused"),
    "moments of one sign": ({"initial_magnetic_moments": [2.0] * 4}, _MOMENTS, "left out"),
    "moments of two signs": ({"initial_magnetic_moments": [2.0, -2.0] * 2}, _MOMENTS, "refused"),
    "no charge": ({"info": {"charge": 0}}, (), "left out"),
    "other info": ({"info": {"origin": "halted", "split": "test", "step": 5, "energy": -3.0}}, (), "left out"),
    "charges of the atoms": ({"initial_charges": [1, -1, 1, -1]}, (), "left out"),
    "tags": ({"tags": [1, 2, 3, 4]}, (), "left out"),
    "masses": ({"masses": [65.0] * 4}, (), "left out"),
    "velocities": ({"velocities": np.full((4, 3), 0.01)}, (), "left out"),
    "constraints": ({"constraint": FixAtoms([0])}, (), "left out"),
    "celldisp": ({"celldisp": [0.1, 0, 0]}, (), "left out"),
    "results": ({"calc": -1.0}, (), "left out"),
    "other arrays": ({"array": np.arange(4.0)}, (), "left out"),
}


def crystal(fields: dict[str, Any]) -> Atoms:
    atoms = bulk("Cu", cubic=True)
    for name, value in fields.items():
        if name == "info":
            atoms.info.update(value)
        elif name == "calc":
            atoms.calc = SinglePointCalculator(atoms, energy=value)
        elif name == "array":
            atoms.set_array("gamma", value)
        else:
            getattr(atoms, f"set_{name}")(value)
    return atoms


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("kind", ORACLES)
def test_what_an_oracle_is_given(kind: str, field: str) -> None:
    fields, told, otherwise = FIELDS[field]
    oracle, atoms, plain = OracleMaker(static_maker=ORACLES[kind]), crystal(fields), crystal({})
    before = atoms.copy()
    if kind not in told and otherwise == "refused":
        with pytest.raises(InvalidInputError, match=r"Cu4 has (a total charge|a spin multiplicity|magnetic moments)"):
            oracle.given(atoms)
        with pytest.raises(InvalidInputError):
            oracle.keys_of(atoms)
        return
    given = oracle.given(atoms)
    assert atoms == before
    known = {"numbers", "positions"} | ({"initial_magmoms"} if kind in told and "moments" in field else set())
    assert set(given.arrays) == known
    assert set(given.info) <= {"charge", "multiplicity"}
    assert given.calc is None
    assert not given.constraints
    assert (oracle.key_of(atoms) != oracle.key_of(plain)) is (kind in told)


@pytest.mark.parametrize("kind", ORACLES)
def test_the_periodicity_an_oracle_is_given(kind: str) -> None:
    atoms = bulk("Cu", cubic=True)
    atoms.pbc = (True, True, False)
    given = OracleMaker(static_maker=ORACLES[kind]).given(atoms)
    if kind in ("EMT", "Lennard-Jones"):
        assert given.pbc.tolist() == [True, True, False]
    else:  # these repeat every cell: vacuum keeps the images apart
        assert given.pbc.all()
        assert given.cell.lengths()[2] > 15
