"""No oracle labels in silence what it was not made for."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType

import pytest
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from atomate2.ase.jobs import (
    EmtRelaxMaker,
    GFNxTBRelaxMaker,
    GFNxTBStaticMaker,
    LennardJonesRelaxMaker,
    LennardJonesStaticMaker,
)
from atomate2.forcefields.jobs import ForceFieldStaticMaker

from mlip_autopipec import OracleMaker, OTFMaker
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.jobs.espresso import EspressoStaticMaker
from mlip_autopipec.jobs.static import CalculatorStaticMaker, EMTStaticMaker
from mlip_autopipec.oracle.ase_calculators import check_energy_kind
from mlip_autopipec.oracle.suitability import check_arguments

ARGON = {"sigma": 3.4, "epsilon": 0.01}
LJ = {"@module": "ase.calculators.lj", "@callable": "LennardJones"}


def test_there_is_no_oracle_by_default():
    copper = bulk("Cu", cubic=True) * (2, 2, 2)
    for ask in (OracleMaker().check, lambda: OracleMaker().compute(copper), lambda: OTFMaker().make(copper, 300)):
        with pytest.raises(InvalidInputError, match="static_maker is missing, and there is no default"):
            ask()
    with pytest.raises(InvalidInputError, match="calculator_class is missing"):
        OracleMaker(static_maker=CalculatorStaticMaker()).check(["Cu"])


@pytest.mark.parametrize(
    ("maker", "elements", "said"),
    [
        (EMTStaticMaker(), ["Cu", "O"], "not for O: its H, C, N and O parameters are for tests only"),
        (CalculatorStaticMaker(calculator_class="ase.calculators.emt.EMT"), ["Si"], "not for Si"),
        (LennardJonesStaticMaker(), ["Ar"], "lacks sigma, epsilon; ASE's default of 1"),
        (CalculatorStaticMaker(calculator_class="ase.calculators.morse.MorsePotential"), [], "lacks epsilon, r0, rho0"),
        (EspressoStaticMaker(pseudopotentials={"Si": "Si.upf"}), ["Si", "O"], "no file for O, only for Si"),
        (LennardJonesStaticMaker(calculator_kwargs=ARGON), ["Ar", "Ne"], "one set of parameters for all atoms"),
        (GFNxTBStaticMaker(), ["U"], "no parameters for U"),
        (GFNxTBRelaxMaker(steps=1), ["U"], "no parameters for U"),
        (GFNxTBRelaxMaker(steps=1, calculator_kwargs={"methd": "GFN2-xTB"}), ["Mg"], "does not know methd"),
        (LennardJonesRelaxMaker(steps=1), ["Ar"], "lacks sigma, epsilon; ASE's default of 1"),
        (LennardJonesRelaxMaker(steps=1, calculator_kwargs=ARGON), ["Mg", "O"], "one set of parameters"),
        (EmtRelaxMaker(steps=1), ["Pd", "H"], "not for H"),
        (ForceFieldStaticMaker(force_field_name=LJ), ["Ar"], "lacks sigma, epsilon; ASE's default of 1"),
        (ForceFieldStaticMaker(force_field_name=LJ, calculator_kwargs=ARGON | {"rcut": 9}), ["Ar"], "not know rcut"),
    ],
)
def test_elements_go_by_the_calculator(maker, elements, said):
    with pytest.raises(InvalidInputError, match=said):
        OracleMaker(static_maker=maker).check(elements)


@pytest.mark.parametrize(
    ("maker", "elements"),
    [
        (EMTStaticMaker(), ["Cu", "Au"]),
        (LennardJonesStaticMaker(calculator_kwargs=ARGON), ["Ar"]),
        (GFNxTBStaticMaker(), ["Mg", "O"]),
        (GFNxTBRelaxMaker(steps=1), ["Mg", "O"]),
        (LennardJonesRelaxMaker(steps=1, calculator_kwargs=ARGON), ["Ar"]),
        (ForceFieldStaticMaker(force_field_name=LJ, calculator_kwargs=ARGON), ["Ar"]),
        (ForceFieldStaticMaker(force_field_name="MACE-MP-0"), ["U", "O"]),
    ],
)
def test_what_it_was_made_for_is_taken(maker, elements):
    OracleMaker(static_maker=maker).check(elements)


@pytest.mark.parametrize(
    ("calculator", "arguments"),
    [("ase.calculators.emt.EMT", {"asap_cutof": True}), ("ase.calculators.lj.LennardJones", {"sigm": 3.0})],
)
def test_a_misspelt_argument_is_not_swallowed(calculator, arguments):
    maker = CalculatorStaticMaker(calculator_class=calculator, calculator_kwargs=arguments)
    with pytest.raises(InvalidInputError, match=f"does not know {next(iter(arguments))}; it knows"):
        OracleMaker(static_maker=maker).check(["Cu"])


def test_arguments_that_are_known_are_taken():
    maker = CalculatorStaticMaker(calculator_class="ase.calculators.lj.LennardJones", calculator_kwargs=ARGON)
    OracleMaker(static_maker=maker).check(["Ar"])
    with pytest.raises(InvalidInputError, match="asap_cutof"):
        OracleMaker(static_maker=EMTStaticMaker(calculator_kwargs={"asap_cutof": True})).compute(bulk("Cu"))


def test_keywords_that_are_read_without_a_default_are_taken():
    check_arguments("ase.calculators.eam.EAM", {"elements": ["Al"], "lattice": ["fcc"]})
    with pytest.raises(InvalidInputError, match="does not know latice"):
        check_arguments("ase.calculators.eam.EAM", {"latice": ["fcc"]})


def test_a_calculator_without_forces_is_refused(monkeypatch):
    class Forceless(EMT):
        implemented_properties = ("energy", "free_energy")

    mine = ModuleType("my_calculators")
    mine.Forceless = Forceless
    monkeypatch.setitem(sys.modules, "my_calculators", mine)
    maker = CalculatorStaticMaker(calculator_class="my_calculators.Forceless")
    with pytest.raises(InvalidInputError, match="Forceless gives no forces, only energy, free_energy"):
        OracleMaker(static_maker=maker).check(["Cu"])


class EnergyAlone(Calculator):
    implemented_properties = ("energy", "forces", "stress")


class FreeEnergyUnsaid(Calculator):
    implemented_properties = ("energy", "forces", "stress")

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        self.results = {"energy": 0.0, "free_energy": 0.0}


def test_an_energy_of_unknown_kind_is_refused_before_it_is_computed(monkeypatch):
    mine = ModuleType("my_calculators")
    mine.EnergyAlone, mine.FreeEnergyUnsaid = EnergyAlone, FreeEnergyUnsaid
    monkeypatch.setitem(sys.modules, "my_calculators", mine)
    maker = CalculatorStaticMaker(calculator_class="my_calculators.EnergyAlone")
    with pytest.raises(InvalidInputError, match=r"EnergyAlone gives 'energy' but no 'free_energy'.*energy_kind"):
        OracleMaker(static_maker=maker).check(["Cu"])
    OracleMaker(static_maker=replace(maker, energy_kind="potential_energy")).check(["Cu"])
    # what is said of its properties is not all it gives
    OracleMaker(static_maker=CalculatorStaticMaker(calculator_class="my_calculators.FreeEnergyUnsaid")).check(["Cu"])


@pytest.mark.parametrize(
    "name", ["espresso.Espresso", "abinit.Abinit", "vasp.Vasp", "cp2k.CP2K", "aims.Aims", "lj.LennardJones", "eam.EAM"]
)
def test_codes_that_state_a_free_energy_are_taken_without_their_programs(name):
    check_energy_kind(CalculatorStaticMaker(calculator_class=f"ase.calculators.{name}"))
    check_energy_kind(CalculatorStaticMaker(calculator_class="tblite.ase.TBLite"))


def test_a_calculator_that_only_the_worker_has_is_not_refused(caplog):
    maker = CalculatorStaticMaker(calculator_class="on_the_worker.Calculator", calculator_kwargs={"x": 1})
    OracleMaker(static_maker=maker).check(["Cu"])
    assert "on_the_worker.Calculator are not checked here" in caplog.text
    with pytest.raises(InvalidInputError, match="cannot be imported"):
        OracleMaker(static_maker=CalculatorStaticMaker(calculator_class="ase.calculators.emt.EMTT")).check(["Cu"])
