"""The page of a campaign: what stands in it, what it says where there is nothing, and that nothing in it is run."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import browser
import numpy as np
import pytest
import yaml
from ase.build import bulk
from jobflow import Job, JobStore, run_locally
from maggma.stores import MemoryStore
from paths import ROOT
from typer.testing import CliRunner

from mlip_autopipec.cli import app, open_store
from mlip_autopipec.database.campaigns import Campaigns
from mlip_autopipec.errors import MLIPError
from mlip_autopipec.jobs.generate import GenerateMaker
from mlip_autopipec.jobs.train import TrainMaker
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.report import errors, structures, walks
from mlip_autopipec.report.collect import CampaignData, Limits, collect
from mlip_autopipec.report.labels import meaning
from mlip_autopipec.report.page import render, write_report
from mlip_autopipec.report.panels import Panel, new_figure
from mlip_autopipec.report.thin import thinned_trace, with_worst
from mlip_autopipec.runfile.model import RunFile
from mlip_autopipec.sampling.seeds import StructureGenerator
from mlip_autopipec.schemas.loop import LoopStatus
from mlip_autopipec.testing import Halt, ScriptedDynamicsMaker, StandInOracleMaker, stand_in_loop
from mlip_autopipec.training.accuracy import compute_errors
from mlip_autopipec.training.linear import LinearACETrainer
from mlip_autopipec.validation.properties import PropertyCriterion

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ase import Atoms

COPPER = {
    "name": "copper",
    "seed": 3,
    "structures": [{"bulk": {"name": "Cu", "cubic": True}, "repeat": [2, 2, 2]}],
    "conditions": [{"temperature_K": 1200}, {"temperature_K": 300}],
    "oracle": {"kind": "emt"},
    "trainer": {"kind": "linear", "basis": {"number_of_functions_per_element": 20, "cutoff": 4.5}},
    "dynamics": {"n_steps": 600, "gamma_lo": 1.5, "gamma_hi": 3.0},
    "first_dataset": {"n_structures": 6, "n_test": 2, "rattle_amplitudes": [0.05, 0.1]},
    "selection": {"n_max": 6, "gamma_min": 1.1},
}
#: Closes what it may stand in, and runs something if any of it is taken for HTML.
EVIL = "</script><img src=x onerror=\"window.hacked='image'\"><script>window.hacked='script'</script>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real campaign: EMT, LAMMPS, pyace."""
    path = tmp_path_factory.mktemp("report") / "run.yaml"
    path.write_text(yaml.safe_dump(COPPER))
    campaign = RunFile.load(path)
    maker = campaign.maker()
    maker.stop_rule = replace(maker.stop_rule, criterion=PropertyCriterion(["eos", "phonons"], max_atoms=32))
    flow = maker.make(campaign.load_structures(), campaign.load_conditions(), campaign_id="copper-1")
    folder = path.parent / "out"
    folder.mkdir()
    store = open_store(folder / "store")
    run_locally(flow, store=store, create_folders=True, root_dir=path.parent, log=False)
    assert Campaigns(store).status("copper-1").status == "CONVERGED"
    return folder


@pytest.fixture(scope="module")
def campaigns(folder: Path) -> Campaigns:
    return Campaigns(open_store(folder / "store"))


@pytest.fixture(scope="module")
def data(campaigns: Campaigns) -> CampaignData:
    return collect(campaigns, campaigns.names()[0], Limits())


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    result = CliRunner().invoke(app, ["report", str(folder)])
    assert result.exit_code == 0, result.output
    return (folder / "report.html").read_text()


def plots(page: str) -> dict[str, list[dict[str, Any]]]:
    found = re.search(r'<script type="application/json" id="plots">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


class Outline(HTMLParser):
    """Elements and attributes of a page, and the words outside of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._silent = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._silent += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


# ------------------------------------------------------------------ what stands in it


def test_how_far_md_got_and_gamma_on_the_way(page: str, campaigns: Campaigns, data: CampaignData):
    found = plots(page)
    halts = campaigns.halts(data.status.campaign_id)
    assert halts, "this campaign is to halt"
    shown = [
        (cycle, round(1e3 * time_ps))
        for trace in found["progress"][0]["data"]
        for cycle, time_ps, symbol in zip(trace["x"], trace["y"], trace["marker"]["symbol"], strict=True)
        if symbol == "x"
    ]
    assert sorted(shown) == sorted((halt.cycle, halt.halt_step) for halt in halts)
    assert sum(len(trace["x"]) for trace in found["progress"][0]["data"]) == len(data.walks)

    (marks,) = [t for view in found["gamma"][:1] for t in view["data"] if t["name"] == "halts"]
    own = [h for h in halts if h.walker == 0]
    assert marks["y"] == pytest.approx([h.gamma_max for h in own], rel=1e-5)
    assert marks["x"] == pytest.approx([1e-3 * (h.halt_step or 0) for h in own], rel=1e-5)
    trace = campaigns.walk(own[0].uuid).payload["trace"]
    (line,) = [t for t in found["gamma"][0]["data"] if t["name"] == f"cycle {own[0].cycle}"]
    assert max(line["y"]) == pytest.approx(max(trace["gamma_max"]), rel=1e-5)
    assert [s["y0"] for s in found["gamma"][0]["layout"]["shapes"]] == [1.5, 3.0]
    assert len(found["gamma"]) == 2, "one view for each walker"


def test_errors_by_cycle_and_label_by_label(page: str, campaigns: Campaigns, data: CampaignData):
    found = plots(page)
    curves = {t["name"]: t for t in found["cycle_forces_rmse_meV_A"][0]["data"]}
    learnt = [p for p in data.potentials if p.new_before is not None]
    assert curves["new labels, before"]["y"] == pytest.approx(
        [p.new_before.forces_rmse_meV_A for p in learnt if p.new_before], rel=1e-5
    )
    assert curves["held-out"]["x"] == [p.cycle for p in data.potentials]
    potential = campaigns.potential(data.status.campaign_id).to_potential()
    for split in ("train", "test"):
        frames = [a for a in campaigns.dataset(data.status.campaign_id) if a.info["split"] == split]
        expected = compute_errors(potential, frames)
        assert expected is not None
        pairs = errors.evaluate(data, frames)
        assert 1e3 * pairs["forces"].rmse(split) == pytest.approx(expected.forces_rmse_meV_A)
        assert 1e3 * pairs["energy"].rmse(split) == pytest.approx(expected.energy_rmse_meV_atom)
    checked = [a for a in data.dataset if a.info["split"] == "check"]
    checking = data.checks[-1].errors
    assert checking is not None
    assert 1e3 * errors.evaluate(data, checked)["forces"].rmse("check") == pytest.approx(checking.forces_rmse_meV_A)
    drawn = {t["name"]: len(t["x"]) for t in found["parity_stress"][0]["data"] if "name" in t}
    assert drawn["training"] == 6 * len([a for a in data.dataset if a.info["split"] == "train"])
    text = Outline(page).text
    assert f"held-out {expected.forces_rmse_meV_A:.3g} meV/Å" in text


def test_the_check_is_in_both_plots_of_errors_by_cycle(data: CampaignData):
    assert any(check.errors is not None for check in data.checks)
    for panel in errors.by_cycle(data):
        (figure,) = panel.views.values()
        assert "check" in [trace.name for trace in figure.data], panel.key


def test_an_interrupted_campaign_is_not_said_to_learn(data: CampaignData):
    learning = replace(data, status=data.status.model_copy(update={"status": LoopStatus.LEARNING}))
    for running, word in ((False, "INTERRUPTED"), (True, "LEARNING"), (None, "LEARNING")):
        learning.running = running
        page = render(learning, Limits())
        assert f'busy">{word}<' in page or f'bad">{word}<' in page
        assert ("resume continues" in page) is (running is False)


def test_labels_of_a_check_are_training_once_they_are_learnt(data: CampaignData):
    checked = [a for a in data.dataset if a.info["split"] == "check"]
    assert data.final is not None
    later = replace(data, final=data.final.model_copy(update={"cycle": checked[0].info["cycle"]}))
    assert set(errors.evaluate(data, checked)["energy"].split) == {"check", "property"}
    assert set(errors.evaluate(later, checked)["energy"].split) == {"train"}
    spoilt = replace(data, aside={str(checked[0].info["label_id"]): ["off"]})
    assert errors.evaluate(spoilt, checked[:1])["energy"].split.tolist() == ["aside"]


def test_labels_with_where_they_came_from(page: str, data: CampaignData):
    text = Outline(page).text
    bars = plots(page)["origins"][0]["data"]
    assert sum(sum(bar["y"]) for bar in bars) == data.status.n_labels == len(data.dataset)
    bought = [a for a in data.dataset if a.info.get("gamma") is not None and a.info["cycle"]]
    assert bought
    for atoms in bought:
        origin = atoms.info["origin"]
        assert (meaning(origin) or "?") in text
        assert f"{atoms.info['cycle']} {origin} {atoms.info['walker']} {atoms.info['gamma']:.3g} Cu32 32" in text


def test_calibration_of_gamma(page: str, campaigns: Campaigns, data: CampaignData):
    expected = campaigns.calibration(data.status.campaign_id)
    assert expected.n_labels >= 5
    text = Outline(page).text
    assert f"{expected.n_labels} labels, the pair of largest grade and largest error of each" in text
    assert f"Rank correlation {expected.spearman:.2f}" in text
    assert expected.threshold is not None
    assert f"{expected.threshold:.3g}" in text
    (points,) = [t for t in plots(page)["worth"][0]["data"] if t["name"] == "labels"]
    assert len(points["x"]) == expected.n_labels


def test_properties_beside_the_oracles(page: str, data: CampaignData):
    check = data.checks[-1]
    volume = next(p for p in check.properties if p["name"] == "equilibrium volume")
    assert f"{volume['crystal']} equilibrium volume A^3/atom {volume['oracle']:.4g}" in Outline(page).text
    found = plots(page)
    by_side = {t["name"]: t for t in found["properties_eos"][0]["data"] if "name" in t}
    lowest = {side: t["x"][int(np.argmin(t["y"]))] for side, t in by_side.items()}
    assert lowest["oracle"] == pytest.approx(volume["oracle"], rel=0.03)
    assert lowest["potential"] == pytest.approx(volume["potential"], rel=0.03)
    curve = found["properties_eos"][0]["data"][0]
    assert min(curve["y"]) == pytest.approx(0, abs=0.05), "the fitted curve has its minimum at zero"
    (modes,) = [t for t in found["properties_phonons"][0]["data"] if t.get("name") == "modes of the supercell"]
    frequency = next(p for p in check.properties if p["kind"] == "phonons")
    assert max(modes["x"]) == pytest.approx(frequency["oracle"], rel=1e-5)
    assert max(modes["y"]) == pytest.approx(frequency["potential"], rel=1e-5)
    dispersion = found["properties_dispersion"][0]
    for side in ("oracle", "potential"):
        (bands,) = [t for t in dispersion["data"] if t.get("name") == side]
        # the highest mode of fcc is at X, which the supercell holds
        assert max(y for y in bands["y"] if y is not None) == pytest.approx(frequency[side], rel=1e-5)
        assert len([y for y in bands["y"] if y is None]) == 3 * 2 - 1, "three bands, each with one jump"
    assert dispersion["layout"]["xaxis"]["ticktext"][0] == "Γ"
    assert "K|U" in dispersion["layout"]["xaxis"]["ticktext"]


def test_halts_in_three_dimensions(page: str, campaigns: Campaigns, data: CampaignData):
    views = plots(page)["halts"]
    newest = max(campaigns.halts(data.status.campaign_id), key=lambda w: (w.cycle, w.walker))
    atoms = next(t for t in views[0]["data"] if t.get("hovertemplate"))
    assert len(atoms["x"]) == 32
    assert max(atoms["marker"]["color"]) == pytest.approx(newest.gamma_max, rel=1e-5)
    ring = views[0]["data"][-1]
    worst = atoms["marker"]["color"].index(max(atoms["marker"]["color"]))
    assert (ring["x"][0], ring["y"][0]) == (atoms["x"][worst], atoms["y"][worst])


def test_of_a_large_cell_the_surroundings_of_the_worst_atom_are_shown(data: CampaignData):
    (walk, *_) = [w for w in data.walks if w.uuid in data.halted]
    large = bulk("Cu", cubic=True) * (5, 5, 5)
    large.arrays["gamma"] = np.full(len(large), 0.5)
    large.arrays["gamma"][0] = 7.0  # at a corner: its neighbours are across the boundary
    halted = replace(
        data,
        walks=[walk.model_copy(update={"n_atoms": len(large), "atom_index": 0})],
        halted={walk.uuid: large},
    )
    panel = structures.halts(halted, 43)
    assert "Of cells of more than 43 atoms the 43 nearest" in panel.note
    (view,) = panel.plain()
    atoms = next(t for t in view["data"] if t.get("hovertemplate"))
    points = np.array([atoms["x"], atoms["y"], atoms["z"]]).T
    distance = np.linalg.norm(points, axis=1)
    assert atoms["marker"]["color"][int(np.argmin(distance))] == 7.0
    # the first three shells of fcc: 1 + 12 + 6 + 24 atoms
    assert len(points) == 43
    assert distance.max() == pytest.approx(3.61 * np.sqrt(1.5), abs=0.02)
    bonds, box = view["data"][0], [t for t in view["data"][1:] if t["mode"] == "lines"]
    assert len([x for x in bonds["x"] if x is None]) >= 12
    assert box == [], "a piece of a cell has no box"


def test_what_is_needed_to_repeat_it(page: str, data: CampaignData):
    text = Outline(page).text
    for word in ("seed 3", "python-ace", data.task.created_at, data.final.sha256 if data.final else ""):
        assert word in text
    found = re.search(r"All settings, as the OTFMaker in JSON</summary><pre>(.*?)</pre>", page, re.DOTALL)
    assert found is not None
    settings = json.loads(found[1].replace("&#34;", '"').replace("&lt;", "<").replace("&gt;", ">"))
    assert settings == data.maker
    assert settings["seed"] == 3
    assert "EMTStaticMaker" in text


def test_it_needs_nothing_but_itself(page: str):
    outline = Outline(page)
    links = [value for _, attrs in outline.tags for name, value in attrs.items() if name in ("src", "href", "srcset")]
    assert all(link is None or link.startswith(("#", "data:")) for link in links), links
    assert [attrs for tag, attrs in outline.tags if tag == "script"] == [
        {"type": "application/json", "id": "plots"},
        {},
        {},
    ]
    (policy,) = [a["content"] for t, a in outline.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")


# ------------------------------------------------------------------ what is not there


def memory_campaigns(maker: Any, name: str, folder: Path, atoms: Atoms | None = None) -> Campaigns:
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    store.connect()
    flow = maker.make(bulk("Cu", cubic=True) if atoms is None else atoms, 300, campaign_id=name)
    run_locally(flow, store=store, create_folders=True, root_dir=folder, log=False)
    return Campaigns(store)


def test_a_campaign_without_a_potential_says_why(tmp_path: Path):
    maker = stand_in_loop(oracle_maker=StandInOracleMaker(failing=["label"]))
    failing = memory_campaigns(maker, "dead", tmp_path)
    write_report(tmp_path / "page.html", failing, "dead")
    page = (tmp_path / "page.html").read_text()
    assert plots(page).keys() == {"origins"}, "what is drawn is what there is: labels that failed"
    text = Outline(page).text
    assert "ORACLE_FAILING" in text
    assert "There is no potential. The status of the campaign is ORACLE_FAILING" in text
    assert "No MD has been run: there is no potential yet to run it with." in text
    assert "failed: LabelError: the stand-in oracle was told to fail here" in text or "told to fail here" in text
    assert "error unknown no potential" in text
    assert "No MD has been run yet." in text, "in place of the halts"


def test_a_campaign_that_has_only_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    original = Job.run

    def run(self: Job, *args: Any, **kwargs: Any) -> Any:
        if self.name.startswith(("train", "label c000 001")):
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Job, "run", run)
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    store.connect()
    flow = stand_in_loop().make(bulk("Cu", cubic=True), 300, campaign_id="young")
    with pytest.raises(KeyboardInterrupt):
        run_locally(flow, store=store, create_folders=True, root_dir=tmp_path, log=False)
    write_report(tmp_path / "page.html", Campaigns(store), "young")
    text = Outline((tmp_path / "page.html").read_text()).text
    assert "LEARNING" in text
    assert "not assessed yet" in text
    assert "No cycle has been assessed yet." in text
    assert "There is no potential." in text


def test_labels_that_were_set_aside(tmp_path: Path):
    generator = StructureGenerator(n_structures=12, n_test=1, max_atoms=32, rattle_amplitudes=[0.05, 0.1])
    trainer = LinearACETrainer(basis=BasisSettings(number_of_functions_per_element=12, cutoff=4.5))
    maker = stand_in_loop(
        generate_maker=GenerateMaker(generator=generator),
        dynamics_maker=ScriptedDynamicsMaker(halts=[Halt(step=100)], displacement_A=0.05),
        oracle_maker=StandInOracleMaker(physics="emt", wrong=["label c001 001"]),
        train_maker=TrainMaker(trainer=trainer),
    )
    found = memory_campaigns(maker, "c", tmp_path, bulk("Cu", cubic=True) * (2, 2, 2))
    ((label_id, reasons),) = found.outliers("c").items()
    page = render(collect(found, "c", Limits()), Limits())
    text = Outline(page).text
    assert f"1 Cu32 {'; '.join(reasons)} {label_id}" in text
    assert "train flagged outlier" in text, "in the table of all labels"
    (apart,) = [t for t in plots(page)["parity_energy"][0]["data"] if t.get("name") == "flagged outlier"]
    assert len(apart["x"]) == 1
    assert apart["x"][0] == pytest.approx(apart["y"][0] + 1, abs=0.05), "the stand-in adds 1 eV/atom"
    found.accept("c", label_id)
    accepted = Outline(render(collect(found, "c", Limits()), Limits())).text
    assert f"{label_id} accepted" in accepted
    assert "accepted outlier" in accepted


def test_any_database_will_do(database: JobStore, tmp_path: Path):
    maker = stand_in_loop(
        dynamics_maker=ScriptedDynamicsMaker(halts=[Halt(step=100)]), oracle_maker=StandInOracleMaker(physics="emt")
    )
    flow = maker.make(bulk("Cu", cubic=True), 300, campaign_id="stored")
    run_locally(flow, store=database, create_folders=True, root_dir=tmp_path, log=False)
    write_report(tmp_path / "page.html", Campaigns(database), "stored")
    page = (tmp_path / "page.html").read_text()
    assert len(plots(page)["halts"]) == 1
    assert "w0 300 K converged" in Outline(page).text


def test_what_an_engine_did_not_record_is_told(tmp_path: Path):
    maker = stand_in_loop(dynamics_maker=ScriptedDynamicsMaker(halts=[Halt(step=100), Halt(step=150)]))
    scripted = memory_campaigns(maker, "scripted", tmp_path)
    text = Outline(render(collect(scripted, "scripted", Limits()), Limits())).text
    assert "MD has been run, but what gamma was on the way is none: the engine that moved the atoms" in text
    assert "No check has been made, so no property was compared." in text


def test_a_trace_that_cannot_be_read_is_told_and_the_others_are_shown(data: CampaignData, campaigns: Campaigns):
    broken = data.walks[0].uuid

    class Lossy(Campaigns):
        def walk(self, walk_id: str):
            if walk_id == broken:
                raise MLIPError("blob lost")
            return super().walk(walk_id)

    found = collect(Lossy(campaigns.store), data.status.campaign_id, Limits())
    assert set(found.traces) == set(data.traces) - {broken}
    assert "blob lost" in Outline(render(found, Limits())).text


def test_a_panel_without_plot_or_reason_cannot_be_made():
    with pytest.raises(ValueError, match="neither a plot nor a reason"):
        Panel("empty", "Empty")


# ------------------------------------------------------------------ size


def test_a_trace_keeps_its_peaks():
    time_ps = np.linspace(0, 10, 5000)
    gamma = np.random.default_rng(1).random(5000)
    gamma[[1234, 4321]] = 7.0, 9.0
    gamma[2000:2600] = np.nan
    thin = thinned_trace(time_ps, gamma, 100)
    assert len(thin["time_ps"]) <= 100
    assert (thin["time_ps"][0], thin["time_ps"][-1]) == (0, 10)
    found = dict(zip(thin["time_ps"], thin["gamma_max"], strict=True))
    assert (found[time_ps[1234]], found[time_ps[4321]]) == (7.0, 9.0)


def test_the_worst_points_of_a_parity_plot_stay():
    error = np.random.default_rng(1).normal(size=9000)
    kept = with_worst(error, 400, seed=1)
    assert len(set(kept)) == 400
    assert set(np.argsort(-np.abs(error))[:200]) <= set(kept)
    assert (with_worst(error, 400, seed=1) == kept).all()
    assert len(with_worst(error[:5], 400, seed=1)) == 5


def test_a_long_campaign_stays_small(data: CampaignData):
    """100 cycles of 8 walkers, 2000 points each, 1500 labels."""
    walk = data.walks[0]
    many = [walk.model_copy(update={"uuid": f"{c} {w}", "cycle": c, "walker": w}) for c in range(100) for w in range(8)]
    limits = Limits(structures=20)
    kept = many[-limits.walks :]
    points = limits.trace_points // limits.walks
    rng = np.random.default_rng(1)
    long = replace(
        data,
        walks=many,
        traces={w.uuid: thinned_trace(np.arange(2000) / 100, rng.random(2000), points) for w in kept},
        halted={w.uuid: next(iter(data.halted.values())) for w in kept[-limits.halts :]},
        n_unread=len(many) - len(kept),
        dataset=data.dataset * (1500 // len(data.dataset)),
        cycles=data.cycles * 100,
    )
    page = render(long, limits)
    scripts = sum(len(found) for found in re.findall(r"<script>(.*?)</script>", page, re.DOTALL))
    assert len(page) - scripts < 4e6
    text = Outline(page).text
    assert f"The traces of the {len(many) - len(kept)} oldest runs are left out." in text
    assert f"On 20 of {len(long.dataset)} labels" in text
    assert "The 1000 newest;" in text


# ------------------------------------------------------------------ nothing from the database is executed


@pytest.fixture(scope="module")
def evil_page(data: CampaignData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every word of the database that a page shows is hostile."""

    def spoilt(frames: list[Any]) -> list[Any]:
        copies = [atoms.copy() for atoms in frames]
        for copy, atoms in zip(copies, frames, strict=True):
            copy.calc = atoms.calc
            copy.info |= {"origin": EVIL}
        return copies

    state = data.status.walkers[0].model_copy(update={"formula": EVIL, "reason": EVIL})
    status = data.status.model_copy(update={"campaign_id": EVIL, "why": EVIL, "walkers": [state]})
    task = data.task.model_copy(
        update={"name": EVIL, "formulas": [EVIL], "oracle": EVIL, "versions": {EVIL: EVIL}, "campaign_id": EVIL}
    )
    task.payload = {**task.payload, "maker": json.dumps({**data.maker, "name": EVIL})}
    check = data.checks[-1].model_copy(
        update={
            "properties": [{**p, "name": EVIL, "crystal": EVIL, "reason": EVIL} for p in data.checks[-1].properties]
        }
    )
    failed = [] if not data.failed else data.failed
    aside = {str(data.dataset[0].info["label_id"]): [EVIL]}
    quarantined = [{"label_id": next(iter(aside)), "reasons": [EVIL]}]
    potential = type(data.potentials[0]).model_validate(
        {**data.potentials[0].model_dump(exclude={"payload"}), "quarantined": quarantined}
    )
    hostile = replace(
        data,
        status=status,
        task=task,
        walks=[w.model_copy(update={"reason": EVIL, "formula": EVIL}) for w in data.walks],
        dataset=spoilt(data.dataset),
        failed=failed,
        checks=[check],
        records=[replace(r, code=EVIL, settings={EVIL: EVIL}) for r in data.records],
        potentials=[potential, *data.potentials[1:]],
        cycles=[c.model_copy(update={"walkers": [state]}) for c in data.cycles],
        aside=aside,
        unreadable=[EVIL],
    )
    path = tmp_path_factory.mktemp("evil") / "page.html"
    path.write_text(render(hostile, Limits()))
    return path


def test_words_from_the_database_are_words(evil_page: Path):
    outline = Outline(evil_page.read_text())
    assert [tag for tag, _ in outline.tags if tag in ("img", "iframe", "object", "embed", "form")] == []
    assert len([tag for tag, _ in outline.tags if tag == "script"]) == 3
    assert not [name for _, attrs in outline.tags for name in attrs if name.startswith("on")]
    assert outline.text.count("window.hacked='image'") > 20, "shown as what they are, everywhere"
    assert "<img" not in json.dumps(plots(evil_page.read_text())), "plotly reads some HTML, too"


# ------------------------------------------------------------------ in a browser


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Browser]:
    executable = browser.find()
    if executable is None:
        pytest.skip(f"no Chromium here, by none of the names {browser.NAMES}: apt-get install chromium")
    with browser.Browser(executable, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


#: What Chromium says of its own accord about drawing without a graphics card.
HARMLESS = ("GPU stall due to ReadPixels", "willReadFrequently", "this message will no longer repeat")
DRAWN = "document.readyState == 'complete' && document.documentElement.dataset.drawn > 0"


def complaints(chromium: browser.Browser) -> list[str]:
    return [line for line in chromium.console if not any(words in line for words in HARMLESS)]


@pytest.mark.parametrize(
    ("width", "height", "dark", "touch"),
    [(1280, 900, False, False), (390, 844, True, True)],
    ids=["desktop", "phone in the dark"],
)
def test_it_is_drawn_without_complaint_and_without_the_network(
    chromium: browser.Browser, folder: Path, page: str, width: int, height: int, dark: bool, touch: bool
):
    path = folder / "report.html"
    chromium.open(path, width, height, dark=dark, touch=touch)
    chromium.wait_for(DRAWN)
    time.sleep(1)
    assert complaints(chromium) == []
    assert chromium.requests == [path.as_uri()]
    n_plots = len(plots(page))
    assert chromium.evaluate("document.querySelectorAll('.plot .main-svg').length") >= n_plots
    assert chromium.evaluate("document.querySelectorAll('.plot .absence, .no-webgl').length") == 0
    # nothing sticks out of the screen, and what is wider scrolls in its own place
    assert chromium.evaluate("document.documentElement.scrollWidth") == width
    assert chromium.evaluate("Math.min(...[...document.querySelectorAll('.plot')].map(p => p.clientWidth))") > 250
    light = chromium.evaluate("getComputedStyle(document.body).backgroundColor").removeprefix("rgb(").removesuffix(")")
    assert (float(light.split(",")[0]) < 60) is dark
    ink = chromium.evaluate("getComputedStyle(document.querySelector('#progress .xtick text')).fill")
    assert (float(ink.removeprefix("rgb(").split(",")[0]) > 150) is dark, "labels of axes follow the paper"


def test_the_reader_chooses_a_walker(chromium: browser.Browser, folder: Path, page: str):
    chromium.open(folder / "report.html", 1280, 900)
    chromium.wait_for(DRAWN)
    shown = "document.querySelector('#gamma .plot').data.map(trace => trace.name)"
    first = chromium.evaluate(shown)
    chromium.evaluate(
        "(() => { const s = document.querySelector('#gamma select'); s.selectedIndex = 1; "
        "s.dispatchEvent(new Event('change')); })()"
    )
    expected = [t["name"] for t in plots(page)["gamma"][1]["data"]]
    chromium.wait_for(f"JSON.stringify({shown}) == {json.dumps(json.dumps(expected, separators=(',', ':')))}")
    assert first == [t["name"] for t in plots(page)["gamma"][0]["data"]]


def test_hostile_words_run_nothing(chromium: browser.Browser, evil_page: Path):
    chromium.open(evil_page, 1280, 900)
    chromium.wait_for(DRAWN)
    time.sleep(1)
    assert chromium.evaluate("window.hacked") is None
    assert chromium.evaluate("document.querySelectorAll('img').length") == 0
    assert chromium.requests == [evil_page.as_uri()]


def test_even_a_script_that_got_in_is_not_run(chromium: browser.Browser, folder: Path, page: str, tmp_path: Path):
    """The page itself forbids the browser whatever it does not know."""
    path = tmp_path / "page.html"
    path.write_text(
        page.replace("</main>", "<script>window.hacked = 1</script><img src='http://127.0.0.1:9/x'></main>")
    )
    chromium.open(path, 1280, 900)
    chromium.wait_for(DRAWN)
    assert chromium.evaluate("window.hacked") is None
    assert any("Content Security Policy" in line for line in chromium.console)


# ------------------------------------------------------------------ the command


def test_the_command_tells_what_it_wrote(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    opened: list[str] = []
    monkeypatch.setattr("typer.launch", opened.append)
    target = tmp_path / "new" / "page.html"
    result = CliRunner().invoke(app, ["report", str(folder), "-o", str(target), "--open", "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["bytes"] == target.stat().st_size
    assert told["report"] == str(target)
    assert opened == [target.as_uri()]


def test_the_command_asks_which_campaign(folder: Path, tmp_path: Path):
    nothing = CliRunner().invoke(app, ["report"])
    assert nothing.exit_code == 1
    assert "Give the folder of a run, or --campaign" in nothing.output
    empty = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert empty.exit_code == 1
    assert "holds no campaign" in empty.output
    other = CliRunner().invoke(app, ["report", str(folder), "--campaign", "silver"])
    assert other.exit_code == 1
    assert "not 'silver'" in other.output


def test_a_campaign_of_the_configured_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = memory_campaigns(stand_in_loop(), "in/memory", tmp_path)
    monkeypatch.setattr("mlip_autopipec.cli.base.configured_store", lambda: found.store)  # which has to be kept
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["report", "--campaign", "in/memory"])
    assert result.exit_code == 0, result.output
    assert "in/memory" in (tmp_path / "in-memory-report.html").read_text()
    unknown = CliRunner().invoke(app, ["report", "--campaign", "silver"])
    assert unknown.exit_code == 1
    assert "there are ['in/memory']" in unknown.output


def test_the_documentation_holds(campaigns: Campaigns, tmp_path: Path):
    text = (ROOT / "docs" / "report.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    path = tmp_path / "page.html"
    exec(block.replace('"copper"', '"copper-1"'), {"path": path, "store": campaigns.store})
    assert "CONVERGED" in path.read_text()
    for name, value in vars(Limits()).items():
        assert name not in ("walks", "halts", "label_rows", "structures") or f" {value} " in text, name


def test_absences_of_walks_are_words(data: CampaignData):
    none = replace(data, walks=[], traces={}, halted={}, final=None)
    assert walks.progress(none).absence
    assert walks.gamma(none).absence.startswith("No MD has been run")
    assert new_figure("x", "y").layout.xaxis.title.text == "x"
