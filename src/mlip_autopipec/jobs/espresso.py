"""Quantum ESPRESSO: a static maker made of plain data, its program and pseudopotentials found on the worker."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.io.espresso import kspacing_to_grid

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.jobs.static import AseStaticMaker
from mlip_autopipec.kinds import Availability, OracleKind
from mlip_autopipec.oracle.code_settings import refused_settings
from mlip_autopipec.oracle.refused import refuse, switched_on
from mlip_autopipec.settings import get_settings, on_path
from mlip_autopipec.structures.periodicity import centre_of, goes_on_along

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator

    from mlip_autopipec.kinds import Material

#: What labels need: forces, stress, nothing kept on disk; no symmetry, so that a structure and the same one slightly
#: displaced are computed at the same k-points; smearing as narrow as in MatPES (0.05 eV), as hot frames close gaps.
LABEL_INPUT: dict[str, dict[str, Any]] = {
    "control": {"calculation": "scf", "tprnfor": True, "tstress": True, "disk_io": "none"},
    "system": {"nosym": True, "occupations": "smearing", "smearing": "gaussian", "degauss": 0.0037},
    "electrons": {"conv_thr": 1e-9},
}


#: Part of the cell over which the potential of the dipole correction jumps back.
_JUMP = 0.1


@dataclass
class EspressoStaticMaker(AseStaticMaker):
    """
    Single point with ``pw.x``, labelled with the free energy F = E - TS that its forces derive from.

    The command is ``MLIP_AUTOPIPEC_ESPRESSO_CMD`` on the worker (``pw.x``). An unconverged field is an error.

    Parameters
    ----------
    pseudopotentials
        File of each element.
    input_data
        Namelists of ``pw.x`` and their keywords, over :data:`LABEL_INPUT`; ``system: ecutwfc`` has to be given.
        ``control: {tefield: true, dipfield: true}`` asks for the dipole correction: direction and place of the jump are
        set for each slab, and other structures go without.
    kspacing
        Largest distance of k-points in 1/A, without the factor 2 pi (0.035 is VASP's KSPACING = 0.22). The same
        density for cells of any size and shape, and one k-point along vacuum.
    pseudo_dir
        Folder of the pseudopotentials; None takes ``MLIP_AUTOPIPEC_ESPRESSO_PSEUDO_DIR`` of the worker.
    """

    name: str = "Espresso static"
    pseudopotentials: dict[str, str] = field(default_factory=dict)
    input_data: dict[str, dict[str, Any]] = field(default_factory=dict)
    kspacing: float | None = 0.035
    pseudo_dir: str | None = None

    def files(self) -> dict[str, Path]:
        """Return the pseudopotential of each element, where it is on this machine."""
        folder = self.pseudo_dir or get_settings().ESPRESSO_PSEUDO_DIR
        files = {element: Path(folder or "") / file for element, file in self.pseudopotentials.items()}
        return {element: file for element, file in files.items() if folder is not None and file.is_file()}

    def missing(self) -> list[str]:
        """Say what is not on this machine, which may not be the one that labels, one line each."""
        settings = get_settings()
        folder, said = self.pseudo_dir or settings.ESPRESSO_PSEUDO_DIR, []
        if not on_path(settings.ESPRESSO_CMD):
            said.append(
                f"'{settings.ESPRESSO_CMD}' is not on PATH here, and labels need it: set MLIP_AUTOPIPEC_ESPRESSO_CMD"
            )
        if lacking := sorted(set(self.pseudopotentials.values()) - {file.name for file in self.files().values()}):
            where = f"in {folder}" if folder else "here: no folder is named"
            said.append(
                f"{', '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} not {where}, and labels need "
                "pseudopotentials: set pseudo_dir of the maker, or MLIP_AUTOPIPEC_ESPRESSO_PSEUDO_DIR"
            )
        return said

    def _get_calculator(self) -> Any:  # not a Calculator in ASE's types
        from ase.calculators.espresso import Espresso, EspressoProfile

        settings = get_settings()
        folder = self.pseudo_dir or settings.ESPRESSO_PSEUDO_DIR
        if folder is None:
            raise InvalidInputError(
                "EspressoStaticMaker has no folder of pseudopotentials; give pseudo_dir, or set "
                "MLIP_AUTOPIPEC_ESPRESSO_PSEUDO_DIR on the worker"
            )
        for element, file in self.pseudopotentials.items():
            if not (Path(folder) / file).is_file():
                raise InvalidInputError(f"pseudopotentials.{element}: there is no '{file}' in {folder}")
        given = {section.lower(): keywords for section, keywords in self.input_data.items()}
        if "ecutwfc" not in given.get("system", {}):
            raise InvalidInputError("input_data.system.ecutwfc (Ry) is missing; pw.x has no default for it")
        settings_of_pw = {**self.calculator_kwargs, "input_data": self.input_to_check()}
        refuse("Espresso", refused_settings("ase.calculators.espresso.Espresso", settings_of_pw))
        return Espresso(
            profile=EspressoProfile(settings.ESPRESSO_CMD, folder),
            pseudopotentials=dict(self.pseudopotentials),
            input_data={s: {**LABEL_INPUT.get(s, {}), **given.get(s, {})} for s in {**LABEL_INPUT, **given}},
            kspacing=self.kspacing,
            **self.calculator_kwargs,
        )

    def _calculate(self, atoms: Atoms, calculator: Calculator, name: str) -> Path:
        if missing := sorted(set(atoms.symbols) - set(self.pseudopotentials)):
            raise InvalidInputError.of("EspressoStaticMaker.pseudopotentials", f"has no file for {missing}")
        self.set_along_vacuum(atoms, calculator)
        return super()._calculate(atoms, calculator, name)

    def set_along_vacuum(self, atoms: Atoms, calculator: Any) -> None:
        """
        Set one k-point along vacuum, and the dipole correction of a slab where it is asked for.

        Parameters
        ----------
        atoms
            The structure.
        calculator
            ASE's; is changed.
        """
        goes_on = goes_on_along(atoms)
        if self.kspacing is not None and not goes_on.all():
            # ASE would put two and more along vacuum, which costs and tells nothing
            density = kspacing_to_grid(atoms, self.kspacing)
            calculator.parameters.pop("kspacing", None)
            calculator.parameters["kpts"] = tuple(n if on else 1 for n, on in zip(density, goes_on, strict=True))
        if not self._wants_dipole_correction():
            return
        # a copy: the maker has no part in what belongs to one structure
        data = {section: dict(keywords) for section, keywords in calculator.parameters["input_data"].items()}
        if goes_on.sum() != 2:
            for keyword in ("tefield", "dipfield"):
                data["control"].pop(keyword, None)
        else:
            axis = int(np.flatnonzero(~goes_on)[0])
            # the potential jumps back over a tenth of the cell, in the middle of the vacuum
            begin = (centre_of(atoms)[axis] + 0.5 - _JUMP / 2) % 1.0
            data["system"] |= {"edir": axis + 1, "emaxpos": round(float(begin), 6), "eopreg": _JUMP, "eamp": 0.0}
        calculator.parameters["input_data"] = data

    def input_to_check(self) -> dict[str, dict[str, Any]]:
        """Return the namelists with what is set for each slab: the dipole correction has no field of its own."""
        if not self._wants_dipole_correction():
            return self.input_data
        return {**self.input_data, "dipole correction": {"eamp": 0.0}}

    def _wants_dipole_correction(self) -> bool:
        """Whether tefield and dipfield are set, and nothing of a direction or a field."""
        given = {name.lower(): value for keywords in self.input_data.values() for name, value in keywords.items()}
        both = all(switched_on(given.get(name, False)) for name in ("tefield", "dipfield"))
        return both and "edir" not in given and not switched_on(given.get("eamp", 0.0))


def _look() -> Availability:
    settings = get_settings()
    folder = settings.ESPRESSO_PSEUDO_DIR
    if not on_path(settings.ESPRESSO_CMD):
        told = f"'{settings.ESPRESSO_CMD}' is not on PATH, set MLIP_AUTOPIPEC_ESPRESSO_CMD"
        return Availability("Quantum ESPRESSO", told)
    if folder is None or not Path(folder).is_dir():
        told = f"pw.x is here, set MLIP_AUTOPIPEC_ESPRESSO_PSEUDO_DIR to a folder (it is {folder})"
        return Availability("Quantum ESPRESSO", told)
    return Availability(f"Quantum ESPRESSO ({settings.ESPRESSO_CMD})")


def _values(material: Material) -> dict[str, Any]:
    """Return the pseudopotential of each element: the one in the folder of this machine, else a name to be edited."""
    folder = get_settings().ESPRESSO_PSEUDO_DIR
    there = sorted(path.name for path in Path(folder).glob("*")) if folder else []
    found = {}
    for element in material.elements:
        names = [name for name in there if name.lower().startswith((f"{element.lower()}.", f"{element.lower()}_"))]
        found[element] = names[0] if names else f"{element}.UPF"
    return {"pseudopotentials": found, "has_slabs": material.has_slabs}


KIND = OracleKind(
    maker="mlip_autopipec.jobs.espresso.EspressoStaticMaker",
    about="Quantum ESPRESSO",
    template="""\
  maker:                          # program and folder: MLIP_AUTOPIPEC_ESPRESSO_CMD, MLIP_AUTOPIPEC_ESPRESSO_PSEUDO_DIR
    pseudopotentials: {{ pseudopotentials | flow }}
    input_data:
      system: {ecutwfc: 40}       # Ry: converge it for your pseudopotentials
{% if has_slabs %}
      control: {tefield: true, dipfield: true}  # dipole correction of slabs. Leave it out if both sides are alike
{% endif %}
    kspacing: 0.035               # 1/A without 2 pi; VASP's KSPACING = 0.22
""",
    values=_values,
    isolated_atoms=True,
    look=_look,
    citations={r"espresso|\bpw(\.x)?\b": {"Giannozzi2009": "Quantum ESPRESSO", "Giannozzi2017": "Quantum ESPRESSO"}},
)
