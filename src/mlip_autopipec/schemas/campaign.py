"""What a campaign was asked to do: enough to begin it again, continue it or extend it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from ase import Atoms
from pydantic import Field

from mlip_autopipec.frames import pack_frames, unpack_frames
from mlip_autopipec.lammps.types import Condition
from mlip_autopipec.schemas.base import WithPayload

#: Packages whose versions decide the numbers of a campaign.
_PACKAGES = (
    "mlip-autopipec",
    "atomate2",
    "jobflow",
    "pymatgen",
    "ase",
    "numpy",
    "lammps",
    "python-ace",
    "tensorpotential",
    "tensorflow",
)


class CampaignDocument(WithPayload):
    """
    The task of a campaign, written before anything is computed.

    An extension leaves a further document with the same ``campaign_id`` and the next ``generation``.

    ``payload``: ``structures`` (packed; the cells MD starts in), ``maker`` (the OTFMaker as JSON).
    """

    kind: Literal["campaign"] = "campaign"
    generation: int = Field(1, description="1 as first made; one more for each extension or new beginning.")
    name: str = Field("", description="Name of the maker.")
    elements: list[str] = Field(description="Elements, alphabetical.")
    formulas: list[str] = Field(description="Chemical formulas of the structures MD starts in.")
    conditions: list[Condition] = Field(description="Temperatures and pressures; each structure is run at each.")
    n_given_labels: int = Field(0, description="Labels the user brought along.")
    given_potential: bool = Field(False, description="Whether the user brought a potential along.")
    seed: int = Field(0, description="Everything random is derived from it.")
    oracle: str = Field("", description="Class of the maker that labels.")
    trainer: str = Field("", description="Class of the trainer.")
    versions: dict[str, str] = Field(default_factory=dict, description="Versions of packages, where it was recorded.")
    created_at: str = Field("", description="When it was recorded, UTC, ISO 8601.")

    @classmethod
    def of(
        cls, frames: Sequence[Atoms], conditions: Sequence[Condition], campaign_id: str, **fields: object
    ) -> CampaignDocument:
        """Make the document of structures and conditions."""
        return cls.model_validate(
            {
                "campaign_id": campaign_id,
                "elements": sorted({s for atoms in frames for s in atoms.get_chemical_symbols()}),
                "formulas": [atoms.get_chemical_formula() for atoms in frames],
                "conditions": list(conditions),
                "payload": {"structures": pack_frames(frames)},
                **fields,
            }
        )

    def structures(self) -> list[Atoms]:
        """Return the cells MD starts in."""
        return unpack_frames(self.payload["structures"])


def installed_versions() -> dict[str, str]:
    """Return the versions of the packages here that decide the numbers of a campaign."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def now_utc() -> str:
    """Return the present time, UTC, ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
