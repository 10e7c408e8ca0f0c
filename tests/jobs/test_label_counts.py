"""What became of the labels of a cycle is counted, in one piece or in parts."""

from __future__ import annotations

import pytest

from mlip_autopipec.jobs.label_counts import LabelCounts
from mlip_autopipec.schemas.label import LabelBatch, LabelDocument


def label(index: int, **fields) -> LabelDocument:
    fields = {"state": "successful", "seconds": 2.0, "formula": "Cu", "n_atoms": 1, "origin": "halt"} | fields
    return LabelDocument(uuid=f"u{index}", campaign_id="c", cycle=1, index=index, oracle="EMT", directory=".", **fields)


LABELS = [
    label(0),
    None,
    label(2, state="failed", reason="not converged"),
    label(3, reused_from="u0", seconds=0.0),
    label(4),
]


def batch(counts: LabelCounts, max_failed_fraction: float = 0.5) -> LabelBatch:
    return counts.to_batch("u", "c", 1, max_failed_fraction)


def test_labels_are_counted_with_the_reasons_of_those_that_failed():
    found = batch(LabelCounts.of(LABELS))
    assert (found.n_asked, found.n_labelled, found.n_reused, found.seconds) == (5, 3, 1, 6.0)
    assert found.label_ids == ["u0", "u2", "u3", "u4"]
    assert [(one.index, one.reason.split(";")[0]) for one in found.failed] == [
        (1, "the job failed"),
        (2, "not converged"),
    ]
    assert not found.oracle_failing


@pytest.mark.parametrize(
    ("labels", "required", "fraction", "failing"),
    [
        (LABELS, [], 0.4, False),
        (LABELS, [], 0.3, True),
        (LABELS, [2], 1.0, True),
        (LABELS, [3], 1.0, False),
        ([None], [], 1.0, True),
        ([], [], 0.0, False),
    ],
)
def test_the_oracle_fails_by_share_by_isolated_atom_or_with_no_label(labels, required, fraction, failing):
    assert batch(LabelCounts.of(labels, required), fraction).oracle_failing is failing


def test_parts_give_what_the_whole_gives():
    parts = [batch(LabelCounts.of(LABELS[i : i + 2], [2], i)) for i in (0, 2, 4)]
    assert batch(LabelCounts.of_parts(parts, 5, 2)) == batch(LabelCounts.of(LABELS, [2]))


def test_labels_of_a_part_that_was_never_requested_count_as_failed():
    found = batch(LabelCounts.of_parts([batch(LabelCounts.of(LABELS[:2])), None, None], 5, 2))
    assert [one.index for one in found.failed] == [1, 2, 3, 4]
    assert "the job that requests it failed" in found.failed[-1].reason


def test_reasons_of_many_failed_labels_are_cut():
    labels = [label(i, state="failed", reason="x" * 2000) for i in range(500)]
    assert {len(one.reason) for one in LabelCounts.of(labels).failed} == {400}
