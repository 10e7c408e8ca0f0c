"""Files that a campaign leaves for its user."""

import numpy as np
from PIL import Image

from mlip_autopipec.report import plot_parity
from mlip_autopipec.training.accuracy import Predictions


def predictions(n_stresses):
    energy, forces, stress = np.linspace(-3, -2.9, 4), np.linspace(-1, 1, 48), np.linspace(-0.01, 0.01, n_stresses)
    return Predictions(energy, energy + 1e-3, forces, 0.99 * forces, stress, stress)


def test_stresses_have_a_panel_where_any_label_has_them(tmp_path):
    for name, sets in (
        ("two", {"train": predictions(0)}),
        ("three", {"train": predictions(24), "test": predictions(0), "validation": predictions(6)}),
    ):
        plot_parity(tmp_path / f"{name}.png", sets)
    widths = [Image.open(tmp_path / f"{name}.png").width for name in ("two", "three")]
    assert widths == [1350, 2025]
