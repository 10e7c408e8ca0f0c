"""A run file to begin with: settings that suit a structure, with comments that teach them."""

from __future__ import annotations

import json
import math
import re
import textwrap
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, get_args

import jinja2
import numpy as np
from ase.data import atomic_masses, atomic_numbers
from pymatgen.core import Element

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.flows.parts import atoms_for
from mlip_autopipec.kinds import ORACLES, TRAINERS, Material, OracleKind
from mlip_autopipec.lammps.types import Barostat
from mlip_autopipec.oracle.suitability import EMT_METALS, NOBLE_GASES
from mlip_autopipec.runfile.errors import nearest
from mlip_autopipec.runfile.model import RunFile
from mlip_autopipec.runfile.sections import told_trainers
from mlip_autopipec.runfile.sources import Source, formula_of, nearest_neighbour, plain_formula, widest_repetitions
from mlip_autopipec.sampling.seeds import StructureGenerator, enough_structures
from mlip_autopipec.structures.frozen import FROZEN, held_by
from mlip_autopipec.structures.periodicity import Shape, gathered, shape_of
from mlip_autopipec.structures.supercells import cell_width

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ase import Atoms

    from mlip_autopipec.runfile.datasets import Dataset

#: What is told of a structure with vacuum.
_ABOUT_SHAPE = {
    Shape.SLAB: "a slab: strained and repeated in its plane alone; its vacuum is kept, 15 A where it is not periodic",
    Shape.WIRE: "a wire: strained and repeated along its axis alone; its vacuum is kept, 15 A where it is not periodic",
    Shape.CLUSTER: "a cluster or molecule: never repeated, no barostat; 15 A of vacuum where it is not periodic",
}
#: Basis functions per element for one, two, and more elements: enough to begin with on a laptop.
_FUNCTIONS = (60, 80, 100)
#: Atoms of molecules are nearer than this (A), those of clusters of metals are not.
_MOLECULAR_A = 1.7
#: Largest cell (atoms) of which an oracle that takes seconds runs MD for the validation; GFN1-xTB takes 0.02 s for a
#: molecule of 5 atoms, 1 s for a slab of 32, 6 to 13 s for a crystal of 64.
_LARGEST_OF_SECONDS = 40
#: Column where comments behind settings begin.
_COMMENTS = 38


@dataclass(frozen=True)
class Choices:
    """
    What a user chose; None lets :func:`write_run_file` choose.

    Parameters
    ----------
    name
        Of the campaign.
    oracle, trainer
        By their names in a run file.
    temperatures_K
        Of the walkers, in K.
    max_atoms
        Largest supercell.
    calculator
        Import path of an ASE calculator, for the oracle ``ase``.
    labels
        Files of labels to start from.
    unusable
        Files of labels that have to be mended first.
    """

    name: str | None = None
    oracle: str | None = None
    trainer: str = "linear"
    temperatures_K: tuple[float, ...] = ()
    max_atoms: int = 64
    calculator: str = "ase.calculators.abinit.Abinit"
    labels: tuple[Dataset, ...] = ()
    unusable: tuple[Dataset, ...] = ()


def write_run_file(path: Path, sources: Sequence[Source], choices: Choices) -> RunFile:
    """
    Write a run file with comments, and read it back.

    Parameters
    ----------
    path
        Where to; never overwritten.
    sources
        The structures.
    choices
        What is given.

    Returns
    -------
    RunFile
        As a campaign would read it; whatever a campaign would refuse is refused here.

    Raises
    ------
    InvalidInputError
        The file is there already, or the choices do not suit the structures.
    """
    text = render(path.name, sources, choices)
    try:
        with path.open("x") as stream:
            stream.write(text)
    except FileExistsError as error:
        raise InvalidInputError(f"'{path}' exists; nothing was written. Name another file with --output") from error
    except OSError as error:
        raise InvalidInputError(f"'{path}' cannot be written: {error}; name another place with --output") from error
    try:
        run = RunFile.load(path)
        run.flow()
    except Exception:
        path.unlink()
        raise
    return run


def render(file: str, sources: Sequence[Source], choices: Choices) -> str:
    """Return the text of a run file."""
    elements = sorted({symbol for source in sources for symbol in source.atoms.get_chemical_symbols()})
    name, about = _oracle(elements, choices.oracle)
    oracle = ORACLES[name]
    if choices.trainer not in TRAINERS:
        raise InvalidInputError(f"--trainer {choices.trainer} is unknown; {nearest(choices.trainer, list(TRAINERS))}")
    trainer = TRAINERS[choices.trainer]
    temperatures, about_temperatures = choices.temperatures_K, ""
    if not temperatures:
        temperatures, about_temperatures = _temperatures(elements)
    lightest = min(elements, key=_mass)
    structures = [_described(source, choices.max_atoms) for source in sources]
    functions = _FUNCTIONS[min(len(elements), 3) - 1]
    functions = min(functions, _most_functions(sources, structures, elements))
    cells = [source.atoms.repeat(one["repeat"]) for source, one in zip(sources, structures, strict=True)]
    of_basis, n_atoms = atoms_for(trainer.trainer(), elements), StructureGenerator.n_atoms
    n_structures = enough_structures(cells, n_atoms, of_basis)
    n_atoms = max(n_atoms, min(of_basis, n_structures * _rarest(sources, structures, elements)))
    distance = min(nearest_neighbour(source.atoms) for source in sources)
    molecular = all(_is_molecule(source.atoms) for source in sources)
    cutoff = min(7.0, max(5.0, round(2 * distance, 1)))
    if molecular:  # no neighbour is beyond the molecule's other end
        cutoff = min(cutoff, max(3.5, math.ceil(2 * max(map(_diameter_A, sources))) / 2))
    about_cutoff = f"A; nearest neighbours are {distance:.2f} A apart"
    n_test, about_test = 3, "further ones that are never trained on"
    if trainer.leaves_out:
        n_test, about_test = 0, "none set aside: the fit tells the error of each label left out"
    slabs = any(shape_of(source.atoms) is Shape.SLAB for source in sources)
    material = Material(elements, distance, choices.calculator, slabs)
    environment = jinja2.Environment(  # noqa: S701 - YAML, no HTML
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["flow"] = _flow
    template = environment.from_string(files(__package__).joinpath("template.yaml.j2").read_text())
    text = template.render(
        file=file,
        made_from=[f"Made for {', '.join(dict.fromkeys(s['formula'] for s in structures))}: change what does not fit."],
        name=_flow(choices.name or "-".join(dict.fromkeys(plain_formula(s["formula"]) for s in structures))),
        structures=structures,
        temperatures=[f"{t:g}" for t in temperatures],
        about_temperatures=about_temperatures,
        oracle=name,
        about_oracle=f"{oracle.about}{about}",
        oracle_settings=environment.from_string(oracle.template).render(
            {} if oracle.values is None else oracle.values(material)
        ),
        trainer=choices.trainer,
        trainers=told_trainers(),
        about_trainer=trainer.about,
        trainer_settings=environment.from_string(trainer.template).render(
            functions=functions,
            cutoff=cutoff,
            about_cutoff=about_cutoff,
        ),
        n_steps=10_000,
        timestep=usual_timestep_fs(lightest),
        lightest=lightest,
        barostat=max((_barostat(source.atoms) for source in sources), key=get_args(Barostat).index),
        gamma_lo=2.0,
        gamma_hi=trainer.gamma_hi,
        n_structures=n_structures,
        n_atoms=n_atoms,
        n_test=n_test,
        about_test=about_test,
        max_atoms=_largest_cell(sources, structures, choices.max_atoms, gamma_only=oracle.gamma_only),
        volume_window="[0.95, 1.05]" if molecular else "[0.9, 1.1]",
        strain=0.02 if molecular else 0.03,
        rattle="[0.02, 0.04, 0.06]" if molecular else "[0.05, 0.1, 0.15]",
        about_rattle="bonds of a molecule move by 0.05" if molecular else "hot atoms move by 0.1 and more",
        isolated_atoms=oracle.isolated_atoms,
        labels=_files(choices.labels),
        unusable=_unusable(choices),
        max_labels=100 * math.ceil((n_structures * len(sources) + n_test + 100) / 100),
        validation=_validation(oracle, sources, structures),
    )
    return re.sub(r"^( *[^#\s].*?) +# ", lambda found: f"{found[1]:<{_COMMENTS}}  # ", text, flags=re.MULTILINE)


def _oracle(elements: Sequence[str], asked: str | None) -> tuple[str, str]:
    """Return the oracle, and why it was taken where nobody asked for it."""
    if asked is not None and asked not in ORACLES:
        raise InvalidInputError(f"--oracle {asked} is unknown; {nearest(asked, list(ORACLES))}")
    strange = sorted(set(elements) - EMT_METALS)
    if asked == "emt" and strange:
        raise InvalidInputError(
            f"--oracle emt knows {', '.join(sorted(EMT_METALS))} and not {', '.join(strange)}; take gfn-xtb, espresso, "
            "vasp or ase"
        )
    if asked is not None:
        return asked, ""
    if not strange:
        return "emt", ". Replace it by your code"
    if len(elements) == 1 and elements[0] in NOBLE_GASES:
        return "lennard-jones", ""
    if find_spec("tblite") is not None:
        return "gfn-xtb", ". Replace it by your code"
    return "vasp", ". Cheaper ones do not know these elements or are not installed"


def _barostat(atoms: Atoms) -> Barostat:
    """Return the barostat that lets a cell relax without breaking its symmetry; clusters take none."""
    if shape_of(atoms) is Shape.CLUSTER:
        return "isotropic"
    a, b, c, *angles = atoms.cell.cellpar()
    if not np.allclose(angles[:2], 90, atol=0.1) or not np.isclose(angles[2], (60, 90, 120), atol=0.1).any():
        # the primitive cells of cubic crystals
        return "isotropic" if np.ptp([a, b, c]) < 1e-3 * a and np.ptp(angles) < 0.1 else "triclinic"
    return "isotropic" if np.ptp([a, b, c]) < 1e-3 * a and np.ptp(angles) < 0.1 else "anisotropic"


def _is_molecule(atoms: Atoms) -> bool:
    """Tell whether a structure is one or more molecules in vacuum: its bonds are stiff, as those of metals are not."""
    return shape_of(atoms) is Shape.CLUSTER and nearest_neighbour(atoms) < _MOLECULAR_A


def _diameter_A(source: Source) -> float:
    positions = gathered(source.atoms)[0]
    return float(np.linalg.norm(positions[:, None] - positions[None], axis=-1).max())


def _temperatures(elements: Sequence[str]) -> tuple[tuple[float, ...], str]:
    """Room temperature and below melting, for an element; 300 and 1000 K for a compound, whose melting is not known."""
    melting = Element(elements[0]).melting_point if len(elements) == 1 else None
    if melting is None:
        return (300.0, 1000.0), "choose by the melting point of your material"
    melting = float(melting)
    if melting > 600:
        below = round(0.75 * melting, -2)
        return (300.0, below), f"{elements[0]} melts at {melting:.0f} K"
    return (_two_digits(0.3 * melting), _two_digits(0.75 * melting)), f"{elements[0]} melts at {melting:.0f} K"


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")


def _mass(element: str) -> float:
    return float(atomic_masses[atomic_numbers[element]])


def usual_timestep_fs(lightest: str) -> float:
    """Return a time step (fs) of a twentieth or less of the fastest vibration: about 10 fs with H, 25 with C and O."""
    mass = _mass(lightest)
    return 0.5 if mass < 4 else 1.0 if mass < 40 else 2.0


def _largest_cell(
    sources: Sequence[Source], structures: Sequence[dict[str, Any]], most: int, *, gamma_only: bool
) -> int:
    """Return how many atoms the cells of the first dataset may have."""
    if gamma_only and any(shape_of(source.atoms) is not Shape.CLUSTER for source in sources):
        # of a cell that is wider than that of MD its energies are others
        return max(one["n_atoms"] for one in structures)
    return max(most, *(len(source.atoms) for source in sources))


def _validation(oracle: OracleKind, sources: Sequence[Source], structures: Sequence[dict[str, Any]]) -> list[str]:
    """Return the lines of MD of the oracle at the end: as much of it as a campaign with this oracle can bear."""
    if oracle.cost == "hours":
        return []
    about = "# At the end, errors on independent MD of the oracle."
    long, short = (f"validation: {{n_frames: {n}, interval_steps: {every}}}" for n, every in ((10, 50), (4, 25)))
    if oracle.cost == "milliseconds":
        return [f"{about} Fast with this oracle.", long]
    n_atoms = max(one["n_atoms"] for one in structures)
    if n_atoms <= _LARGEST_OF_SECONDS and all(_is_molecule(source.atoms) for source in sources):
        return [f"{about} 500 steps for each walker.", long]
    about += " 100 steps for each walker, each as long as a label"
    if n_atoms <= _LARGEST_OF_SECONDS:
        return [f"{about}.", short]
    return [f"{about}: remove the # for them.", f"# {short}"]


def _described(source: Source, max_atoms: int) -> dict[str, Any]:
    atoms, shape = source.atoms, shape_of(source.atoms)
    repeat = widest_repetitions(atoms, max_atoms)
    return {
        "bulk": source.key == "bulk",
        "materials_project": source.key == "materials_project",
        "source": _flow(source.value),
        "elements": ", ".join(source.elements),
        "repeat": list(repeat),
        "formula": formula_of(atoms),
        "n_atoms": len(atoms) * math.prod(repeat),
        "width": cell_width(atoms.repeat(repeat).cell.array),
        "n_fixed": 0 if FROZEN in atoms.arrays else len(held_by(atoms)) * math.prod(repeat),
        "shape": "" if shape is Shape.BULK else _ABOUT_SHAPE[shape],
    }


def _rarest(sources: Sequence[Source], described: Sequence[dict[str, Any]], elements: Sequence[str]) -> int:
    """Return how many atoms of the rarest element one structure of each source has together."""
    return min(
        sum(
            source.atoms.get_chemical_symbols().count(element) * math.prod(one["repeat"])
            for source, one in zip(sources, described, strict=True)
        )
        for element in elements
    )


def _most_functions(sources: Sequence[Source], described: Sequence[dict[str, Any]], elements: Sequence[str]) -> int:
    """Return so many basis functions that 40 small molecules hold two atoms of each element for each, at least 15."""
    return max(15, 40 * _rarest(sources, described, elements) // 2)


def _files(datasets: Sequence[Dataset]) -> str:
    """Write the names of files of labels, the one or a list."""
    names = [dataset.shown for dataset in datasets]
    return _flow(names[0] if len(names) == 1 else names) if names else ""


def _unusable(choices: Choices) -> list[str]:
    """Return comments about labels that have to be mended first: removing the # of some is all that is left then."""
    if not choices.unusable:
        return []
    every = [*choices.labels, *choices.unusable]
    lines = ["Nothing of these labels is used, since they cannot be read as they are:"]
    for dataset in choices.unusable:
        named = "" if dataset.path.name in dataset.fault else f"{dataset.shown}: "
        told = " ".join(f"{named}{dataset.fault}".split())
        lines += textwrap.wrap(told, 110, break_long_words=False, break_on_hyphens=False)
    keys = [(dataset.keys, dataset.others) for dataset in choices.unusable if dataset.keys]
    n_keys = len(keys[0][0]) if keys else 0
    instead = " instead of the above" if choices.labels else ""
    what = "See whether the names below are right" if keys else "Mend that"
    lines.append(f'{what}, and remove the "# " of the next {2 + n_keys} lines{instead}.')
    lines += ["start_from:", f"  labels: {_files(every)}"]
    if keys:
        (names, others), *_ = keys
        for key, value in names:
            or_else = f"    # or {', '.join(others)}" if others and key == "energy_key" else ""
            lines.append(f"  {key}: {_flow(value)}{or_else}")
    return [f"# {line}" for line in lines]


def _flow(value: Any) -> str:
    """Write a value in one line of YAML."""
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(one)}" for key, one in value.items()) + "}"
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z./][\w./-]*", value) and value.lower() not in _WORDS
    return str(value) if plain else json.dumps(value)


#: Words that YAML does not take for words (NO, the molecule, is a boolean).
_WORDS = frozenset("y n yes no on off true false null nan inf".split())
