"""
Where a gradient fit begins: at the linear fit to the same labels, as the first of its densities.

A gradient fit from nothing spends most of its iterations on what a linear fit finds in seconds, and ends in a worse
minimum. The linear fit also has what pacemaker lacks: the stresses, the error that the weights ask for, and, where
the user names none, cutoff, radial functions and number of functions by the evidence of the labels.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import yaml

from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.potentials.potential import ACEPotential
from mlip_autopipec.training.linear import LinearACETrainer
from mlip_autopipec.training.results import Fit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlip_autopipec.training.training import FitTask

#: Functions of each element that the labels may choose, for one, two, and three or more elements: more than these take
#: TensorFlow gigabytes and minutes (20 labels of silicon with 600: 3 GB; 60 with 1200: 10 GB), fewer cost accuracy.
MOST_FUNCTIONS = (600, 320, 220)
#: Its embeddings whose slope is finite where a density is zero; FinnisSinclair's own square root has none there.
_SMOOTH = "FinnisSinclairShiftedScaled"
_BEGINS = "The gradient fit begins at a linear fit to the same labels:"
_LINEAR: dict[str, Any] = {"npot": _SMOOTH, "fs_parameters": [1, 1], "ndensity": 1}


def has_linear_part(basis: BasisSettings) -> bool:
    """Tell whether the first density of every embedding adds to the energy as it is."""
    given = basis.potential_section
    if given is None:
        return True
    embeddings = given.get("embeddings", {}).values()
    return bool(embeddings) and all(
        one.get("npot") == _SMOOTH and list(one.get("fs_parameters", ()))[:2] == [1, 1] for one in embeddings
    )


def linear_trainer(basis: BasisSettings, elements: Sequence[str], settings: Mapping[str, Any]) -> LinearACETrainer:
    """
    Return the trainer of the linear fit that a gradient fit begins at.

    Parameters
    ----------
    basis
        Of the gradient fit; :func:`has_linear_part`. If it gives no number of functions, the labels choose size, cutoff
        and radial functions, up to :data:`MOST_FUNCTIONS`.
    elements
        Of the potential.
    settings
        Of the linear trainer.
    """
    if basis.potential_section is not None or basis.number_of_functions_per_element is not None:
        fixed = basis.section(elements) | {"embeddings": {"ALL": _LINEAR}}
        return LinearACETrainer(basis=BasisSettings(potential_section=fixed), **settings)
    most = MOST_FUNCTIONS[min(len(elements), len(MOST_FUNCTIONS)) - 1]
    return LinearACETrainer(basis=replace(basis, ndensity=1), max_functions_per_element=most, **settings)


def linear_start(basis: BasisSettings, task: FitTask, settings: Mapping[str, Any]) -> Fit:
    """
    Return the linear fit that a gradient fit begins at, its potential with the densities of the gradient fit.

    Parameters
    ----------
    basis, settings
        As in :func:`linear_trainer`.
    task
        The labels, and the teacher where there is one.

    Raises
    ------
    TrainingError, InvalidInputError
        As :func:`~mlip_autopipec.training.linear_fit.fit_linear`.
    """
    trainer = linear_trainer(basis, task.elements, settings)
    # energies count more in a linear fit, so dimers have to count less
    weighted = task.with_dimers_at_most(trainer.dimer_weight)
    found = Fit(*trainer.fit(replace(weighted, start=None)))
    given = basis.section(task.elements)["embeddings"]
    embeddings = {element: given.get(element, given.get("ALL", {})) for element in task.elements}
    return found._replace(potential=with_densities(found.potential, embeddings), log=f"{_BEGINS}\n{found.log}\n\n")


def with_densities(potential: ACEPotential, embeddings: Mapping[str, Mapping[str, Any]]) -> ACEPotential:
    """
    Return a linear potential as one with further densities, all zero: energies and forces are the same.

    Parameters
    ----------
    potential
        With one density.
    embeddings
        Of each element, as in pacemaker's ``potential`` section.
    """
    content = yaml.safe_load(potential.yaml)
    for block in content["species"]:
        elements = block["speciesblock"].split()
        embedding = embeddings[elements[0]]
        if len(elements) == 1:
            block |= {"ndensityi": embedding["ndensity"], "parameters": list(embedding["fs_parameters"])}
            block |= {name: embedding[name] for name in ("rho_core_cut", "drho_core_cut") if name in embedding}
        further = [0.0] * (embedding["ndensity"] - 1)
        for function in block.get("nbody", []):
            function["c"] = [number for c in function["c"] for number in (c, *further)]
    text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=1000)
    return ACEPotential.from_basis(ACEPotential(text).configuration())
