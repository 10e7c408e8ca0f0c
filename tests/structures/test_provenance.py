"""Where a structure comes from is one typed record, whatever else stands in its info."""

from __future__ import annotations

import pytest
from ase.build import bulk

from mlip_autopipec.errors import InvalidInputError
from mlip_autopipec.frames import pack_frames, unpack_frames
from mlip_autopipec.structures.provenance import Origin, Provenance, Split, mark

WHOLE = Provenance(Origin.PROPERTY, Split.CHECK, "Cu: eos volume 1.0", cutout_of=4, n_core=17)


def test_it_travels_with_the_structure():
    atoms = bulk("Cu")
    atoms.info["mine"] = 1
    (again,) = unpack_frames(pack_frames([WHOLE.mark(atoms)]))
    assert Provenance.of(again) == WHOLE
    assert again.info["mine"] == 1
    assert Provenance.of(mark(again, split=Split.TRAIN, purpose=None)) == Provenance(
        Origin.PROPERTY, cutout_of=4, n_core=17
    )
    assert "property" not in again.info


def test_nothing_known_is_a_label_to_train_on():
    assert Provenance.of(bulk("Cu")) == Provenance(Origin.GIVEN, Split.TRAIN)


@pytest.mark.parametrize(
    ("info", "said"),
    [
        ({"split": "validation"}, "train, test, reference, check are known"),
        ({"split": 3}, "are known"),
        ({"origin": 7}, "a name is needed"),
        ({"property": ""}, "a name is needed"),
    ],
)
def test_what_is_no_provenance_is_refused(info, said):
    atoms = bulk("Cu")
    atoms.info.update(info)
    with pytest.raises(InvalidInputError, match=said):
        Provenance.of(atoms)


def test_a_name_of_ones_own_is_kept():
    assert Provenance.of(mark(bulk("Cu"), origin="my generator")).origin == "my generator"
