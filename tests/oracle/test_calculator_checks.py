"""An oracle is named, knows its elements, and ignores nothing that it is told."""

from __future__ import annotations

import json
import sys
from types import ModuleType

import pytest
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from atomate2.ase.jobs import GFNxTBStaticMaker, LennardJonesStaticMaker
from monty.json import MontyDecoder, MontyEncoder
from oracles import emt_oracle

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.flows.otf import OTFMaker
from mlip_autopipec.jobs.espresso import EspressoStaticMaker
from mlip_autopipec.jobs.label import OracleMaker
from mlip_autopipec.jobs.static import CalculatorStaticMaker, EMTStaticMaker
from mlip_autopipec.oracle.calculator_checks import assumptions, check_parameters, known_parameters

LJ = "ase.calculators.lj.LennardJones"


class Forceless(EMT):
    """Gives energies alone."""

    implemented_properties = ("energy", "free_energy")


class OwnKeyword(Calculator):
    """Reads a keyword that has no default, as EAM of ASE does."""

    implemented_properties = ("energy", "forces")

    def __init__(self, **kwargs: object) -> None:
        self.depth_eV = kwargs.pop("depth_eV", 1.0)
        super().__init__(**kwargs)


def test_without_an_oracle_nothing_is_labelled(tmp_cwd):
    with pytest.raises(InvalidInputError, match=r"static_maker is missing.*EMTStaticMaker\(\)"):
        OracleMaker().compute(bulk("Cu", cubic=True))
    with pytest.raises(InvalidInputError, match=r"static_maker is missing"):
        OTFMaker().make(bulk("Cu", cubic=True), 300)
    with pytest.raises(InvalidInputError, match=r"calculator_class is missing"):
        OracleMaker(static_maker=CalculatorStaticMaker()).compute(bulk("Cu", cubic=True))


@pytest.mark.parametrize(
    ("maker", "elements", "told"),
    [
        (CalculatorStaticMaker(), ["Cu"], "calculator_class is missing, and there is no default"),
        (EMTStaticMaker(), ["Cu", "O"], r"EMT knows Ag, Al.*, not O \(ASE has placeholders for O"),
        (EMTStaticMaker(), ["Si"], "EMT knows .*, not Si; name another oracle"),
        (CalculatorStaticMaker(calculator_class="ase.calculators.emt.EMT"), ["H"], "EMT knows"),
        (
            EMTStaticMaker(calculator_kwargs={"asap_cutof": True}),
            [],
            "asap_cutof is no parameter .*known are.*asap_cutoff",
        ),
        (LennardJonesStaticMaker(), ["Ar"], "lacks sigma, epsilon; ASE's default of 1"),
        (
            LennardJonesStaticMaker(calculator_kwargs={"sigma": 3.4, "epsilon": 0.01, "cutoff": 9}),
            ["Ar"],
            "cutoff is no parameter .*rc",
        ),
        (CalculatorStaticMaker(calculator_class="ase.calculators.morse.MorsePotential"), [], "lacks epsilon, r0, rho0"),
        (EspressoStaticMaker(pseudopotentials={"Si": "Si.upf"}), ["Si", "O"], "no file for O, only for Si"),
        (
            CalculatorStaticMaker(
                calculator_class="ase.calculators.espresso.Espresso",
                calculator_kwargs={"pseudopotentials": {"Si": "Si.upf"}},
            ),
            ["O"],
            "no file for O, only for Si",
        ),
    ],
)
def test_what_cannot_label_is_refused(maker, elements, told):
    with pytest.raises(InvalidInputError, match=rf"OracleMaker\.static_maker: .*{told}"):
        OracleMaker(static_maker=maker).check(elements)


def test_a_calculator_without_forces_is_refused(monkeypatch):
    mine = ModuleType("my_calculators")
    mine.Forceless = Forceless
    monkeypatch.setitem(sys.modules, "my_calculators", mine)
    maker = CalculatorStaticMaker(calculator_class="my_calculators.Forceless")
    with pytest.raises(InvalidInputError, match="Forceless gives no forces, only energy, free_energy"):
        OracleMaker(static_maker=maker).check(["Cu"])


@pytest.mark.parametrize("kwargs", [{"metod": "GFN1-xTB"}, {"method": "GFN1-xTB", "verbose": 0}])
def test_misspelt_parameters_of_xtb_are_refused(kwargs):
    pytest.importorskip("tblite", reason="its parameters are known where it is installed")
    with pytest.raises(InvalidInputError, match=r"(metod|verbose) is no parameter of tblite\.ase\.TBLite"):
        OracleMaker(static_maker=GFNxTBStaticMaker(calculator_kwargs=kwargs)).check(["Cu"])


def test_elements_beyond_the_parameters_of_xtb_are_refused():
    pytest.importorskip("tblite", reason="its parameters are known where it is installed")
    with pytest.raises(InvalidInputError, match=r"GFN-xTB has parameters up to Rn, none for U"):
        OracleMaker(static_maker=GFNxTBStaticMaker()).check(["O", "U"])


@pytest.mark.parametrize(
    "maker",
    [
        EMTStaticMaker(calculator_kwargs={"asap_cutoff": True}),
        LennardJonesStaticMaker(calculator_kwargs={"sigma": 3.4, "epsilon": 0.01, "rc": 9.0, "smooth": True}),
        GFNxTBStaticMaker(),
        CalculatorStaticMaker(calculator_class="ase.calculators.abinit.Abinit", calculator_kwargs={"ecut": 300}),
        CalculatorStaticMaker(calculator_class="not.installed.here.Calculator", calculator_kwargs={"any": 1}),
    ],
)
def test_what_can_label_is_let_through(maker):
    OracleMaker(static_maker=maker).check(["Cu"])


def test_a_misspelt_parameter_is_refused_where_the_label_is_computed(tmp_cwd):
    maker = CalculatorStaticMaker(calculator_class="ase.calculators.emt.EMT", calculator_kwargs={"asap_cutof": True})
    with pytest.raises(InvalidInputError, match="asap_cutof is no parameter"):
        OracleMaker(static_maker=maker).compute(bulk("Cu", cubic=True))


def test_keywords_that_are_read_without_a_default_are_known():
    assert "depth_eV" not in (known_parameters(OwnKeyword) or ())
    check_parameters(OwnKeyword, {"depth_eV": 2.0})
    misspelt = "depth_eV".replace("th", "ht")  # whole, it would stand in this file and count as read
    with pytest.raises(InvalidInputError, match=f"{misspelt} is no parameter"):
        check_parameters(OwnKeyword, {misspelt: 2.0})


def test_what_is_assumed_is_said():
    maker = CalculatorStaticMaker(calculator_class=LJ, calculator_kwargs={"sigma": 2.0, "epsilon": 0.1})
    one_set, cutoff = assumptions(maker, ["Cu", "Au"])
    assert "Au, Cu are the same to it" in one_set
    assert "cuts off at 6 A, where its forces jump" in cutoff
    assert assumptions(EMTStaticMaker(), ["Cu", "Au"]) == []


def test_makers_that_were_stored_load_with_the_oracle_they_name():
    stored = json.loads(json.dumps(OTFMaker(oracle_maker=emt_oracle()), cls=MontyEncoder))
    assert isinstance(MontyDecoder().process_decoded(stored).oracle_maker.static_maker, EMTStaticMaker)
    oracle = stored["oracle_maker"]
    oracle["static_maker"] = json.loads(
        json.dumps(CalculatorStaticMaker(calculator_class="ase.calculators.emt.EMT"), cls=MontyEncoder)
    )
    MontyDecoder().process_decoded(stored).oracle_maker.check(["Cu"])
