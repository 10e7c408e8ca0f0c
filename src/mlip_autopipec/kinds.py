"""
The kinds of trainers, oracles, validation criteria and origins of candidates that a run file can name.

Everything the package asks about a kind stands in its entry, beside the class: what ``init`` writes, what ``doctor``
looks for, what ``run --dry-run`` warns of, what to cite. Other packages add kinds by entry points of the same names.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.settings import get_settings

K = TypeVar("K")


@dataclass(frozen=True)
class Availability:
    """
    Whether a program or package is on this machine.

    Parameters
    ----------
    found
        What is there, or what is missing.
    remedy
        What to do where something is missing; empty where nothing is.
    """

    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Material:
    """
    What ``init`` knows when it writes the settings of an oracle.

    Parameters
    ----------
    elements
        Of all structures, alphabetical.
    nearest_neighbour_A
        Shortest distance in A.
    calculator
        Import path of an ASE calculator the user named.
    has_slabs
        Whether one of the structures is a slab, for which codes have a dipole correction.
    """

    elements: Sequence[str]
    nearest_neighbour_A: float
    calculator: str
    has_slabs: bool = False


@dataclass(frozen=True)
class TrainerKind:
    """
    A trainer that a run file can name as ``trainer.kind``.

    Parameters
    ----------
    trainer, basis
        The dataclasses of the section ``trainer`` and of its ``basis``; the trainer inherits
        :class:`~mlip_autopipec.training.training.ACETrainer`.
    short
        A word or two in brackets behind its name.
    about
        The comment that ``init`` writes above the section.
    template
        The lines that ``init`` writes below ``kind:``, a jinja template of ``cutoff`` (A), ``about_cutoff`` and
        ``functions`` (per element), indented by two spaces.
    default_cutoff_A
        Cutoff in A where ``basis.cutoff`` is None.
    largest_cutoff_A
        Makes the largest cutoff in A that it may choose then for structures like these; None where it chooses none.
    basis_model, basis_fields
        Name in the JSON schema, and defaults as for pydantic's ``create_model``, where the basis has others than its
        class.
    gamma_hi
        Threshold of gamma that ``init`` writes.
    leaves_out
        Whether it tells the error of each label left out of the fit, so that none has to be held out.
    keeps_basis
        Whether a fine-tune keeps the basis without saying so. A campaign that goes on is then refused another one.
    look
        Looks for what the trainer needs on this machine, given the trainer; None where it needs nothing more.
    self_test
        Makes the trainer that ``doctor`` fine-tunes a small ACE potential of copper with; None for no such test.
    remedy
        What to do where that test fails.
    """

    trainer: type
    basis: type
    short: str
    about: str
    template: str
    default_cutoff_A: float
    largest_cutoff_A: Callable[[Sequence[Any]], float] | None = None
    basis_model: str | None = None
    basis_fields: Mapping[str, Any] = field(default_factory=dict)
    gamma_hi: float = 10.0
    leaves_out: bool = False
    keeps_basis: bool = False
    look: Callable[[Any], Availability] | None = None
    self_test: Callable[[], Any] | None = None
    remedy: str = "see the log above, and try the tests of the trainer: python -m pytest tests -k train"

    def cutoff_A(self, basis: Any) -> float:
        """Return the cutoff in A of potentials with a basis: the given one, or where the search for one begins."""
        return float(getattr(basis, "cutoff", None) or self.default_cutoff_A)


@dataclass(frozen=True)
class OracleKind:
    """
    An oracle that a run file can name as ``oracle.kind``.

    Parameters
    ----------
    maker
        Import path of what makes the atomate2 static maker. ``oracle.maker`` of a run file holds its arguments.
    about
        The comment that ``init`` writes behind the name.
    cost
        What a label of a few atoms takes. ``run --dry-run`` computes one unless it takes hours, and ``init`` writes MD
        of the oracle for validation, shorter where it takes seconds, unless it takes hours.
    atom_maker
        The same for isolated atoms, where they need settings of their own.
    template
        The lines that ``init`` writes below ``kind:``, a jinja template of ``values``, indented by two spaces. The
        filter ``flow`` writes a value in one line of YAML.
    values
        Makes the values of the template.
    isolated_atoms
        Whether ``init`` asks for the energies of isolated atoms.
    gamma_only
        Whether it samples the Gamma point alone, so that its energies depend on the width of the cell: ``init`` then
        makes the first dataset in the cells of MD.
    check
        Raises InvalidInputError for ``oracle.maker`` of a run file that would fail later.
    look
        Looks for the program on this machine; None where there is nothing to look for.
    citations
        For names of codes, as regular expressions: what to cite, by the key of the BibTeX entry.
    bibtex
        Those entries, where ``export/references.bib`` does not have them.
    """

    maker: str
    about: str
    cost: Literal["milliseconds", "seconds", "hours"] = "hours"
    atom_maker: str | None = None
    template: str = ""
    values: Callable[[Material], dict[str, Any]] | None = None
    isolated_atoms: bool = False
    gamma_only: bool = False
    check: Callable[[Mapping[str, Any]], None] | None = None
    look: Callable[[], Availability] | None = None
    citations: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    bibtex: str = ""


#: Makes a variant of a structure (ase.Atoms); the argument, at most 1, scales its amplitude.
Move: TypeAlias = Callable[[float], Any]


@dataclass(frozen=True)
class OriginKind:
    """
    A way to make candidates, which a run file can name in ``candidates.shares``.

    Its functions are given a :class:`~mlip_autopipec.sampling.variations.Base`.

    Parameters
    ----------
    about
        What the report says of it.
    moves
        Makes so many moves. Each is called until its result is new and no atoms are too close, with a smaller
        amplitude each time.
    possible
        Whether there are any of this structure; else other origins take its share.
    needs_modes
        Whether it needs the normal modes of the potential.
    """

    about: str
    moves: Callable[[Any, int], Sequence[Move]]
    possible: Callable[[Any], bool] = lambda base: len(base.atoms) > 0
    needs_modes: bool = False


class Registry(Mapping[str, K], Generic[K]):
    """
    Kinds by the name a run file calls them; each is imported when it is asked for.

    Parameters
    ----------
    group
        Group of the entry points by which other packages add kinds.
    own
        Those of this package, as ``module:attribute``.
    of
        What an entry has to be: an instance of this class.
    """

    def __init__(self, group: str, own: Mapping[str, str], of: type[K]) -> None:
        self.group, self._own, self._of = group, dict(own), of

    @property
    def own(self) -> list[str]:
        """Return the names of this package's own kinds, without looking for others."""
        return list(self._own)

    @cached_property
    def _others(self) -> dict[str, list[EntryPoint]]:
        found: dict[str, list[EntryPoint]] = defaultdict(list)
        for entry in sorted(entry_points(group=self.group), key=lambda entry: (entry.name, entry.value)):
            if entry.name in self._own:
                warnings.warn(
                    f"{_origin(entry)} adds '{entry.name}' to {self.group}, a name that mlip_autopipec uses itself; "
                    "it is left out. Another name is needed there",
                    stacklevel=2,
                )
            elif entry not in found[entry.name]:
                found[entry.name].append(entry)
        return {name: entries for name, entries in found.items() if entries}

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, this package's own first."""
        yield from self._own
        yield from self._others

    def __len__(self) -> int:
        return len(self._own) + len(self._others)

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._others

    def __getitem__(self, name: str) -> K:
        """
        Import a kind.

        Raises
        ------
        KeyError
            There is none of this name.
        InvalidInputError
            It cannot be imported, is something else, or several packages have one of this name.
        """
        own = self._own.get(name)
        entries = self._others[name] if own is None else [EntryPoint(name, own, self.group)]
        if len(entries) > 1:
            raise InvalidInputError(
                f"'{name}' of {self.group} is in several packages: {', '.join(map(_origin, entries))}; uninstall all "
                "but one"
            )
        where = f"'{name}' of {self.group}, {entries[0].value} of {_origin(entries[0])},"
        try:
            kind = entries[0].load()
        except Exception as error:
            raise InvalidInputError(
                f"{where} cannot be imported: {type(error).__name__}: {error}; mend or uninstall it"
            ) from error
        if not isinstance(kind, self._of):
            raise InvalidInputError(f"{where} is {kind!r}; it has to be of the class {self._of.__name__}")
        return kind

    @property
    def packages(self) -> frozenset[str]:
        """Names of the packages that add kinds, which whoever installed them trusts."""
        return frozenset(entry.value.partition(".")[0] for entries in self._others.values() for entry in entries)

    def usable(self) -> dict[str, K]:
        """Return all kinds by name, without those of other packages that cannot be imported: of these it warns."""
        kinds = {name: self[name] for name in self._own}
        for name in self._others:
            try:
                kinds[name] = self[name]
            except InvalidInputError as error:
                warnings.warn(str(error), stacklevel=2)
        return kinds


def _origin(entry: EntryPoint) -> str:
    return f"the package {entry.dist.name}" if entry.dist is not None else "mlip_autopipec"


#: Values of ``trainer.kind``.
TRAINERS = Registry(
    "mlip_autopipec.trainers",
    {
        "linear": "mlip_autopipec.training.linear:KIND",
        "pacemaker": "mlip_autopipec.training.pacemaker.trainer:KIND",
        "grace": "mlip_autopipec.training.grace:KIND",
    },
    TrainerKind,
)
#: Values of ``oracle.kind``.
ORACLES = Registry(
    "mlip_autopipec.oracles",
    {
        "emt": "mlip_autopipec.jobs.static:EMT",
        "lennard-jones": "mlip_autopipec.jobs.static:LENNARD_JONES",
        "gfn-xtb": "mlip_autopipec.jobs.static:GFN_XTB",
        "ase": "mlip_autopipec.jobs.static:ANY_CALCULATOR",
        "atomate2": "mlip_autopipec.jobs.any_maker:KIND",
        "espresso": "mlip_autopipec.jobs.espresso:KIND",
        "vasp": "mlip_autopipec.oracle.vasp_kind:KIND",
    },
    OracleKind,
)
#: Values of ``kind`` in the section ``criteria``: dataclasses that inherit
#: :class:`~mlip_autopipec.validation.criteria.Criterion`.
CRITERIA = Registry(
    "mlip_autopipec.criteria",
    {
        "properties": "mlip_autopipec.validation.properties:PropertyCriterion",
        "barrier": "mlip_autopipec.validation.barriers:BarrierCriterion",
    },
    type,
)

#: Names in ``shares`` of the section ``candidates``, in the order in which candidates are returned.
ORIGINS = Registry(
    "mlip_autopipec.origins",
    {
        "thermal": "mlip_autopipec.sampling.variations:THERMAL",
        "displacement": "mlip_autopipec.sampling.variations:DISPLACEMENT",
        "volume": "mlip_autopipec.sampling.variations:VOLUME",
        "soft_mode": "mlip_autopipec.sampling.variations:SOFT_MODE",
    },
    OriginKind,
)


def added_packages() -> frozenset[str]:
    """
    Name the packages that the owner of this machine lets run files and stored documents name classes of.

    Those that add kinds by entry points, and those of MLIP_AUTOPIPEC_CODE_FROM.
    """
    named = {name.strip() for name in get_settings().CODE_FROM.split(",")} - {""}
    return frozenset(named).union(*(registry.packages for registry in (TRAINERS, ORACLES, CRITERIA, ORIGINS)))
