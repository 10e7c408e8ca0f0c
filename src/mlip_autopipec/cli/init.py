"""``init``: write a first run file."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from mlip_autopipec.cli.base import AsJson, app, console, put, told, typed
from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.kinds import ORACLES, TRAINERS


@app.command()
def init(
    structures: Annotated[
        list[Path] | None, typer.Argument(help="Structure files that ase or pymatgen reads: CIF, POSCAR, extxyz, ...")
    ] = None,
    element: Annotated[
        list[str] | None, typer.Option("--element", "-e", help="Instead of files: an element, or each of a compound.")
    ] = None,
    types: Annotated[
        str | None,
        typer.Option("--types", help="Elements of the atom types of files that do not name them, in order: Ni,Al."),
    ] = None,
    crystal: Annotated[
        str | None, typer.Option("--crystal", "-c", help="Its crystal: fcc, bcc, hcp, diamond, rocksalt, ...")
    ] = None,
    a: Annotated[float | None, typer.Option("--a", help="Its lattice constant in A; elements have one.")] = None,
    materials_project: Annotated[
        list[str] | None, typer.Option("--materials-project", help="An id like mp-30; needs a key in MP_API_KEY.")
    ] = None,
    oracle: Annotated[
        str | None,
        typer.Option("--oracle", help=f"{', '.join(ORACLES.own)}. Default: by the elements."),
    ] = None,
    calculator: Annotated[
        str, typer.Option(help="For --oracle ase: the class of the calculator.")
    ] = "ase.calculators.abinit.Abinit",
    trainer: Annotated[
        str, typer.Option("--trainer", help=f"{', '.join(TRAINERS.own[:-1])} or {TRAINERS.own[-1]}.")
    ] = "linear",
    temperature: Annotated[
        list[float] | None, typer.Option("--temperature", "-T", help="In K; more than once for more than one.")
    ] = None,
    max_atoms: Annotated[int, typer.Option(help="Largest supercell.", min=1)] = 64,
    name: Annotated[str | None, typer.Option(help="Of the campaign. Default: the formula.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The run file. Default: NAME.yaml.")] = None,
    as_json: AsJson = False,
) -> None:
    """
    Write a run file with a comment for every setting.

    Supercell, temperatures, time step, cutoff and size of the first dataset follow from the structure; change them
    where needed. A file of several labelled structures (extxyz, vasprun.xml of MD) becomes the dataset to start from.
    An existing file is never overwritten.

    For instance:

        mlip-autopipec init --element Cu --crystal fcc
        mlip-autopipec init -e Mg -e O --crystal rocksalt --a 4.21 --oracle gfn-xtb -T 300 -T 1500
        mlip-autopipec init dataset.xyz --oracle vasp
        mlip-autopipec init bulk.cif surface.cif --oracle vasp --trainer pacemaker -o alloy.yaml
    """
    with told(as_json):
        from mlip_autopipec.runfile.datasets import Dataset, dataset_in, refused_together, with_names_for_all
        from mlip_autopipec.runfile.init import Choices, write_run_file
        from mlip_autopipec.runfile.sources import Source, crystal_source, formula_of, named_source, plain_formula

        sources: list[Source] = []
        datasets: list[Dataset] = []
        if element:
            sources.append(crystal_source(element, crystal, a))
        elif crystal is not None or a is not None:
            raise InvalidInputError("--crystal and --a need --element, for instance --element Cu --crystal fcc")
        if types and not structures:
            raise InvalidInputError("--types names the elements of a file's atom types; give the file, too")
        folder = Path() if output is None else output.parent
        for path in structures or []:
            # the run file names it relative to itself
            shown = str(path) if path.is_absolute() else os.path.relpath(path, folder)
            sources.append(named_source("file", shown, folder, re.split(r"[,\s]+", types.strip()) if types else ()))
            dataset, remark = dataset_in(path, shown)
            if dataset is not None:
                datasets.append(dataset)
            if remark:
                console.print(f"[yellow]note:[/] {escape(remark)}")
        sources += [named_source("materials_project", one, folder) for one in materials_project or []]
        if not sources:
            raise InvalidInputError(
                "no structure is given; name files, or --element (and --crystal), or --materials-project: "
                "mlip-autopipec init --element Cu"
            )
        if name is None:
            formulas = [plain_formula(formula_of(source.atoms)) for source in sources]
            name = "-".join(dict.fromkeys(formulas))
        path = output or Path(f"{name}.yaml")
        usable = [dataset for dataset in datasets if not dataset.fault]
        if why := refused_together(usable):
            console.print(f"[yellow]note:[/] the datasets do not belong together: {escape(why)}")
            datasets = [replace(dataset, fault=dataset.fault or why) for dataset in datasets]
            usable = []
        unusable = with_names_for_all(usable, [dataset for dataset in datasets if dataset.fault])
        choices = Choices(
            name, oracle, trainer, tuple(temperature or ()), max_atoms, calculator, tuple(usable), tuple(unusable)
        )
        campaign = write_run_file(path, sources, choices)
        for dataset in usable:
            console.print(
                f"[yellow]note:[/] {escape(dataset.shown)} holds {dataset.n_labels} labels: the campaign starts from "
                "them (start_from); MD begins in one structure of them"
            )
        if unusable:
            shown = ", ".join(dataset.shown for dataset in unusable)
            console.print(
                f"[yellow]note:[/] nothing of the labels of {escape(shown)} is used until that is mended: labels would "
                f"be computed that are there already. {escape(str(path))} has the lines of start_from for them as "
                "comments"
            )
        for said in campaign.remarks():
            console.print(f"[yellow]note:[/] {escape(said)}")
        atoms = campaign.load_structures()
        kelvin = [condition.temperature_K for condition in campaign.load_conditions()]
        at = " and ".join(f"{t:g} K" for t in kelvin)
        shown_cells = ", ".join(f"{one.get_chemical_formula()}" for one in atoms)
        console.print(
            f"[green]{escape(str(path))}[/]: {escape(shown_cells)} at {at}, oracle {campaign.oracle.kind}, "
            f"trainer {campaign.trainer.kind}\nread it, change it where needed, then\n"
            f"  {escape(typed('run', path, '--dry-run'))}\n  {escape(typed('run', path))}"
        )
    if as_json:
        put(
            {
                "run_file": str(path),
                "name": campaign.name,
                "structures": [one.get_chemical_formula() for one in atoms],
                "temperatures_K": kelvin,
                "oracle": campaign.oracle.kind,
                "trainer": campaign.trainer.kind,
                "labels": [dataset.shown for dataset in usable],
                "labels_not_used": {dataset.shown: dataset.fault for dataset in unusable},
            }
        )
