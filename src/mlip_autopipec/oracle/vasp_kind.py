"""What the package asks about VASP as an oracle of a run file, without importing what runs it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlip_autopipec.kinds import Availability, OracleKind
from mlip_autopipec.settings import on_path

if TYPE_CHECKING:
    from mlip_autopipec.kinds import Material


def _look() -> Availability:
    from atomate2 import SETTINGS
    from pymatgen.core import SETTINGS as PMG

    if not on_path(SETTINGS.VASP_CMD):
        told = f"'{SETTINGS.VASP_CMD}' is not on PATH, set VASP_CMD of atomate2 (docs/vasp.md)"
        return Availability("VASP", told)
    if not Path(str(PMG.get("PMG_VASP_PSP_DIR") or "")).is_dir() or not PMG.get("PMG_VASP_PSP_DIR"):
        return Availability("VASP", "no POTCARs, set PMG_VASP_PSP_DIR of pymatgen (docs/vasp.md)")
    return Availability(f"VASP ({SETTINGS.VASP_CMD})")


def _values(material: Material) -> dict[str, Any]:
    return {"potcar": {element: element for element in material.elements}, "has_slabs": material.has_slabs}


KIND = OracleKind(
    maker="mlip_autopipec.oracle.vasp.vasp_static_maker",
    atom_maker="mlip_autopipec.oracle.vasp.isolated_atom_maker",
    about="VASP through atomate2; MatPES PBE unless told otherwise",
    template="""\
  # maker: {incar: {ENCUT: 520}, potcar: {{ potcar | flow }}}   # other settings than MatPES PBE; see docs/vasp.md
{% if has_slabs %}
  maker: {incar: {LDIPOL: true}}  # dipole correction of slabs. Leave it out if both sides are alike
{% endif %}
""",
    values=_values,
    isolated_atoms=True,
    look=_look,
    citations={
        "vasp": {"Kresse1996a": "VASP", "Kresse1996b": "VASP", "Kresse1999": "its projector augmented-wave potentials"}
    },
)
