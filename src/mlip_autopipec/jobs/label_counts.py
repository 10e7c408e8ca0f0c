"""What became of the labels of a cycle, counted."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from mlip_autopipec.schemas.label import FailedLabel, LabelBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlip_autopipec.schemas.label import LabelDocument

#: Letters of the reasons of all failed labels together, and of each if there are so many.
_REASONS_LENGTH, _REASON_LENGTH = 200_000, 200


@dataclass(frozen=True)
class LabelCounts:
    """
    What became of some labels.

    Parameters
    ----------
    n_asked, n_reused
        Labels asked for, and those of them that were there already.
    failed
        Those that failed, with their reasons.
    label_ids
        uuids of all label documents, failed ones too.
    seconds
        Summed wall time in s.
    """

    n_asked: int
    failed: list[FailedLabel]
    label_ids: list[str]
    n_reused: int
    seconds: float

    @classmethod
    def of(cls, labels: Sequence[LabelDocument | None], required: Sequence[int] = (), begin: int = 0) -> LabelCounts:
        """
        Count labels.

        Parameters
        ----------
        labels
            One for each structure; None for a job that failed.
        required
            Indices of those the loop cannot go on without: the isolated atoms.
        begin
            Index of the first.
        """
        failed = []
        length = max(_REASONS_LENGTH // max(len(labels), 1), _REASON_LENGTH)  # the label itself has the whole reason
        for index, label in enumerate(labels, begin):
            reason = None
            if label is None:
                reason = "the job failed; see its folder and the log of its manager"
            elif label.state == "failed":
                reason = label.reason or "unknown"
            if reason is not None:
                lost = "isolated atom: " if index in required else ""
                failed.append(FailedLabel(index=index, required=bool(lost), reason=f"{lost}{reason}"[:length]))
        there = [label for label in labels if label is not None]
        return cls(
            n_asked=len(labels),
            failed=failed,
            label_ids=[label.uuid for label in there],
            n_reused=sum(label.reused_from is not None for label in there),
            seconds=sum(label.seconds for label in there),
        )

    @classmethod
    def of_parts(cls, parts: Sequence[LabelBatch | None], n_asked: int, size: int) -> LabelCounts:
        """
        Add up parts.

        Parameters
        ----------
        parts
            Counted each for itself; None where its jobs could not be made.
        n_asked
            Labels asked for in all.
        size
            Labels of a part; the last may have fewer.
        """
        failed = []
        for begin, part in zip(range(0, n_asked, size), parts, strict=True):
            if part is None:
                lost = range(begin, min(begin + size, n_asked))
                failed += [FailedLabel(index=index, reason="the job that requests it failed") for index in lost]
            else:
                failed += part.failed
        there = [part for part in parts if part is not None]
        return cls(
            n_asked=n_asked,
            failed=failed,
            label_ids=[uuid for part in there for uuid in part.label_ids],
            n_reused=sum(part.n_reused for part in there),
            seconds=sum(part.seconds for part in there),
        )

    def to_batch(self, uuid: str, campaign_id: str, cycle: int, max_failed_fraction: float) -> LabelBatch:
        """
        Return the document, with the isolated atoms that failed first.

        Parameters
        ----------
        uuid, campaign_id, cycle
            Of the document.
        max_failed_fraction
            If more than this share failed, the oracle counts as failing; so it does if no label came, or an isolated
            atom is missing.
        """
        n_labelled = self.n_asked - len(self.failed)
        lost = any(one.required for one in self.failed)
        none_came = n_labelled == 0 and self.n_asked > 0
        return LabelBatch(
            uuid=uuid,
            campaign_id=campaign_id,
            cycle=cycle,
            n_labelled=n_labelled,
            oracle_failing=lost or none_came or len(self.failed) > max_failed_fraction * self.n_asked,
            **asdict(self) | {"failed": sorted(self.failed, key=lambda one: not one.required)},
        )
