"""How large and how small the numbers of a run file may be: beyond, a program hangs, crashes or means nothing."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlip_autopipec.runfile.errors import Loc


class Limit(NamedTuple):
    """
    The range of a number.

    Parameters
    ----------
    field
        Regular expression of the path of the field, dots between keys, list indices left out.
    low, high
        Smallest and largest value that is allowed.
    unit
        Of the value.
    """

    field: str
    low: float
    high: float
    unit: str = ""


#: The first that fits a field holds. No physics is near them; what is unusual is told by cli/cautions.py.
LIMITS = (
    Limit(r"(.*\.)?seed", -(2**63), 2**63 - 1),
    Limit(r"structures\.repeat", 1, 1000),
    Limit(r"structures\.frozen", 0, 10**7),
    Limit(r".*temperature\w*_K", 1e-3, 1e5, "K"),
    Limit(r".*pressure_GPa", -1e4, 1e4, "GPa"),
    Limit(r".*timestep_fs", 1e-4, 100, "fs"),
    Limit(r".*_fs", 1e-4, 1e7, "fs"),
    Limit(r".*volume_limit_A3", 1, 1e10, "A^3"),
    Limit(r".*\.(cutoff|pair_cutoff|longest)", 0.5, 20, "A"),
    Limit(r".*\.(min_width|vacuum)", 0, 200, "A"),
    Limit(
        r".*\.(rattle_amplitudes|displacement_sigma|displacement|hessian_displacement|max_mode_displacement)", 0, 3, "A"
    ),
    Limit(r".*\.(volume_window|density_range)", 0.05, 20),
    Limit(r".*_ratio", 0, 10),
    Limit(r".*\.core_margin", -10, 10, "A"),
    Limit(r".*\.(test_fraction|max_failed_fraction|quantile|kappa|volume_span)", 0, 1),
    Limit(r"selection\.n_max|validation\.(n_frames|interval_steps)", 1, 10**9),
    Limit(r"trainer\.(maxiter|fine_tune_maxiter|batch_size|refit_every|processes)", 1, 10**7),
    Limit(r"trainer\.(basis\.number_of|max)_functions_per_element", 1, 10**5),
    Limit(r"trainer\.basis\.nradmax_by_orders", 0, 100),
    Limit(r"trainer\.basis\.lmax_by_orders", 0, 30),
    Limit(r"trainer\.basis\.(ndensity|radial_functions|embedding_size)", 1, 1000),
    Limit(r"trainer\.(ridge|dimer_weight|new_label_weight|L\d_coeffs)", 0, 1e9),
    Limit(
        r"trainer\.(energy_weight|force_weight|energy_meV_atom|forces_meV_A|stress_GPa|soft_energy_eV_atom)", 1e-9, 1e9
    ),
    Limit(r"trainer\.max_us_per_atom_step", 1e-3, 1e9, "us"),
    Limit(r"first_dataset\.(n_structures|n_test|n_pieces|n_pair_structures)", 0, 10**5),
    Limit(r"first_dataset\.max_atoms|candidates\.max_mode_atoms", 1, 10**6),
    Limit(r"candidates\.(n_samples|n_modes)", 1, 10**4),
    Limit(r"dynamics\.gamma_\w+", 0, 1e15),
    Limit(r".*", -2e9, 2e9),
)
_COMPILED = [(re.compile(limit.field), limit) for limit in LIMITS]
#: Sections of arguments of others' functions: their numbers have to be finite, and mean what those say.
_FREE = ("oracle.maker", "structures.bulk", "trainer.input_sections")
#: Most entries of a list; a campaign of more walkers is several campaigns.
MOST_ENTRIES = 1000
_LONG = ("structures.frozen",)


def beyond_limits(content: BaseModel) -> Iterator[tuple[Loc, str]]:
    """
    Iterate over the numbers of a run file that are out of range, and the lists that are too long.

    Parameters
    ----------
    content
        The run file.

    Yields
    ------
    tuple
        Location, and what is wrong there.
    """
    todo: list[tuple[Loc, Any]] = [((), content)]
    while todo:
        loc, value = todo.pop()
        if isinstance(value, BaseModel):
            todo += [((*loc, name), getattr(value, name)) for name in type(value).model_fields]
        elif isinstance(value, dict):
            todo += [((*loc, str(name)), item) for name, item in value.items()]
        elif isinstance(value, (list, tuple)):
            path = _path(loc)
            if len(value) > MOST_ENTRIES and not path.startswith(_LONG):
                yield loc, f"has {len(value)} entries; {MOST_ENTRIES} are the most. Divide the campaign"
            else:
                todo += [((*loc, number), item) for number, item in enumerate(value)]
        elif isinstance(value, (int, float)) and (what := _wrong(_path(loc), value)):
            yield loc, what


def _path(loc: Loc) -> str:
    return ".".join(str(part) for part in loc if not isinstance(part, int))


def _wrong(path: str, value: float) -> str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return f"is {value}; give a finite number"
    if isinstance(value, bool) or path.startswith(_FREE):
        return None
    limit = next(limit for pattern, limit in _COMPILED if pattern.fullmatch(path))
    if limit.low <= value <= limit.high:
        return None
    unit = f" {limit.unit}" if limit.unit else ""
    return f"is {value:g}; give a number between {limit.low:g} and {limit.high:g}{unit}"
