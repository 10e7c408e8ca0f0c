"""The sections of a user's own ``input.yaml``: what pacemaker knows, and what belongs to the loop."""

from __future__ import annotations

import difflib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import yaml

from mlip_autopipec.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlip_autopipec.potentials.basis import BasisSettings

#: Sections of an ``input.yaml`` that may be given.
SECTIONS = ("metadata", "potential", "data", "fit", "backend", "weighting")
#: pacemaker's optimisers that train energies and forces to the end.
OPTIMIZERS = ("BFGS", "L-BFGS-B", "CG")
# what pacemaker reads in these sections; it ignores the rest without a word
_KEYS = {
    "fit": (
        *("loss", "optimizer", "options", "maxiter", "weighting", "repulsion", "trainable_parameters", "callbacks"),
        *("fit_cycles", "noise_relative_sigma", "noise_absolute_sigma", "randomize_func_coeffs"),
        *("ladder_step", "ladder_type", "early_stopping_patience"),
        *("min_relative_train_loss_per_iter", "min_relative_test_loss_per_iter"),
    ),
    "fit.loss": ("kappa", "L1_coeffs", "L2_coeffs", "w0_rad", "w1_rad", "w2_rad", "w_orth"),
    "backend": (
        *("evaluator", "batch_size", "batch_size_reduction", "batch_size_reduction_factor", "display_step"),
        *("gpu_config", "n_workers", "parallel_mode"),
    ),
}
# key of pacemaker -> what to use instead
_OURS = {
    "seed": "the campaign's seed, from which each fit's is derived",
    "cutoff": "rcut of the potential section; pacemaker ignores a cutoff at the top",
    "data.filename": "labels: the loop writes the data files",
    "data.test_filename": "labels with split 'test'; the first dataset holds some out (n_test)",
    "data.test_size": "labels with split 'test'; the first dataset holds some out (n_test). pacemaker would draw "
    "other labels in every cycle and train on what was held out",
    "data.datapath": "labels: the loop writes the data files",
    "data.reference_energy": "reference_energies of the trainer; pacemaker would take them off once more",
    "potential.filename": "initial_potential (start_from.potential in a run file)",
    "potential.initial_potential": "initial_potential (start_from.potential in a run file)",
    "potential.reset": "refit_every: a refit from reset coefficients every so many cycles",
}
_UNTRAINABLE = "it trains energies only, leaves no potential, or is unknown to pacemaker's tensorpot"


class WithoutStress:
    """A trainer that has no stress in its loss, and says so."""

    fits_stress: ClassVar[bool] = False

    def __new__(cls, *args: object, **settings: object) -> Self:  # noqa: ARG004 that __init__ reads
        """Refuse the worth of a stress, which other trainers have."""
        if "stress_GPa" in settings:
            raise InvalidInputError.of(
                f"{cls.__name__}.stress_GPa",
                "is given, but pacemaker has no stress in its loss. Leave it out, or use LinearACETrainer or "
                "GRACEFSTrainer; labels of strained cells teach stresses through their energies, too",
            )
        return super().__new__(cls)


def read_input_file(path: str | Path) -> dict[str, Any]:
    """
    Read the sections of an ``input.yaml``, without the keys that name the user's data files.

    The loop writes the data files of each fit, so ``data.filename`` and ``data.datapath`` of a
    file written for pacemaker alone mean nothing here, and so does its ``seed``; all else is
    taken or refused as in ``input_sections``.

    Raises
    ------
    InvalidInputError
        If the file is not there or is no YAML mapping.
    """
    file = Path(path)
    if not file.is_file():
        raise InvalidInputError(f"input_file '{file}' does not exist; give the input.yaml you would give pacemaker")
    try:
        content = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise InvalidInputError(f"input_file '{file}' is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise InvalidInputError(
            f"input_file '{file}' holds {type(content).__name__}, not the sections of an input.yaml"
        )
    sections = {key: value for key, value in content.items() if key != "seed"}
    if isinstance(sections.get("data"), dict):
        sections["data"] = {k: v for k, v in sections["data"].items() if k not in ("filename", "datapath")}
    elif isinstance(sections.get("data"), str):
        del sections["data"]
    return sections


def check_sections(sections: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the sections if pacemaker and the loop can both live with them.

    A ``weighting`` at the top is moved to ``fit``, where pacemaker reads it.

    Raises
    ------
    InvalidInputError
        For a section that pacemaker would silently ignore, and for a key that belongs to the
        loop; it says what to use instead.
    """
    checked: dict[str, Any] = {}
    for name, content in sections.items():
        _refuse_ours(name, content)
        if name not in SECTIONS:
            near = difflib.get_close_matches(str(name), SECTIONS, n=1, cutoff=0.0)[0]
            raise InvalidInputError(
                f"input_sections holds '{name}', which pacemaker does not know and would ignore; did you mean "
                f"'{near}'? Sections are {', '.join(SECTIONS)}"
            )
        if not isinstance(content, dict):
            if name == "potential":
                raise InvalidInputError(
                    f"input_sections.potential is {content!r}; a potential to start from is given as "
                    f"{_OURS['potential.filename']}, and the section describes a basis"
                )
            raise InvalidInputError(f"input_sections.{name} is {content!r}; it has to hold keys and values")
        for key in content:
            _refuse_ours(f"{name}.{key}", content[key])
        checked[name] = content
    if "weighting" in checked:
        if "weighting" in checked.get("fit", {}):
            raise InvalidInputError("input_sections holds 'weighting' twice, at the top and under fit; leave one")
        checked["fit"] = {**checked.get("fit", {}), "weighting": checked.pop("weighting")}
    _check_fit(checked.get("fit", {}))
    for name, content in (
        ("fit", checked.get("fit", {})),
        ("fit.loss", checked.get("fit", {}).get("loss", {})),
        ("backend", checked.get("backend", {})),
    ):
        for key in set(content) - set(_KEYS[name]):
            # another version of pacemaker may know more keys; one that is nearly right is a typing error
            if alike := difflib.get_close_matches(str(key), _KEYS[name], n=1, cutoff=0.8):
                raise InvalidInputError(
                    f"input_sections.{name} holds '{key}', which pacemaker would ignore; did you mean '{alike[0]}'?"
                )
    return checked


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested dictionaries; ``over`` wins."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def with_section(basis: BasisSettings, potential: dict[str, Any]) -> BasisSettings:
    """Return the basis with the user's potential section, its one home."""
    names = (
        "number_of_functions_per_element",
        "cutoff",
        "nradmax_by_orders",
        "lmax_by_orders",
        "radial_parameters",
        "potential_section",
    )
    if twice := [name for name in names if getattr(basis, name) is not None]:
        raise InvalidInputError(
            f"the basis is described twice, by input_sections.potential and by basis.{twice[0]}; leave one of them"
        )
    described = replace(basis, potential_section=potential)
    given = potential.get("elements", potential.get("element"))
    if given is not None:
        described.section([given] if isinstance(given, str) else given)
    return described


def check_optimizer(optimizer: object, field: str = "PacemakerTrainer.input_sections.optimizer") -> None:
    """Refuse an optimiser with which pacemaker does not train forces, or loses the potential."""
    if optimizer not in OPTIMIZERS:
        raise InvalidInputError.of(field, f"is {optimizer!r}: {_UNTRAINABLE}; use one of {', '.join(OPTIMIZERS)}")


def _refuse_ours(key: str, value: object) -> None:
    if key in _OURS:
        raise InvalidInputError(f"input_sections holds '{key}: {value}', which belongs to the loop; use {_OURS[key]}")


def _check_fit(fit: Mapping[str, Any]) -> None:
    if "optimizer" in fit:
        check_optimizer(fit["optimizer"])
    for key in ("maxiter", "fit_cycles"):
        if not isinstance(fit.get(key, 1), int) or fit.get(key, 1) < 1:
            raise InvalidInputError(f"fit.{key} is {fit[key]!r}; with less than 1 nothing is trained")
    for key in ("loss", "options"):
        if not isinstance(fit.get(key, {}), dict):
            raise InvalidInputError(f"fit.{key} is {fit[key]!r}; it has to hold keys and values")
    weighting = fit.get("weighting") or {}
    if isinstance(weighting, dict) and weighting.get("type") == "ExternalWeightingPolicy":
        raise InvalidInputError(
            "fit.weighting is ExternalWeightingPolicy, a table for one fixed dataset; the loop's dataset grows. "
            "Use new_label_weight, or EnergyBasedWeightingPolicy"
        )
