"""atomate2's powerups reach the labels: through makers and flows, also those of later cycles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ase.build import bulk
from atomate2.vasp.powerups import (
    update_user_incar_settings,
    update_user_kpoints_settings,
    update_user_potcar_settings,
    update_vasp_custodian_handlers,
)
from custodian.vasp.handlers import StdErrHandler
from jobflow import Flow
from monty.json import MontyDecoder, MontyEncoder
from pymatgen.io.ase import AseAtomsAdaptor
from pymatgen.io.vasp import Incar, Kpoints
from vasp_worker import run_part

from mlip_autopipec.jobs.label import OracleMaker
from mlip_autopipec.oracle.vasp import HARMLESS_ERRORS, isolated_atom_maker, vasp_static_maker
from mlip_autopipec.sampling.seeds import isolated_atom
from mlip_autopipec.testing import stand_in_loop

if TYPE_CHECKING:
    from jobflow import Job, Maker
    from pymatgen.core import Structure

    from mlip_autopipec.flows.otf import OTFMaker

pytestmark = pytest.mark.filterwarnings("ignore")


def oracle() -> OracleMaker:
    return OracleMaker(static_maker=vasp_static_maker(), atom_maker=isolated_atom_maker())


def loop() -> OTFMaker:
    return stand_in_loop(oracle_maker=oracle())


def powered(target: Any) -> Any:
    target = update_user_incar_settings(target, {"ENCUT": 333})
    target = update_user_potcar_settings(target, {"Cu": "Cu"})
    return update_user_kpoints_settings(target, {"reciprocal_density": 50}, name_filter="VASP label")


def input_of(maker: Maker, structure: Structure | None = None) -> tuple[Incar, Kpoints | None, list[str]]:
    """INCAR, KPOINTS and POTCAR symbols a maker would write."""
    structure = structure or AseAtomsAdaptor.get_structure(bulk("Cu"))
    files = maker.input_set_generator.get_input_set(structure, potcar_spec=True)  # type: ignore[attr-defined]
    return files["INCAR"], files.get("KPOINTS"), str(files["POTCAR.spec"]).split()


def check(maker: OracleMaker) -> None:
    incar, kpoints, potcar = input_of(maker.static_maker)
    assert (incar["ENCUT"], incar["ISYM"], incar["EDIFF"]) == (333, 0, 1e-6)
    assert potcar == ["Cu"]
    assert kpoints is not None
    assert "KSPACING" not in incar
    assert kpoints.kpts[0] != (1, 1, 1)
    assert maker.atom_maker is not None
    incar, kpoints, potcar = input_of(maker.atom_maker)
    assert (incar["ENCUT"], incar["SIGMA"], potcar) == (333, 0.01, ["Cu"])
    assert kpoints is not None
    assert tuple(kpoints.kpts[0]) == (1, 1, 1)
    # what else the makers carry is still there
    handler = maker.static_maker.run_vasp_kwargs["handlers"][0]  # type: ignore[attr-defined]
    assert handler.errors_subset_to_catch == HARMLESS_ERRORS


def jobs_of(flow: Flow) -> dict[str, Job]:
    return {job.name: job for job, _ in flow.iterflow()}


def test_static_maker() -> None:
    incar, kpoints, potcar = input_of(powered(vasp_static_maker()))
    assert (incar["ENCUT"], potcar) == (333, ["Cu"])
    assert kpoints is not None


def test_oracle_maker() -> None:
    check(powered(oracle()))


def test_loop_maker() -> None:
    maker = powered(loop())
    check(maker.oracle_maker)
    jobs = jobs_of(maker.make(bulk("Cu", cubic=True), 300))
    check(jobs["request labels c000"].maker)
    check(jobs["assess c000"].maker.oracle_maker)


def test_flow() -> None:
    """The assessment appends the later cycles, from the loop's maker that it carries."""
    jobs = jobs_of(powered(loop().make(bulk("Cu", cubic=True), 300)))
    check(jobs["request labels c000"].maker)
    check(jobs["assess c000"].maker.oracle_maker)


def test_flow_survives_the_database() -> None:
    """As FireWorks keeps it."""
    flow = powered(loop().make(bulk("Cu", cubic=True), 300))
    again = MontyDecoder().process_decoded(json.loads(json.dumps(flow.as_dict(), cls=MontyEncoder)))
    assert isinstance(again, Flow)
    check(jobs_of(again)["request labels c000"].maker)
    check(jobs_of(again)["assess c000"].maker.oracle_maker)


def test_handlers() -> None:
    flow = update_vasp_custodian_handlers(loop().make(bulk("Cu", cubic=True), 300), (StdErrHandler(),))
    for maker in (jobs_of(flow)["request labels c000"].maker, jobs_of(flow)["assess c000"].maker.oracle_maker):
        handlers = maker.static_maker.run_vasp_kwargs["handlers"]
        assert [type(handler).__name__ for handler in handlers] == ["StdErrHandler"]


def test_density_of_all_makers_leaves_atoms_alone() -> None:
    """KSPACING has no effect beside a KPOINTS file, nor has a density beside an explicit mesh."""
    atom = AseAtomsAdaptor.get_structure(isolated_atom("Cu"))
    maker = update_user_incar_settings(oracle(), {"KSPACING": 0.1})
    assert input_of(maker.static_maker)[0]["KSPACING"] == 0.1
    incar, kpoints, _ = input_of(maker.atom_maker, atom)
    assert "KSPACING" not in incar
    assert kpoints is not None
    maker = update_user_kpoints_settings(oracle(), {"reciprocal_density": 5000})
    kpoints = input_of(maker.atom_maker, atom)[1]
    assert kpoints is not None
    assert tuple(kpoints.kpts[0]) == (1, 1, 1)


# ---- a loop, run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A Flow that was changed after it was made, run with the stand-in for VASP: one halt, one more cycle."""
    return run_part("powerups", tmp_path_factory.mktemp("powerups"))["loop"]  # type: ignore[no-any-return]


def test_they_reach_the_input_of_every_cycle(finished: dict[str, Any]) -> None:
    assert finished["status"] == "CONVERGED", finished["why"]
    assert {label["cycle"] for label in finished["labels"]} == {0, 1}
    for label in finished["labels"]:
        assert label["state"] == "successful"
        folder = Path(label["directory"])
        assert Incar.from_file(folder / "INCAR.gz")["ENCUT"] == 333
        assert tuple(Kpoints.from_file(folder / "KPOINTS.gz").kpts[0]) == (3, 3, 3)
        assert label["computed_with"]["settings"]["ENCUT"] == 333
        assert label["computed_with"]["kpoints"] == "Gamma 3 3 3"
        assert label["computed_with"]["potentials"]["Cu"].startswith("PAW_PBE Cu MAKE-BELIEVE")
        assert label["metadata"] == {"project": "copper"}
    assert len({label["computed_with"]["sha256"] for label in finished["labels"]}) == 1
