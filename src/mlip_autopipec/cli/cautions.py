"""Warnings about unusual but valid values in a run file, printed before a campaign."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlip_autopipec.structures.frozen import frozen_atoms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms

    from mlip_autopipec.runfile.model import RunFile

#: Temperature in K above which nothing is solid or liquid at low pressure; tungsten boils at 6200 K.
_NOTHING_CONDENSED_K = 10_000.0
#: Times the usual step from which on a time step is remarked on.
_LONG_STEP = 3.0


def cautions(campaign: RunFile) -> list[str]:
    """
    Check temperatures, time step, cutoff and cells for unusual values.

    Parameters
    ----------
    campaign
        The run file.

    Returns
    -------
    list of str
        Each names the field and its value; empty where nothing is strange.
    """
    from pymatgen.core import Element

    from mlip_autopipec.kinds import TRAINERS
    from mlip_autopipec.runfile.init import usual_timestep_fs
    from mlip_autopipec.runfile.sources import nearest_neighbour
    from mlip_autopipec.structures.periodicity import boxed, goes_on_along
    from mlip_autopipec.structures.supercells import cell_width

    structures = campaign.load_structures()
    elements = sorted({symbol for atoms in structures for symbol in atoms.get_chemical_symbols()})
    told = [
        *campaign.remarks(),
        *_listed_twice(structures),
        *_unseen(campaign),
        *_without_forces(structures),
        *_wider_than_md(campaign),
        *_dipoles(campaign),
        *campaign.maker().oracle_maker.doubts(elements),
    ]
    told += _one_composition(campaign, elements)
    hottest = max(condition.temperature_K for condition in campaign.load_conditions())
    if len(elements) == 1:  # of a compound the elements' boiling points say nothing: MgO melts far above that of Mg
        boiling = float(Element(elements[0]).boiling_point or 0.0)
        if 0 < boiling < hottest:
            told.append(f"conditions: {hottest:g} K is above the boiling point of {elements[0]}, {boiling:.0f} K")
    elif hottest > _NOTHING_CONDENSED_K:
        told.append(f"conditions: {hottest:g} K; no compound stays condensed above {_NOTHING_CONDENSED_K:g} K")
    lightest = min(elements, key=lambda element: float(Element(element).atomic_mass))
    step, usual = campaign.dynamics.timestep_fs, usual_timestep_fs(lightest)
    if step > _LONG_STEP * usual:
        told.append(f"dynamics.timestep_fs is {step:g}; with {lightest} {usual:g} is usual, and MD may explode")
    told += _missing_trainer(campaign)
    basis = campaign.trainer.basis
    if getattr(basis, "potential_section", None) is not None:  # it has cutoffs of its own
        return list(dict.fromkeys(told))
    cutoff = TRAINERS[campaign.trainer.kind].cutoff_A(basis)
    closest = min(map(nearest_neighbour, structures))
    if cutoff < closest:
        told.append(f"trainer.basis.cutoff is {cutoff:g} A, and nearest neighbours are {closest:.2f} A apart")
    for atoms in structures:
        width = cell_width(boxed(atoms).cell.array, goes_on_along(atoms))  # infinite for a cluster
        if width < cutoff:
            told.append(
                f"structures: {atoms.get_chemical_formula()} is {width:.1f} A wide, less than the cutoff of {cutoff:g} "
                "A: atoms interact with their own images; use a larger repeat"
            )
    return list(dict.fromkeys(told))


def _listed_twice(structures: Sequence[Atoms]) -> list[str]:
    """Say which entries are one structure: their walkers differ by their seeds alone."""
    from mlip_autopipec.oracle.identity import canonical_form

    entries: dict[str, list[int]] = {}
    for number, atoms in enumerate(structures):
        entries.setdefault(str((canonical_form(atoms), frozen_atoms(atoms).tolist())), []).append(number)
    return [
        f"structures: the entries {', '.join(map(str, same[:-1]))} and {same[-1]} (from 0) are one structure, "
        f"{structures[same[0]].get_chemical_formula()}: its first dataset and its walkers are there {len(same)} times, "
        "with other seeds, and cost as much each time; leave one entry if that is not meant"
        for same in entries.values()
        if len(same) > 1
    ]


def _without_forces(structures: Sequence[Atoms]) -> list[str]:
    """Warn of cells of one atom, before labels are spent on a check that proves nothing."""
    return [
        f"structures: {atoms.get_chemical_formula()} is a cell of one atom, whose force is zero by symmetry: MD does "
        "not move it, and the check proves nothing; use a larger repeat"
        for atoms in structures
        if len(atoms) == 1 and atoms.pbc.any()
    ]


def _unseen(campaign: RunFile) -> list[str]:
    if campaign.start_from.labels is None or campaign.oracle.n_compared:
        return []
    told = (
        "oracle.n_compared is 0: no label of the dataset is computed again, so its units, signs and zero of energy are "
        "trusted as far as they do not contradict each other"
    )
    return [told]


def _wider_than_md(campaign: RunFile) -> list[str]:
    """Warn of a first dataset in wider cells than MD's, of an oracle whose energies depend on that."""
    from mlip_autopipec.oracle.ase_calculators import samples_gamma_only
    from mlip_autopipec.structures.periodicity import boxed
    from mlip_autopipec.structures.supercells import nearly_cubic_supercell

    maker = campaign.maker()
    generator = getattr(maker.generate_maker, "generator", None)
    if generator is None or campaign.start_from.labels is not None:
        return []
    if not samples_gamma_only(maker.oracle_maker.static_maker):
        return []
    told = []
    for atoms in map(boxed, campaign.load_structures()):
        wider = nearly_cubic_supercell(atoms, generator.max_atoms, generator.min_width)
        if len(wider) > len(atoms):
            told.append(
                f"first_dataset: its cells have {len(wider)} atoms, those of MD {len(atoms)} "
                f"({atoms.get_chemical_formula()}); the oracle samples the Gamma point alone, so the energies of both "
                f"do not belong together. Set max_atoms to {len(atoms)}, or repeat the structure"
            )
    return told


#: What to do about dipoles of slabs, by the calculator's class; those of VASP, Quantum ESPRESSO and CP2K by atomate2
#: are corrected on request, see docs/surfaces.md.
_DIPOLE_REMEDY = {
    "ase.calculators.abinit.Abinit": "ABINIT has no dipole correction",
    "ase.calculators.aims.Aims": "use_dipole_correction of FHI-aims would act on all structures",
    "ase.calculators.cp2k.CP2K": "SURFACE_DIPOLE_CORRECTION of its input would act on all structures, along one axis",
    "gpaw.GPAW": "poissonsolver: {dipolelayer: xy} of GPAW would act on all structures, along one axis",
    "gpaw.calculator.GPAW": "poissonsolver: {dipolelayer: xy} of GPAW would act on all structures, along one axis",
}


def _dipoles(campaign: RunFile) -> list[str]:
    """Warn of slabs with two different sides where no dipole correction is set for each."""
    from mlip_autopipec.oracle.suitability import calculator_of
    from mlip_autopipec.structures.periodicity import sides_differ

    remedy = _DIPOLE_REMEDY.get(calculator_of(campaign.oracle.static_maker()) or "")
    if remedy is None:
        return []
    return [
        f"structures: {atoms.get_chemical_formula()} is a slab with two different sides, and its dipole is not "
        f"corrected: {remedy}. Make both sides alike, widen the vacuum, or take VASP, Quantum ESPRESSO or CP2K "
        "(atomate2)"
        for atoms in campaign.load_structures()
        if sides_differ(atoms)
    ]


def _one_composition(campaign: RunFile, elements: list[str]) -> list[str]:
    """Say that a first dataset does not tell the energies of the elements apart, as is said of given labels."""
    from mlip_autopipec.structures.provenance import about_compositions

    start, trainer = campaign.start_from, campaign.trainer
    if len(elements) < 2 or start.labels is not None or start.potential is not None or trainer.reference_energies:
        return []
    largest = max(map(len, campaign.load_structures()))
    if largest > campaign.maker().propose_maker.cutouts.max_atoms:  # pieces of them differ, and take time to cut
        return []
    return about_compositions(campaign.make_first(), "first_dataset: its")


def _missing_trainer(campaign: RunFile) -> list[str]:
    """Warn before labels are computed that the trainer cannot run."""
    from mlip_autopipec.kinds import TRAINERS

    look = TRAINERS[campaign.trainer.kind].look
    if look is None or not (found := look(campaign.trainer)).remedy:
        return []
    return [f"trainer {campaign.trainer.kind}: {found.found}: {found.remedy}"]
