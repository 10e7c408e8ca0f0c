"""The size and shape of an ACE basis, in pacemaker's own terms."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from monty.json import MSONable

from mlip_autopipec.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pyace import BBasisConfiguration

#: Default cutoff (Angstrom) for a linear fit of a given number of functions, and the number of version 0.1.
LINEAR_CUTOFF, LINEAR_FUNCTIONS = 5.0, 30
#: Default shape for a linear fit, of all blocks: radial and angular limits per correlation order.
LINEAR_SHAPE = ([15, 6, 4, 3, 2], [0, 4, 3, 2, 1])
#: Radial functions where none are named and the data do not choose, and pacemaker's parameters for all kinds of them.
RADIAL_BASIS, RADIAL_PARAMETERS = "SBessel", (5.25,)
#: Step (Angstrom) of the splines by which radial functions are evaluated. Five times pacemaker's: forces differ by less
#: than 1e-6 eV/A, and tables that fit into a processor's cache make MD up to a fifth faster.
SPLINE_STEP = 0.005
#: Usual cutoff (Angstrom) and the shape for a linear fit whose number of functions is chosen by the data.
LADDER_CUTOFF = 6.0
LADDER_SHAPE = ([15, 8, 5, 4, 3], [0, 5, 4, 3, 2])
#: From so many elements on, a linear fit has no functions of three and more elements at once unless a shape is given
#: (or, with four, shares by degree are chosen, which take few of them):
#: there are so many blocks of them (55 of 80 with five elements) that few functions were left for each pair, and to
#: list their functions took minutes.
MANY_ELEMENTS = 4
#: Default shape for a linear fit of so many elements, by block.
MANY_SHAPE = {"UNARY": LADDER_SHAPE, "BINARY": ([15, 8, 4], [0, 5, 3])}
#: How the functions of an element are shared by its blocks. Equally, as pacemaker does, or by degree: those of lowest
#: degree are taken, with so many degrees added where neighbours of one or two further elements are in a function.
Shares = tuple[int, ...] | None
EQUAL_SHARES: Shares = None
#: Shares that a linear fit chooses from, by the number of elements (docs/benchmarks.md). Equal ones leave few functions
#: for two elements, of which there are many of each degree: by degree SiO2 has 164 instead of 176 meV/A, water 47
#: instead of 50. Three elements at once matter in molecules and do not in MoSi2N4 (64 instead of 57, 181 instead of
#: 197 meV/A with two degrees added); with four elements they are of use if few of them are taken.
SHARES: dict[int, tuple[Shares, ...]] = {
    2: ((0,), EQUAL_SHARES),
    3: ((0, 0), (0, 2), EQUAL_SHARES),
    4: ((2, 4), EQUAL_SHARES),
}
#: Shape of the functions of three elements at once that a fit of four elements may choose.
TERNARY_SHAPE = ([15, 6], [0, 4])
#: Default cutoff (Angstrom) for a gradient fit: what ``pacemaker -t`` proposes.
GRADIENT_CUTOFF = 7.0
#: Default basis functions per element for a gradient fit, for one, two, and three or more elements.
GRADIENT_FUNCTIONS = (400, 240, 160)
#: Default shape for a gradient fit, by block: pacemaker's template (``pyace/data/input_template.yaml``).
GRADIENT_SHAPE = {
    "UNARY": ([15, 6, 4, 3, 2, 2], [0, 3, 3, 2, 2, 1]),
    "BINARY": ([15, 6, 3, 2, 2, 1], [0, 3, 2, 1, 1, 0]),
    "TERNARY": ([15, 3, 3, 2, 1], [0, 2, 2, 1, 1]),
    "ALL": ([15, 3, 2, 1, 1], [0, 2, 2, 1, 1]),
}
#: Blocks of one and of two elements hold the radial functions of a bond.
_OF_A_BOND = 2
#: So many functions of a block are remembered.
_MOST_IN_A_BLOCK = 1500
# in a potential section these start from another potential, which is not the basis' business
_STARTS = ("filename", "initial_potential", "reset")


@dataclass
class BasisSettings(MSONable):
    """
    An ACE basis, written as the ``potential`` section of a pacemaker input.

    What is None is chosen by ``ndensity`` and the number of elements. With one density (a linear
    fit) the labels choose the number of functions, up to 1200 of all elements, 2400 of three or four, or 320 of each,
    the radial functions (SBessel or ChebExpCos), the cutoff, 3.5 to 7 A, and how the functions are shared by neighbours
    of one, two and three elements, with body order 6; the number grows with the labels. A number that is given stays,
    with SBessel, 5 A and equal shares by default. With five and more elements (four, if the number is given) each
    function of a linear fit depends on two at most, unless a shape is given. Two densities
    (a gradient fit) get that of pacemaker's template, ``pacemaker -t``: 7 A, SBessel radial
    functions, body order 7 for blocks of one or two elements and 6 for more. The template's
    700 functions per element are for data sets of thousands of structures; an active set
    needs at least as many atoms of an element as functions, better four times as many, which
    a first dataset of default size then has. So the defaults are
    400, 240 and 160 functions per element for one, two, and three or more elements; give
    the number where there is more data, for a basis of two densities cannot grow in a fine-tune.

    Parameters
    ----------
    number_of_functions_per_element
        Basis functions per element; the active set of an element has as many atoms. None lets the data choose in
        a linear fit.
    cutoff
        Outer cutoff radius in Angstrom.
    nradmax_by_orders, lmax_by_orders
        Largest radial and angular index per correlation order (body order minus one), of all
        blocks. Give both or none.
    radial_basis
        pacemaker's ``radbase``: ``SBessel``, ``ChebExpCos``, ``ChebPow`` or ``ChebLinear``. None lets the data choose
        between the first two in a linear fit, and is ``SBessel`` otherwise.
    radial_parameters
        pacemaker's ``radparameters``.
    ndensity
        Densities in the embedding: 1 is linear ACE, 2 adds a square-root term
        (Finnis-Sinclair), which only the gradient fit can train.
    potential_section
        A complete pacemaker ``potential`` section that replaces all of the above.
    """

    number_of_functions_per_element: int | None = None
    cutoff: float | None = None
    nradmax_by_orders: list[int] | None = None
    lmax_by_orders: list[int] | None = None
    radial_basis: str | None = None
    radial_parameters: list[float] | None = None
    ndensity: int = 1
    potential_section: dict[str, Any] | None = None

    def section(self, elements: Sequence[str]) -> dict[str, Any]:
        """
        Write the ``potential`` section for the given elements.

        Parameters
        ----------
        elements
            Chemical symbols; their order does not matter.

        Returns
        -------
        dict
            What pacemaker and ``pyace.create_multispecies_basis_config`` read.

        Raises
        ------
        InvalidInputError
            If the section names other elements, or starts from another potential.
        """
        symbols = sorted(set(elements))
        if not symbols:
            raise InvalidInputError("BasisSettings.section: 'elements' is empty; name at least one element")
        if self.potential_section is not None:
            return _complete(self.potential_section, symbols)
        if self.ndensity not in (1, 2):
            raise InvalidInputError(f"ndensity is {self.ndensity}; 1 (linear) and 2 (square root) are known")
        fs_parameters = [1, 1] if self.ndensity == 1 else [1, 1, 1, 0.5]
        linear = self.ndensity == 1
        cutoff, number = self.cutoff, self.number_of_functions_per_element
        if cutoff is None:
            cutoff = LINEAR_CUTOFF if linear else GRADIENT_CUTOFF
        if number is None:
            number = LINEAR_FUNCTIONS if linear else GRADIENT_FUNCTIONS[min(len(symbols), 3) - 1]
        return {
            "deltaSplineBins": SPLINE_STEP,
            "elements": symbols,
            "embeddings": {
                "ALL": {
                    "npot": "FinnisSinclairShiftedScaled",
                    "fs_parameters": fs_parameters,
                    "ndensity": self.ndensity,
                }
            },
            "bonds": {
                "ALL": {
                    "radbase": self.radial_basis or RADIAL_BASIS,
                    "radparameters": list(self.radial_parameters or RADIAL_PARAMETERS),
                    "rcut": cutoff,
                    "dcut": 0.01,
                    "NameOfCutoffFunction": "cos",
                }
            },
            "functions": {"number_of_functions_per_element": number, **self._shape(linear, len(symbols))},
        }

    def configuration(self, elements: Sequence[str], shares: Shares = EQUAL_SHARES) -> BBasisConfiguration:
        """
        Return the basis as pyace creates it of :meth:`section`, with coefficients zero.

        pyace checks and sorts all functions within the limits of the shape before it takes the first of them: tens of
        thousands for an alloy, in seconds. Here the first are taken at once.

        Parameters
        ----------
        elements
            Chemical symbols; their order does not matter.
        shares
            How the functions of an element are shared by its blocks, of :data:`SHARES`.
        """
        from pyace import create_multispecies_basis_config
        from pyace.multispecies_basisextension import clean_bbasisconfig, extend_multispecies_basis

        section = self.section(elements)
        if self.potential_section is not None:
            return create_multispecies_basis_config(section)
        number = section["functions"]["number_of_functions_per_element"]
        # which functions there are depends on neither cutoff nor radial functions: to list them takes seconds, once
        same = replace(self, number_of_functions_per_element=1, cutoff=None, radial_basis=None, radial_parameters=None)
        listed = same.section(elements)
        if shares is not None and len(listed["elements"]) == MANY_ELEMENTS and self.nradmax_by_orders is None:
            listed["functions"]["TERNARY"] = _limits(TERNARY_SHAPE)
        full, n_blocks = _first_functions(json.dumps(listed, sort_keys=True))
        each = number * len(section["elements"]) // n_blocks
        if shares is None and not 0 < each <= _MOST_IN_A_BLOCK:
            return create_multispecies_basis_config(section)
        counts = [each] * n_blocks if shares is None else _counts(full, number, shares)
        first, empty = full.copy(), full.copy()
        clean_bbasisconfig(empty)
        for block, count in zip(first.funcspecs_blocks, counts, strict=True):
            block.funcspecs = list(block.funcspecs)[:count]
        configuration = extend_multispecies_basis(empty, first, "power_order")
        bond = section["bonds"]["ALL"]
        for block in configuration.funcspecs_blocks:
            if block.number_of_species <= _OF_A_BOND:
                block.rcutij, block.radbase, block.radparameters = bond["rcut"], bond["radbase"], bond["radparameters"]
        return configuration

    def _shape(self, linear: bool, n_elements: int) -> dict[str, dict[str, list[int]]]:
        """Write the radial and angular limits of each block."""
        if (self.nradmax_by_orders is None) != (self.lmax_by_orders is None):
            raise InvalidInputError(
                f"nradmax_by_orders is {self.nradmax_by_orders} and lmax_by_orders {self.lmax_by_orders}; give both "
                "or none"
            )
        if self.nradmax_by_orders is not None and self.lmax_by_orders is not None:
            blocks = {"ALL": (self.nradmax_by_orders, self.lmax_by_orders)}
        else:
            linear_blocks = MANY_SHAPE if n_elements >= MANY_ELEMENTS else {"ALL": LINEAR_SHAPE}
            blocks = linear_blocks if linear else GRADIENT_SHAPE
        return {name: _limits(shape) for name, shape in blocks.items()}


def shares_for(elements: Sequence[str]) -> tuple[Shares, ...]:
    """Return the shares to choose from with these elements, the one to begin with first."""
    return SHARES.get(len(set(elements)), (EQUAL_SHARES,))


def _limits(shape: tuple[list[int], list[int]]) -> dict[str, list[int]]:
    """Write radial and angular limits as pacemaker reads them."""
    return {"nradmax_by_orders": list(shape[0]), "lmax_by_orders": list(shape[1])}


def _counts(full: BBasisConfiguration, number: int, shares: tuple[int, ...]) -> list[int]:
    """Return how many functions of each block are among the first ``number`` of its element, by degree."""
    places: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for index, block in enumerate(full.funcspecs_blocks):
        further = block.number_of_species - 1
        more = shares[min(further, len(shares)) - 1] if further else 0
        for place, function in enumerate(block.funcspecs):
            # of one degree the blocks take turns
            places[block.elements_vec[0]].append((degree_of(function.ns, function.ls) + more, place, index))
    taken = Counter(index for listed in places.values() for *_, index in sorted(listed)[:number])
    return [taken[index] for index in range(len(full.funcspecs_blocks))]


@lru_cache(maxsize=8)
def _first_functions(section: str) -> tuple[BBasisConfiguration, int]:
    """Return a basis with the functions of lowest order of each block of a section, and the number of blocks."""
    from pyace import BBasisConfiguration
    from pyace.basisextension import sort_funcspecs_list
    from pyace.multispecies_basisextension import (
        create_multispecies_basisblocks_list,
        validate_bonds_nradmax_lmax_nradbase,
    )

    given = json.loads(section)
    blocks = create_multispecies_basisblocks_list(given)
    for block in blocks:
        block.funcspecs = sort_funcspecs_list(block.funcspecs, "power_order")[:_MOST_IN_A_BLOCK]
    configuration = BBasisConfiguration()
    configuration.deltaSplineBins = given["deltaSplineBins"]
    configuration.funcspecs_blocks = blocks
    validate_bonds_nradmax_lmax_nradbase(configuration)
    return configuration, len(blocks)


def _complete(section: Mapping[str, Any], symbols: list[str]) -> dict[str, Any]:
    """Return the user's own section if it is one for these elements."""
    if start := next((key for key in _STARTS if key in section), None):
        raise InvalidInputError(
            f"the potential section holds '{start}: {section[start]}'; a potential to start from is given as "
            "initial_potential (start_from.potential in a run file), and the section describes a basis only"
        )
    given = section.get("elements", [section["element"]] if "element" in section else symbols)
    if sorted(given) != symbols:
        missing, extra = sorted(set(symbols) - set(given)), sorted(set(given) - set(symbols))
        raise InvalidInputError(
            f"potential_section.elements is {sorted(given)}, but the structures hold {symbols} "
            f"(missing in the section: {missing or 'none'}; only in the section: {extra or 'none'}); make them agree"
        )
    if "element" in section:
        return dict(section)
    return {**section, "elements": symbols}


def degree_of(n: Sequence[int], l: Sequence[int]) -> int:  # noqa: E741 the name of the field
    """Return body order plus sums of radial and angular indices: by this pyace orders the functions of a ladder."""
    return len(n) + sum(n) + sum(l)
