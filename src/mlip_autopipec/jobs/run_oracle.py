"""Run the one job of a static maker here and now."""

from __future__ import annotations

import logging
import sys
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from ase import Atoms
from jobflow import Job, Response
from pymatgen.io.ase import AseAtomsAdaptor

from mlip_autopipec.errors import InvalidInputError, LabelError
from mlip_autopipec.oracle.code_settings import refused_settings
from mlip_autopipec.oracle.electrons import Told, given_to, taken_by, tell, with_keywords
from mlip_autopipec.oracle.kpoints import thin_out_along_vacuum
from mlip_autopipec.oracle.refused import refuse
from mlip_autopipec.oracle.suitability import calculator_of, takes_any_pbc
from mlip_autopipec.structures.periodicity import boxed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase.calculators.calculator import Calculator
    from atomate2.vasp.jobs.base import BaseVaspMaker
    from jobflow import Maker

logger = logging.getLogger(__name__)

#: Module of the mix-in that makes calculators of force fields by name.
_FORCE_FIELDS = "atomate2.forcefields.utils"
_CP2K = ("atomate2.cp2k.jobs.base", "BaseCp2kMaker")


def is_of_vasp(maker: Maker) -> TypeGuard[BaseVaspMaker]:
    """Return whether a maker is one of VASP's."""
    return _is_of(maker, "atomate2.vasp.jobs.base", "BaseVaspMaker")


def _is_of(maker: Maker, module: str, base: str) -> bool:
    """Return whether a maker derives from a class: none does, while the module of that class was never imported."""
    imported = sys.modules.get(module)
    return imported is not None and isinstance(maker, getattr(imported, base))


def check_makes_labels(maker: Maker, elements: Sequence[str] = ()) -> None:
    """
    Refuse a maker that could never label: of MD, of several jobs, or of a calculator that it does not name.

    Parameters
    ----------
    maker
        Its job for a row of one atom of each element is made, and not run.
    elements
        Of the campaign.

    Raises
    ------
    InvalidInputError
        The message names the maker, why, and what to do.
    """
    name = type(maker).__name__
    if (n_steps := getattr(maker, "n_steps", None)) is not None:
        raise InvalidInputError(
            f"{name} runs {n_steps} steps of MD, and a label is of the structure as it is; name a static maker"
        )
    if _is_of(maker, "atomate2.ase.jobs", "AseMaker"):
        _check_calculator_of(maker)
    symbols = list(elements) or ["Cu"]
    row = Atoms(symbols, [[4.0 * i, 0, 0] for i in range(len(symbols))], cell=[4.0 * len(symbols), 4, 4], pbc=True)
    try:
        made = maker.make(AseAtomsAdaptor.get_structure(row))
    except ImportError as error:  # the worker has it perhaps, and says so if not
        logger.warning("%s cannot make its job here: %s; it is not checked", name, error)
        return
    except Exception as error:
        raise InvalidInputError(
            f"{name}.make fails at once: {type(error).__name__}: {error}; name a static maker"
        ) from error
    if not isinstance(made, Job):
        raise InvalidInputError(
            f"{name}.make returns a {type(made).__name__}; a label needs a static maker, which makes a single job"
        )


def _check_calculator_of(maker: Any) -> None:
    """Refuse a maker of atomate2 for ASE calculators that has none, or whose job keeps no forces."""
    from atomate2.ase.jobs import AseMaker

    cls = type(maker)
    method = cls._get_calculator if cls.calculator is AseMaker.calculator else None
    unnamed = str(getattr(maker, "calculator_meta", "")) == "MLFF.Forcefield"  # what atomate2 has for no name
    if method is AseMaker._get_calculator or (unnamed and method is not None and method.__module__ == _FORCE_FIELDS):
        raise InvalidInputError(
            f"{cls.__name__} names no calculator; give the force_field_name of a force field maker, or name a maker of "
            "one calculator"
        )
    if cls.make is AseMaker.make:
        raise InvalidInputError(
            f"{cls.__name__} keeps no forces, which a label needs; derive it from "
            "mlip_autopipec.jobs.static.AseStaticMaker, or from AseRelaxMaker with steps=1"
        )


def check_settings(maker: Maker, elements: Sequence[str]) -> None:
    """
    Refuse settings with which a code gives other numbers than those of a label.

    Parameters
    ----------
    maker
        A static maker; codes that are not known here are not looked at.
    elements
        Of the campaign.

    Raises
    ------
    InvalidInputError
        The message names the setting, why, and what to do.
    """
    if is_of_vasp(maker):
        from mlip_autopipec.oracle.vasp_campaign import check_vasp

        check_vasp(maker, elements)
    elif _is_of(maker, *_CP2K):
        from mlip_autopipec.oracle.cp2k import check_cp2k

        check_cp2k(maker, elements)
    elif (calculator := calculator_of(maker)) is not None:
        settings = dict(getattr(maker, "calculator_kwargs", None) or {})
        checked = getattr(maker, "input_to_check", None)
        if given := checked() if checked is not None else getattr(maker, "input_data", None):
            settings["input_data"] = given
        refuse(calculator.rpartition(".")[2], refused_settings(calculator, settings))


def check_atoms_alike(maker: Maker, atom_maker: Maker, elements: Sequence[str]) -> None:
    """
    Refuse isolated atoms that VASP would compute with another functional, cutoff, POTCAR or U than the labels.

    Parameters
    ----------
    maker, atom_maker
        Of labels, and of isolated atoms.
    elements
        Of the campaign.
    """
    if is_of_vasp(maker) and is_of_vasp(atom_maker):
        from mlip_autopipec.oracle.vasp_campaign import check_vasp_atoms

        check_vasp_atoms(maker, atom_maker, elements)


def doubtful_settings(maker: Maker, elements: Sequence[str]) -> list[str]:
    """
    Return what makes the labels of a maker noisy, or right for some materials alone, one line each.

    Parameters
    ----------
    maker
        A static maker; of VASP's the INCAR is looked at, of force fields the package.
    elements
        Of the campaign.
    """
    if not is_of_vasp(maker):
        missing = getattr(maker, "missing", None)  # of a program and its files
        return [*_missing_package(maker), *(missing() if callable(missing) else [])]
    from mlip_autopipec.oracle.vasp_campaign import doubts_of_vasp

    return doubts_of_vasp(maker, elements)


def _missing_package(maker: Any) -> list[str]:
    """Say which packages a force field of atomate2 needs that are not here: they may be where labels are computed."""
    if _FORCE_FIELDS not in sys.modules:
        return []
    from atomate2.forcefields.utils import MLFF, _get_pkg_name

    model = getattr(maker, "calculator_meta", None)
    package = _get_pkg_name(model) if isinstance(model, MLFF) else None
    told = []
    if package is not None and not list(distributions(name=package)):
        told.append(f"the package {package} of {maker.force_field_name} is not installed here; labels need it")
    if model is not None and find_spec("torch") is None:  # atomate2 sets its precision, whatever the force field
        told.append(
            f"the package torch, which atomate2 imports for each force field, {type(maker).__name__} here, is not "
            "installed here; labels need it"
        )
    return told


def given_to_oracle(maker: Maker, atoms: Atoms) -> Atoms:
    """
    Return what an oracle is given of a structure: its atoms and cell; charge, spin and moments where it takes them.

    Parameters
    ----------
    maker
        A static maker.
    atoms
        The structure.

    Raises
    ------
    InvalidInputError
        As :func:`~mlip_autopipec.oracle.electrons.given_to`.
    """
    taken = taken_by(maker)
    if is_of_vasp(maker):
        from mlip_autopipec.oracle.vasp_structure import TAKES

        taken = TAKES
    elif _is_of(maker, *_CP2K):
        taken = frozenset(["charge", "multiplicity"])
    return given_to(type(maker).__name__, taken, _with_vacuum(maker, atoms), calculator_of(maker))


def _with_vacuum(maker: Maker, atoms: Atoms) -> Atoms:
    """Return the structure in the cell that the oracle can compute: most are periodic whatever ``pbc`` says."""
    if atoms.cell.rank == 3 and takes_any_pbc(maker):
        return atoms
    return boxed(atoms)


def told_for(maker: Maker, atoms: Atoms) -> Told:
    """
    Return a maker as it computes one structure.

    Parameters
    ----------
    maker
        Is not changed.
    atoms
        As :func:`given_to_oracle` makes it.
    """
    if is_of_vasp(maker):
        from mlip_autopipec.oracle.vasp_structure import for_vasp

        return for_vasp(maker, atoms)
    if _is_of(maker, *_CP2K):
        from mlip_autopipec.oracle.cp2k import for_cp2k

        return for_cp2k(maker, atoms)
    structure = AseAtomsAdaptor.get_structure(atoms)
    structure.properties = {key: value for key, value in structure.properties.items() if value is not None}
    return Told(with_keywords(maker, atoms), structure)


def calculator_for(maker: Maker, atoms: Atoms) -> Calculator:
    """
    Make the calculator of a static maker as it labels a structure, for MD of the oracle itself.

    Parameters
    ----------
    maker
        One whose calculator is of ASE.
    atoms
        The structure: its charge and multiplicity reach the calculator, and one k-point stays along its vacuum.
    """
    given = given_to_oracle(maker, atoms)
    told: Any = with_keywords(maker, given)
    calculator: Calculator = told.calculator
    tell(calculator, f"{type(calculator).__module__}.{type(calculator).__qualname__}", given)
    thin_out_along_vacuum(calculator, boxed(given))
    if (along_vacuum := getattr(maker, "set_along_vacuum", None)) is not None:
        along_vacuum(boxed(given), calculator)
    return calculator


def run_static(maker: Maker, atoms: Atoms, told: Told | None = None) -> Any:
    """
    Run the job of a static maker in this process and this folder; return its document.

    Parameters
    ----------
    maker, atoms
        As for :func:`told_for`.
    told
        What :func:`told_for` returned, if that was asked already.
    """
    told = told or told_for(maker, atoms)
    maker = told.maker
    static = maker.make(told.structure)
    if not isinstance(static, Job):
        raise LabelError(f"{type(maker).__name__}.make returns a Flow; a label needs a maker of a single job")
    function = getattr(static.function, "original", static.function)
    try:
        # the job's own copy of the maker: what a run leaves on it, such as counts of errors, must not reach the next
        output = function(static.maker or maker, *static.function_args, **static.function_kwargs)
    except Exception as error:
        if is_of_vasp(maker):
            from mlip_autopipec.oracle.vasp_failures import explain_failure

            raise explain_failure(error, Path.cwd(), maker.run_vasp_kwargs) from error
        raise
    return output.output if isinstance(output, Response) else output
