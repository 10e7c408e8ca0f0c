"""No oracle labels in silence what it was not made for."""

from __future__ import annotations

import pytest
from ase.build import bulk
from atomate2.ase.jobs import GFNxTBStaticMaker, LennardJonesStaticMaker

from mlip_autopipec import OracleMaker, OTFMaker
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.jobs.static import CalculatorStaticMaker, EMTStaticMaker


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
        (LennardJonesStaticMaker(), ["Ar", "Ne"], "one set of parameters for all atoms"),
        (GFNxTBStaticMaker(), ["U"], "no parameters for U"),
    ],
)
def test_elements_go_by_the_calculator(maker, elements, said):
    with pytest.raises(InvalidInputError, match=said):
        OracleMaker(static_maker=maker).check(elements)


@pytest.mark.parametrize(
    ("maker", "elements"),
    [(EMTStaticMaker(), ["Cu", "Au"]), (LennardJonesStaticMaker(), ["Ar"]), (GFNxTBStaticMaker(), ["Mg", "O"])],
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
    maker = CalculatorStaticMaker(calculator_class="ase.calculators.lj.LennardJones", calculator_kwargs={"sigma": 3.0})
    OracleMaker(static_maker=maker).check(["Ar"])
    with pytest.raises(InvalidInputError, match="asap_cutof"):
        OracleMaker(static_maker=EMTStaticMaker(calculator_kwargs={"asap_cutof": True})).compute(bulk("Cu"))
