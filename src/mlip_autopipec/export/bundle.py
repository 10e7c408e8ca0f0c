"""The folder of an exported potential."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ase.io
from ase import units
from jinja2 import Environment, StrictUndefined

from mlip_autopipec.database.validation import read_errors
from mlip_autopipec.errors import InvalidInputError, MLIPError
from mlip_autopipec.export.citations import citations
from mlip_autopipec.export.dataset import write_dataset
from mlip_autopipec.lammps import structures
from mlip_autopipec.lammps.cell import MDCell
from mlip_autopipec.seeds import SeedPurpose, derive_seed
from mlip_autopipec.structures.frozen import frozen_atoms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms

    from mlip_autopipec.database.campaigns import Campaigns
    from mlip_autopipec.schemas.campaign import CampaignDocument
    from mlip_autopipec.schemas.loop import OTFDocument
    from mlip_autopipec.schemas.potential import Errors, LeftOutErrors, PotentialDocument

#: Purpose of the seed of the velocities in the examples; those of the loop are in ``jobs/base.py``.
#: Template, and where it goes.
_TEMPLATES = {
    "README.md": "README.md",
    "example.py": "example.py",
    "in.lammps": "lammps/in.lammps",
    "run_without_mlpace.py": "lammps/run_without_mlpace.py",
    "for_pacemaker.py": "dataset/for_pacemaker.py",
}
_EXAMPLE: dict[str, Any] = {
    "timestep_fs": 1.0,
    "thermostat_damping_fs": 100.0,
    "barostat_damping_fs": 1000.0,
    "gamma_hi": 10.0,
    "ensemble": "nvt",
    "barostat": "isotropic",
}


def write_export(folder: Path, campaigns: Campaigns, campaign_id: str) -> list[Path]:
    """
    Write a campaign's last potential with everything others need to use it.

    Parameters
    ----------
    folder
        Where to; it must not be there, or be empty.
    campaigns
        Where the campaign is stored.
    campaign_id
        Which one.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    InvalidInputError
        The folder holds something already.
    MLIPError
        There is no such campaign, or it has no potential.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInputError(f"'{folder}' is there already, and nothing is overwritten; name another folder")
    status, final = campaigns.status(campaign_id), campaigns.potential(campaign_id)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # written as a whole or not at all: an incomplete export could be mistaken for a complete one
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _write(part, campaigns, status, final)
        part.chmod(0o755)
        part.replace(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _write(folder: Path, campaigns: Campaigns, status: OTFDocument, final: PotentialDocument) -> None:
    task = campaigns.task(status.campaign_id)
    records = campaigns.oracle_records(status.campaign_id)
    potential = final.to_potential()
    if not potential.active_set_inverse:
        raise MLIPError(f"the potential of campaign '{status.campaign_id}' has no active set; nothing would tell gamma")
    potential.write(folder / "potential")
    trained_on = {label.uuid for label in campaigns.trained_on(final.uuid)}
    labels = campaigns.dataset(status.campaign_id, with_outliers=True)
    parts = write_dataset(folder / "dataset", labels, trained_on, campaigns.outliers(status.campaign_id))
    structures_of_md = task.structures()
    atoms = structures_of_md[0]
    ase.io.write(folder / "structure.extxyz", atoms, format="extxyz")
    (folder / "lammps").mkdir()
    structures.write_structure(folder / "lammps/structure.data", atoms, potential.elements)
    oracle = ", ".join(" ".join(filter(None, [r.code, r.version, r.functional])) for r in records) or task.oracle
    kinds = sorted({str(a.info["energy_kind"]) for a in labels if a.info.get("energy_kind")})
    compared = campaigns.comparison(status.campaign_id)
    references = {element: float(e) for element, e in final.reference_energies_eV.items()}
    errors: dict[str, Errors | LeftOutErrors | None] = {"training set": final.train, "held-out set": final.test}
    if status.check is not None and status.check.potential_id == final.uuid:
        errors["halt-free MD, not trained on"] = status.check.errors
    elif status.check is not None and status.check.delivered_id == final.uuid:
        errors["halt-free MD, each frame left out of the fit"] = status.check.learnt
    if (validated := read_errors(campaigns.store, status.campaign_id, final.uuid)) is not None:
        errors["MD of the oracle itself"] = validated.errors
    values: dict[str, Any] = {
        **_settings(task, status),
        "campaign_id": status.campaign_id,
        "status": str(status.status),
        "why": " ".join(status.why.split()),
        "version": version("mlip-autopipec"),
        "python_ace": _version("python-ace"),
        "kind": "GRACE-FS potential" if potential.is_grace else "Atomic cluster expansion (ACE)",
        "grace": potential.is_grace,
        "elements": potential.elements,
        "formula": atoms.get_chemical_formula(),
        "formulas": ", ".join(task.formulas),
        "temperature_K": task.conditions[0].temperature_K,
        "thrown_away": status.walks_thrown_away(),
        "conditions": explored_at(task, _dynamics(task)["ensemble"]),
        **_ensemble(task, atoms, potential.cutoff),
        **_frozen(structures_of_md),
        "seed": task.seed,
        "example_seed": derive_seed(task.seed, SeedPurpose.EXAMPLE),
        "cutoff_A": potential.cutoff,
        "functions": ", ".join(f"{element} {n}" for element, n in final.n_functions.items()),
        "n_train": final.n_train,
        "n_test": final.n_test,
        "oracle": oracle or "not known",
        "teacher": campaigns.told_teacher(final),
        "errors": [(name, e) for name, e in errors.items() if e is not None],
        "sha256": final.sha256,
        "reference_energies": references,
        "energy_kinds": " and ".join(kinds) or "of unknown kind",
        "shift": "" if compared is None else compared.describe_shift(),
        "datasets": parts,
        "has_isolated": any(part.name == "isolated_atoms" for part in parts),
    }
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)  # noqa: S701 no HTML
    environment.keep_trailing_newline = True
    for name, place in _TEMPLATES.items():
        text = (files("mlip_autopipec.export") / "templates" / f"{name}.j2").read_text(encoding="utf-8")
        (folder / place).write_text(environment.from_string(text).render(values), encoding="utf-8")
    (folder / "CITATION.bib").write_text(citations(records, task.oracle, grace=potential.is_grace), encoding="utf-8")
    recorded = {
        **task.model_dump(mode="json", exclude={"payload"}),
        "status": str(status.status),
        "why": status.why,
        "maker": json.loads(task.payload.get("maker") or "null"),
        "oracle_records": [asdict(record) for record in records],
        "potential": final.model_dump(mode="json", exclude={"payload", "graded", "fit"}),
    }
    (folder / "campaign.json").write_text(json.dumps(recorded, indent=2, default=str) + "\n")


def explored_at(task: CampaignDocument, ensemble: str) -> str:
    """Tell temperatures and, where a barostat held it, the pressure of a campaign's MD; else that volumes were kept."""
    told = []
    for c in task.conditions:
        kelvin = f"{c.temperature_K:g}" + (f" to {c.temperature_end_K:g}" if c.temperature_end_K is not None else "")
        told.append(f"{kelvin} K" + (f" and {c.pressure_GPa:g} GPa" if ensemble == "npt" else ""))
    kept = "" if ensemble == "npt" else ", at the volume of each cell"
    return f"{', '.join(told)} ({ensemble.upper()}{kept})"


def _dynamics(task: CampaignDocument) -> dict[str, Any]:
    """Return the settings of the campaign's MD, with those of an example where it recorded none."""
    maker = json.loads(task.payload.get("maker") or "{}")
    found = (maker.get("dynamics_maker") or {}).get("settings") or {}
    return {**_EXAMPLE, **{name: value for name, value in found.items() if value}}


def _ensemble(task: CampaignDocument, atoms: Atoms, cutoff_A: float) -> dict[str, Any]:
    """Return what the LAMMPS input needs to run in the campaign's own ensemble."""
    found, pressure = _dynamics(task), task.conditions[0].pressure_GPa
    kind, damping_ps = str(found["barostat"]), 1e-3 * float(found["barostat_damping_fs"])
    return {
        "ensemble": found["ensemble"],
        "pressure_GPa": pressure,
        "triclinic": found["ensemble"] == "npt" and kind == "triclinic",
        # LAMMPS' units are bar
        "barostat_words": MDCell.of(atoms, cutoff_A).barostat(kind, pressure * units.GPa / units.bar, damping_ps),
    }


def _frozen(structures_of_md: Sequence[Atoms]) -> dict[str, Any]:
    """Return what the examples need to let those atoms rest that did so in MD of the campaign."""
    still = [index + 1 for index in frozen_atoms(structures_of_md[0]).tolist()]
    told = [
        f"{n} of {len(atoms)} atoms of {atoms.get_chemical_formula()}"
        for atoms in structures_of_md
        if (n := len(frozen_atoms(atoms)))
    ]
    return {
        "frozen_ids": " ".join(map(str, still)),
        "frozen": ", ".join(dict.fromkeys(told)),
        "movers": "mobile" if still else "all",
        # thermo_style forgets it
        "thermometer": " temp mobile_temp" if still else "",
    }


def _settings(task: CampaignDocument, status: OTFDocument) -> dict[str, float]:
    """Return time step, damping and threshold as the campaign's own MD had them, for the examples."""
    found = _dynamics(task)
    high = float(found["gamma_hi"]) if status.gamma_thresholds is None else status.gamma_thresholds[1]
    return {
        "timestep_fs": float(found["timestep_fs"]),
        "timestep_ps": 1e-3 * float(found["timestep_fs"]),
        "damping_ps": 1e-3 * float(found["thermostat_damping_fs"]),
        "gamma_hi": high,
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
