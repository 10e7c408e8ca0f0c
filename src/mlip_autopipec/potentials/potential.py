"""
An ACE potential as one value: B-basis, active set, reference energies.

pyace is imported where something is evaluated: a query of a database does not need it.
"""

from __future__ import annotations

import hashlib
import io
import re
import tempfile
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import yaml
from ase.data import chemical_symbols

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.potentials.beside import posterior_beside, warn_of_references
from mlip_autopipec.potentials.examine import LARGEST, examine
from mlip_autopipec.potentials.posterior import ErrorBars, Posterior

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ase import Atoms
    from numpy.typing import NDArray
    from pyace import ACEBBasisSet, BBasisConfiguration
    from pyace.grace_fs import GRACEFSBasisSet, GRACEFSBEvaluator

    from mlip_autopipec.potentials.calculators import ACECalculator, GRACEFSCalculator


#: Most bytes of an active set.
_LARGEST_ASI = 4 * 2**30


class PotentialPaths(NamedTuple):
    """Where :meth:`ACEPotential.write` put the files; a GRACE-FS potential has no ``.yace``."""

    yaml: Path
    yace: Path | None
    asi: Path
    posterior: Path | None = None


def _is_grace(text: str) -> bool:
    return re.search(r"^emb_spec:", text, re.MULTILINE) is not None


def _read_basis(text: str) -> ACEBBasisSet | GRACEFSBasisSet:
    from pyace import ACEBBasisSet
    from pyace.grace_fs import GRACEFSBasisSet

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "potential.yaml"
        path.write_text(text)
        return GRACEFSBasisSet(str(path)) if _is_grace(text) else ACEBBasisSet(str(path))


#: Each job of a cycle reads the same potential out of the store, and some the one before; pyace takes long to tabulate
#: their radial functions. A basis of five elements takes 70 MB.
_shared_basis = lru_cache(maxsize=2)(_read_basis)


@dataclass(frozen=True, eq=False)
class ACEPotential:
    """
    An ACE potential with its active set.

    Parameters
    ----------
    yaml
        Text of the B-basis file (pacemaker's ``output_potential.yaml``), or of a GRACE-FS
        potential (gracemaker's ``FS_model.yaml``).
    active_set_inverse
        For each element the inverse of its active set, (n_functions, n_functions): what an
        ``.asi`` file holds. Empty where gamma is not known.
    reference_energies
        Energy in eV that is added per atom of each element; the ACE itself is fitted to
        what remains. LAMMPS leaves it out, which changes no force.
    posterior
        Of the coefficients of a linear fit, from which error bars follow; None for other fits.
    """

    yaml: str
    active_set_inverse: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    reference_energies: Mapping[str, float] = field(default_factory=dict)
    posterior: Posterior | None = None

    @classmethod
    def from_files(
        cls,
        yaml_path: str | Path,
        asi_path: str | Path | None = None,
        reference_energies: Mapping[str, float] | None = None,
        *,
        examined: bool = False,
        posterior_path: str | Path | None = None,
    ) -> ACEPotential:
        """
        Read a potential made by pacemaker (or by :meth:`write`) from disk.

        Parameters
        ----------
        yaml_path, asi_path
            Its B-basis, and its active set.
        reference_energies
            Energy in eV of an isolated atom of each element. None: none, with a warning where the potential is that of
            a campaign, which has some.
        examined
            Whether it was examined before. Else it is loaded and evaluated in a process of its own first: pyace crashes
            on some damaged files.
        posterior_path
            File of its posterior, for error bars: the ``.posterior.npz`` beside it.

        Raises
        ------
        InvalidInputError
            Names the file and what is wrong with it.
        """
        yaml_file = Path(yaml_path)
        if not yaml_file.is_file():
            raise InvalidInputError(f"potential file '{yaml_file}' does not exist; give the B-basis .yaml file")
        content = b""
        try:
            for file in (yaml_file, *([] if asi_path is None else [Path(asi_path)])):
                if file.exists() and file.stat().st_size > LARGEST:
                    raise InvalidInputError(f"potential file '{file}' is larger than {LARGEST / 1e6:g} MB")
            text = yaml_file.read_text(encoding="utf-8")
            content = b"" if asi_path is None else Path(asi_path).read_bytes()
        except (OSError, UnicodeDecodeError) as error:
            of = asi_path if isinstance(error, OSError) and error.filename == str(asi_path) else yaml_file
            raise InvalidInputError(f"potential file '{of}' cannot be read: {error}") from error
        try:
            inverse = unpack_active_set(content)
        except InvalidInputError as error:
            raise InvalidInputError(f"active set '{asi_path}': {error}") from error
        posterior = None
        if posterior_path is not None:
            try:
                posterior = Posterior.unpack(Path(posterior_path).read_bytes())
            except (OSError, InvalidInputError) as error:
                raise InvalidInputError(f"posterior '{posterior_path}': {error}") from error
        if reference_energies is None:
            warn_of_references(yaml_file)
        potential = cls(text, inverse, reference_energies or {}, posterior)
        if posterior is None and (beside := posterior_beside(yaml_file)) is not None:
            potential.__dict__["_posterior_beside"] = beside
        if not examined:
            what = f"'{yaml_file}'" + ("" if asi_path is None else f" with '{asi_path}'")
            examine(text, content, inverse, what)
        return potential

    @classmethod
    def from_basis(cls, basis: ACEBBasisSet | BBasisConfiguration, **kwargs: Any) -> ACEPotential:
        """Take the potential out of a pyace basis object."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "potential.yaml"
            basis.save(str(path))
            return cls(path.read_text(), **kwargs)

    @cached_property
    def is_grace(self) -> bool:
        """Whether this is a GRACE-FS potential; told from the keys of its file."""
        return _is_grace(self.yaml)

    @cached_property
    def basis(self) -> ACEBBasisSet | GRACEFSBasisSet:
        """The basis set as pyace evaluates it; shared with other potentials of the same text, so not to be changed."""
        return _shared_basis(self.yaml)

    def own_basis(self) -> ACEBBasisSet | GRACEFSBasisSet:
        """Return a basis set of its own, whose coefficients may be changed."""
        return _read_basis(self.yaml)

    def refuse_grace(self, who: str) -> None:
        """Raise if this is a GRACE-FS potential, which ``who`` cannot take."""
        if self.is_grace:
            raise InvalidInputError(
                f"{who} cannot take a GRACE-FS potential; MD with it runs in the library engine (engine: library), "
                "and GRACEFSTrainer trains it"
            )

    def configuration(self) -> BBasisConfiguration:
        """Return a fresh, editable pyace configuration of this potential; GRACE-FS has none."""
        from pyace import BBasisConfiguration

        self.refuse_grace("pacemaker's basis configuration")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "potential.yaml"
            path.write_text(self.yaml)
            return BBasisConfiguration(str(path))

    @cached_property
    def yace(self) -> str:
        """Text of the ``.yace`` form (C-tilde basis), which ``pair_style pace`` reads; GRACE-FS has none."""
        self.refuse_grace("the C-tilde basis (.yace) of pair_style pace")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "potential.yace"
            self.basis.to_ACECTildeBasisSet().save_yaml(str(path))
            return path.read_text()

    @property
    def elements(self) -> list[str]:
        """Elements in pyace's (alphabetical) order."""
        return list(self.basis.elements_name)

    @property
    def cutoff(self) -> float:
        """Largest cutoff in Angstrom."""
        return float(self.basis.cutoffmax)

    @property
    def n_functions(self) -> dict[str, int]:
        """Number of basis functions of each element."""
        if self.is_grace:
            return dict(zip(self.elements, map(int, self.basis.nfuncs), strict=True))
        counts = [len(a) + len(b) for a, b in zip(self.basis.basis_rank1, self.basis.basis, strict=True)]
        return dict(zip(self.elements, counts, strict=True))

    @property
    def coefficients(self) -> NDArray[np.float64]:
        """All trainable coefficients (radial and function), flat."""
        if not self.is_grace:
            return np.asarray(self.basis.all_coeffs, dtype=float)
        content = yaml.load(self.yaml, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 both are safe
        radial, functions = content["radial_basis"], content["functions"]
        angular = [c for element in sorted(functions) for function in functions[element] for c in function["coeff"]]
        return np.array([*radial["crad"], *radial["Z"], *angular], dtype=float)

    def active_set_matrices(self) -> list[NDArray[np.float64]]:
        """
        Return the inverse active sets in the order of the elements, as pyace takes them.

        Raises
        ------
        InvalidInputError
            If one is missing or belongs to another basis; pyace would read past its end.
        """
        matrices = []
        for element, n in self.n_functions.items():
            matrix = np.asarray(self.active_set_inverse.get(element, np.empty((0, 0))), dtype=float)
            if matrix.shape != (n, n):
                raise InvalidInputError(
                    f"the active set of {element} has shape {matrix.shape}, but the potential has {n} functions: "
                    "the .asi file belongs to another potential"
                )
            matrices.append(matrix)
        return matrices

    @property
    def sha256(self) -> str:
        """Fingerprint of basis and active set."""
        digest = hashlib.sha256(self.yaml.encode())
        for element in sorted(self.active_set_inverse):
            digest.update(element.encode())
            digest.update(np.ascontiguousarray(self.active_set_inverse[element]).tobytes())
        return digest.hexdigest()

    @property
    def core_radii(self) -> dict[tuple[str, str], float]:
        """
        Distance in Angstrom below which each pair feels the core repulsion.

        Gamma does not see the core, so MD has to watch these distances itself. GRACE-FS has no
        core: its basis, and with it gamma, goes on to zero distance.
        """
        if self.is_grace:
            return {}
        names = self.elements
        bonds = self.basis.map_bond_specifications
        return {(names[i], names[j]): float(bonds[(i, j)].rcut_in) for i, j in bonds if i <= j}

    def check_elements(self, atoms: Atoms | Sequence[str], what: str = "structure") -> None:
        """Raise if the potential does not know an element of ``atoms``."""
        symbols = atoms if not hasattr(atoms, "get_chemical_symbols") else atoms.get_chemical_symbols()
        missing = sorted(set(symbols) - set(self.elements))
        if missing:
            raise InvalidInputError(
                f"{what} holds {missing}, which the potential lacks (it knows {self.elements}); "
                "start from a potential trained on all elements, or from none"
            )

    def reference_energy(self, atoms: Atoms) -> float:
        """Return the sum of the reference energies of all atoms in eV."""
        return reference_energy(atoms, self.reference_energies)

    @cached_property
    def error_bars(self) -> ErrorBars:
        """
        Error bars of energies, forces and stresses.

        Raises
        ------
        InvalidInputError
            If the potential has no posterior.
        """
        if self.posterior is None and (beside := self.__dict__.get("_posterior_beside")) is not None:
            raise InvalidInputError(
                "the potential was read without its posterior, from which error bars follow; it is in "
                f"'{beside}': give ACEPotential.from_files(..., posterior_path='{beside}')"
            )
        if self.posterior is None:
            raise InvalidInputError(
                "the potential has no error bars: they come from the posterior of a linear fit (LinearACETrainer "
                "without energy_weight, force_weight and ridge); use gamma, or train with it"
            )
        return ErrorBars(self.own_basis(), self.posterior)

    def calculator(self) -> ACECalculator | GRACEFSCalculator:
        """
        Return an ASE calculator; total energies, and ``results['gamma']`` where an active set exists.

        With a posterior it has the properties ``energy_std`` (eV), ``forces_std`` ((n_atoms, 3), eV/A) and
        ``stress_std`` ((6,), eV/A^3), computed when they are asked for:
        ``calculator.get_property("forces_std", atoms)``.
        """
        from mlip_autopipec.potentials.calculators import ACECalculator, GRACEFSCalculator

        return GRACEFSCalculator(self) if self.is_grace else ACECalculator(self)

    def grace_evaluator(self) -> GRACEFSBEvaluator:
        """Return pyace's evaluator of a GRACE-FS potential, with its active set (which it reads from files only)."""
        from mlip_autopipec.potentials.grace import grace_evaluator

        evaluator = grace_evaluator(self.basis)
        if self.active_set_inverse:
            matrices = dict(zip(self.elements, self.active_set_matrices(), strict=True))
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "potential.asi"
                path.write_bytes(pack_active_set(matrices))
                evaluator.load_active_set(str(path))
        return evaluator

    def write(self, folder: str | Path, stem: str = "potential") -> PotentialPaths:
        """
        Write ``.yaml``, ``.yace`` (not of GRACE-FS) and ``.asi``: what LAMMPS, ASE and pacemaker read.

        A posterior is written to ``.posterior.npz``.
        """
        base = Path(folder)
        base.mkdir(parents=True, exist_ok=True)
        yace = None if self.is_grace else base / f"{stem}.yace"
        paths = PotentialPaths(base / f"{stem}.yaml", yace, base / f"{stem}.asi")
        paths.yaml.write_text(self.yaml)
        if yace is not None:
            yace.write_text(self.yace)
        if self.active_set_inverse:
            paths.asi.write_bytes(pack_active_set(self.active_set_inverse))
        if self.posterior is not None:
            file = base / f"{stem}.posterior.npz"
            file.write_bytes(self.posterior.pack())
            paths = paths._replace(posterior=file)
        return paths


def reference_energy(atoms: Atoms, reference_energies: Mapping[str, float]) -> float:
    """Sum of the reference energies (eV) of all atoms."""
    numbers, counts = np.unique(atoms.numbers, return_counts=True)
    symbols = [chemical_symbols[number] for number in numbers]
    return float(sum(n * reference_energies.get(s, 0.0) for s, n in zip(symbols, counts.tolist(), strict=True)))


def pack_active_set(inverse: Mapping[str, NDArray[np.float64]]) -> bytes:
    """Write an active set as the bytes of an ``.asi`` file (an npz of one matrix per element)."""
    buffer = io.BytesIO()
    matrices: dict[str, Any] = {element: np.asarray(m) for element, m in inverse.items()}
    np.savez(buffer, **matrices)
    return buffer.getvalue()


def unpack_active_set(data: bytes) -> dict[str, NDArray[np.float64]]:
    """
    Read the bytes of an ``.asi`` file; no bytes, no active set.

    Raises
    ------
    InvalidInputError
        They are no archive of plain matrices.
    """
    if not data:
        return {}
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            if sum(entry.file_size for entry in archive.zip.infolist()) > _LARGEST_ASI:
                raise InvalidInputError("it unpacks to more than 4 GB; the .asi file is damaged")
            return {element: archive[element] for element in archive.files}
    except InvalidInputError:
        raise
    except Exception as error:  # of zipfile, zlib, numpy's headers, the memory
        raise InvalidInputError(
            f"it holds no matrices ({type(error).__name__}: {str(error)[:200]}); copy it again"
        ) from error
