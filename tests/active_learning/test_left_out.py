"""Which labels are flagged by the errors of each left out of the fit: the wrong one, and not those like it."""

import numpy as np
import pytest

from mlip_autopipec.active_learning.outliers import OutlierRule

N = 50
#: Columns of the surprises: energy, forces, component. Of the scales: stress, its error in GPa, both scales.
SOUND = {"energy": 0.002, "forces": 0.05, "component": 0.2, "surprise": (1.0, 1.0, 1.0), "scales": (1.0, 0.1, 1.0, 1.0)}


def judged(**wrong: dict[int, object]) -> dict[int, str]:
    """Return first reasons, of sound labels with some values of some of them replaced."""
    values = {}
    for name, usual in SOUND.items():
        values[name] = np.tile(np.asarray(usual, dtype=float), (N, 1)) if np.ndim(usual) else np.full(N, usual)
        for index, value in wrong.get(name, {}).items():
            values[name][index] = value
    found = OutlierRule().judge_left_out(
        values["energy"], values["forces"], values["component"], values["surprise"], values["scales"]
    )
    return {one.index: one.reasons[0] for one in found}


def test_sound_labels_are_not_flagged():
    assert judged() == {}
    # the largest of 600 sound labels of DFT
    assert judged(energy={3: 0.09}, surprise={3: (2.7, 4.0, 5.3)}, forces={3: 0.4}, component={3: 0.9}) == {}
    assert judged(scales={3: (6.6, 0.73, 1.0, -0.46), 4: (6.7, 1.33, 1.0, 0.83), 5: (2.2, 1.89, 1.0, -4.1)}) == {}


@pytest.mark.parametrize("off", [0.025, -0.03, 0.1])
def test_an_energy_that_is_off_by_little_is_found(off):
    assert list(judged(energy={7: off}, surprise={7: (12.0, 1.0, 1.0)})) == [7]
    assert judged(energy={7: off / 5}, surprise={7: (12.0, 1.0, 1.0)}) == {} or abs(off) == 0.1


@pytest.mark.parametrize(
    ("scales", "told"),
    [
        ((90.0, 160.0, 1.0, 160.0), "its stress is 160 GPa off what all other labels say (another unit?)"),
        ((60.0, 1600.0, 1.0, 1602.0), "its stress is 1.6e+03 GPa off what all other labels say (another unit?)"),
        ((12.0, 4.0, 1.0, 0.011), "its stress is 0.011 times what all other labels say (another unit?)"),
        ((12.0, 4.0, 1.0, -1.0), "its stress is -1 times what all other labels say (turned round?)"),
    ],
    ids=["GPa", "kB", "Ry/bohr^3", "sign"],
)
def test_a_stress_of_another_unit_or_sign_is_found(scales, told):
    assert judged(scales={11: scales}) == {11: told}


def test_labels_that_a_wrong_one_spoils_are_judged_again_without_it():
    """A stress turned round made energies of sound labels look wrong: 64 of 490 times one was left out for good."""
    spoilt = judged(
        scales={11: (60.0, 12.0, 1.0, -1.0)}, energy={20: 0.05}, surprise={20: (14.0, 1.0, 1.0), 21: (1.0, 1.0, 7.0)}
    )
    assert list(spoilt) == [11]
    several = judged(energy={4: 0.1, 5: -0.1, 6: 0.08}, surprise=dict.fromkeys((4, 5, 6), (20.0, 1.0, 1.0)))
    assert list(several) == [4, 5, 6]
