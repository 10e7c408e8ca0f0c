"""What a run file may start beside this program: the one list, for `run --dry-run` and docs/command-line.md."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlip_autopipec.settings import get_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlip_autopipec.runfile.model import RunFile


@dataclass(frozen=True)
class Start:
    """
    A field of a run file whose value is started.

    Parameters
    ----------
    field
        Its path; ``*`` stands for any keys between.
    what
        What is started, in words.
    """

    field: str
    what: str

    def found_in(self, content: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        """Iterate over the places in nested data that the field stands for, each with its value."""
        pattern = re.compile(re.escape(self.field).replace(r"\*", r".*") + r"$")
        todo: list[tuple[str, Any]] = [("", content)]
        while todo:
            where, value = todo.pop()
            if where and pattern.match(where):
                if value not in (None, "", [], {}):
                    yield where, value
            elif isinstance(value, dict):
                todo += [(f"{where}.{key}".lstrip("."), item) for key, item in value.items()]
            elif isinstance(value, (list, tuple)):
                todo += [(f"{where}.{number}", item) for number, item in enumerate(value)]


#: What the parameters of a static maker start.
_OF_MAKERS = (
    ("calculator_class", "a class of ASE calculators, of known packages"),
    ("maker_class", "a static maker, of atomate2 and known packages"),
    ("maker_kwargs.*@module", "a calculator that a maker imports, of known packages"),
    ("maker_kwargs.calculator_meta", "a calculator that a maker imports, of known packages"),
    ("*command", "a program of the oracle or the teacher"),
    ("*_cmd", "a program of the oracle or the teacher"),
    ("*profile", "a program of the oracle or the teacher"),
)
#: All of it. The programs that the environment of the machine names are not the run file's.
STARTS = (
    *(Start(f"{section}.maker.{field}", what) for section in ("oracle", "teacher") for field, what in _OF_MAKERS),
    Start("trainer.command", "a program that fits"),
    Start("trainer.input_sections.fit.callbacks", "Python functions that pacemaker calls"),
    Start("trainer.input_file", "an input of pacemaker, whose fit.callbacks name Python functions"),
    Start("dynamics.template", "an input of LAMMPS, which has the command shell"),
)


def started_by(campaign: RunFile) -> list[str]:
    """
    Tell what a run file starts beside this program.

    Returns
    -------
    list of str
        One line each: the field, its value, what is started. Empty where it is nothing.
    """
    content = {
        "oracle": campaign.oracle.model_dump(),
        "teacher": {} if campaign.teacher is None else campaign.teacher.model_dump(),
        "trainer": campaign.trainer.model_dump(),
        "dynamics": campaign.dynamics.model_dump(),
    }
    return [f"{where}: {value} ({start.what})" for start in STARTS for where, value in start.found_in(content)]


def started_by_environment(campaign: RunFile) -> list[str]:
    """Tell which programs of this machine the campaign starts, by the settings of the environment."""
    settings = get_settings()
    told = _engines(campaign)
    if campaign.trainer.kind == "pacemaker" and campaign.trainer.command is None:
        told.append(f"pacemaker: {settings.PACEMAKER_CMD or 'pacemaker'}")
    if campaign.oracle.kind == "espresso":
        told.append(f"Quantum ESPRESSO: {settings.ESPRESSO_CMD}")
    if campaign.oracle.kind == "atomate2":
        told.append("the code of the maker: as atomate2 is configured")
    if campaign.oracle.kind == "vasp":
        told.append("VASP: as atomate2 is configured")
    return told


def _engines(campaign: RunFile) -> list[str]:
    """Tell what MD runs with; nothing where the library was asked for, which this program has in itself."""
    from mlip_autopipec.lammps.executable import has_launcher
    from mlip_autopipec.lammps.exploration import engine_taken, needs_library
    from mlip_autopipec.structures.periodicity import boxed

    asked, grace = campaign.dynamics.engine, campaign.trainer.kind == "grace"
    if asked == "library":
        return []
    settings, command = campaign.maker().dynamics_maker.settings, get_settings().LAMMPS_CMD
    told = []
    for atoms in map(boxed, campaign.load_structures()):
        for condition in campaign.load_conditions():
            why = needs_library(asked, condition, settings, atoms, grace=grace)
            if not why and asked == "auto" and has_launcher():  # it may wait for a batch job
                told.append(f"LAMMPS: {command}; as a Python library, forces by pyace, if that lacks ML-PACE")
                continue
            engine, why = engine_taken(asked, condition, settings, atoms, grace=grace)
            library = f"LAMMPS as a Python library, forces by pyace ({why})"
            told.append(library if engine == "library" else f"LAMMPS: {command}")
    return list(dict.fromkeys(told))
