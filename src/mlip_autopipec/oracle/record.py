"""What a label was computed with, and a fingerprint of it that does not depend on the structure."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from ase.data import atomic_numbers
from monty.json import jsanitize

from mlip_autopipec.moved import first_name

#: Fields of makers that do not decide the result, by the class that has them: how a calculation is run, watched, read
#: or stored; or, of a relaxation, how ions move, which those of single points do not. All other fields are physics.
NOT_PHYSICS: dict[str, frozenset[str]] = {
    "atomate2.ase.jobs.AseMaker": frozenset(["ionic_step_data", "store_trajectory", "tags"]),
    "atomate2.ase.jobs.AseRelaxMaker": frozenset(["steps", "relax_kwargs", "optimizer_kwargs"]),
    "atomate2.forcefields.jobs.ForceFieldRelaxMaker": frozenset(["task_document_kwargs"]),
    **{
        f"atomate2.{code}.jobs.base.Base{maker}Maker": frozenset(
            [
                "write_input_set_kwargs",
                f"copy_{code}_kwargs",
                f"run_{code}_kwargs",
                "task_document_kwargs",
                "stop_children_kwargs",
                "write_additional_data",
                "store_output_data",
            ]
        )
        for code, maker in (
            ("vasp", "Vasp"),
            ("cp2k", "Cp2k"),
            ("abinit", "Abinit"),
            ("aims", "Aims"),
            ("qchem", "QC"),
            ("jdftx", "Jdftx"),
            ("lammps", "Lammps"),
        )
    },
}
#: Files that atomate2 writes beside the input and no code reads.
_NOTES = frozenset(["transformations.json"])
#: Kinds of custodian's jobs that run a code once, with the input that was written.
_ONE_RUN = frozenset(["None", "normal", "direct"])
#: Arguments of custodian's jobs that change the input.
_CHANGES_INPUT = frozenset(["settings_override", "auto_continue", "update_incar", "copy_magmom", "restart"])
#: The maker whose calculator says all, so its class is in no key.
_ANY_CALCULATOR = "mlip_autopipec.oracle.static.CalculatorStaticMaker"


@dataclass(frozen=True)
class OracleRecord:
    """
    The level of theory of one label.

    Parameters
    ----------
    code
        ``VASP``, or the class of the maker or calculator.
    sha256
        Of code, functional, settings and k-points. It does not depend on the structure, so all labels of a
        campaign that were computed alike share it. ``potentials`` are left out because they do:
        see :meth:`conflicts`.
    version
        Of the code.
    functional
        Exchange and correlation, e.g. ``PBE``.
    settings
        What decides the result: INCAR keys without those of parallelisation, output and the way to
        self-consistency, or the parameters of the calculator.
    kspacing_1_A
        Density of k-points in 1/Angstrom (VASP's KSPACING), where the mesh was made from it.
    kpoints
        The mesh, where it was given as such: ``Gamma 4 4 4``.
    potentials
        Pseudopotential of each element: its title, and its hash where known.
    """

    code: str
    sha256: str
    version: str | None = None
    functional: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    kspacing_1_A: float | None = None
    kpoints: str | None = None
    potentials: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        code: str,
        settings: dict[str, Any],
        *,
        functional: str | None = None,
        kspacing_1_A: float | None = None,
        kpoints: str | None = None,
        version: str | None = None,
        potentials: dict[str, str] | None = None,
    ) -> OracleRecord:
        """Make a record with its fingerprint; the values of ``settings`` have to be normalised already."""
        settings = storable(settings)
        essence = {
            "code": code,
            "functional": functional,
            "settings": settings,
            "kspacing_1_A": kspacing_1_A,
            "kpoints": kpoints,
        }
        digest = hashlib.sha256(json.dumps(essence, sort_keys=True).encode()).hexdigest()
        return cls(code, digest, version, functional, settings, kspacing_1_A, kpoints, potentials or {})

    def conflicts(self, other: OracleRecord) -> list[str]:
        """
        Tell why labels of both records must not be trained on together.

        Returns
        -------
        list of str
            One line per difference; empty if both are of one level of theory. Elements that only one of them holds
            are no difference.
        """
        found = []
        if self.sha256 != other.sha256:
            pairs: list[tuple[str, Any, Any]] = [
                (name, getattr(self, name), getattr(other, name))
                for name in ("code", "functional", "kspacing_1_A", "kpoints")
            ]
            keys = sorted({*self.settings, *other.settings})
            pairs += [(key, self.settings.get(key), other.settings.get(key)) for key in keys]
            found += [f"{name}: {a} and {b}" for name, a, b in pairs if not _agree(a, b)]
        for element in sorted({*self.potentials} & {*other.potentials}):
            mine, theirs = self.potentials[element], other.potentials[element]
            if mine != theirs:
                found.append(f"potential of {element}: {mine} and {theirs}")
        return found


def _agree(a: Any, b: Any) -> bool:
    """Whether two settings are one; those given by element where both have the element."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() | b.keys() <= atomic_numbers.keys():
        return all(a[key] == b[key] for key in a.keys() & b.keys())
    return bool(a == b)


def maker_record(maker: Any, potentials: dict[str, str] | None = None) -> OracleRecord:
    """
    Make the record of a maker whose documents do not say what they were computed with.

    Parameters
    ----------
    maker
        An atomate2 static maker, for example of an ASE calculator. Its class and those of its parts go by the names
        they were first published with.
    potentials
        What the files hold that it reads (:func:`~mlip_autopipec.oracle.inputs.files_read`).
    """
    content = jsanitize(maker.as_dict(), strict=False, recursive_msonable=True)
    left_out = {"name"}.union(*(NOT_PHYSICS.get(class_name(cls), ()) for cls in type(maker).__mro__))
    settings = {
        key: _normal(value) for key, value in content.items() if not key.startswith("@") and key not in left_out
    }
    settings.update(beside_the_input(maker))
    name = class_name(type(maker))
    calculator = settings.pop("calculator_class", None)
    if calculator and name != _ANY_CALCULATOR:  # what derives from it may do something else with the calculator
        settings["maker"] = name
    return OracleRecord.of(calculator or name, settings, potentials=potentials)


def class_name(cls: type) -> str:
    """Return the import path a class was first published with."""
    return f"{first_name(cls.__module__)}.{cls.__qualname__}"


def beside_the_input(maker: Any) -> dict[str, Any]:
    """
    Return what changes the calculation of an atomate2 maker beside its input set.

    Files that it writes on top (``write_additional_data``), and changes that custodian's job makes before it runs the
    code (``run_vasp_kwargs``, ``run_cp2k_kwargs`` ...).

    Parameters
    ----------
    maker
        Of any package.

    Returns
    -------
    dict
        Plain data by name; empty for a maker that does none of this.
    """
    left_out = {name for cls in type(maker).__mro__ for name in NOT_PHYSICS.get(class_name(cls), ())}
    found: dict[str, Any] = {}
    for name in sorted(left_out):
        value = getattr(maker, name, None)
        if not isinstance(value, dict):
            continue
        if name == "write_additional_data":
            kept = {file: data for file, data in value.items() if file.replace(":", ".") not in _NOTES}
        elif name.startswith("run_"):
            kept = {key: told for key, told in value.items() if key == "job_type" and _job_type(told) not in _ONE_RUN}
            for arguments in (told for key, told in value.items() if key.endswith("_job_kwargs") and told):
                kept |= {key: told for key, told in arguments.items() if key in _CHANGES_INPUT and told}
        else:
            continue
        if kept:
            found[name] = _normal(jsanitize(kept, recursive_msonable=True))
    return found


def _job_type(told: Any) -> str:
    return str(getattr(told, "value", told))


def storable(value: Any) -> Any:
    """Make keys what a database takes: without dots (written as a colon, as atomate2 does) and leading dollars."""
    if isinstance(value, dict):
        return {str(key).replace(".", ":").lstrip("$"): storable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [storable(item) for item in value]
    return value


def _normal(value: Any) -> Any:
    """Leave out versions, and name classes as they were first named."""
    if isinstance(value, dict):
        plain = {key: _normal(item) for key, item in value.items() if key != "@version"}
        if isinstance(module := plain.get("@module"), str):
            plain["@module"] = first_name(module)
        return plain
    return [_normal(item) for item in value] if isinstance(value, list) else value
