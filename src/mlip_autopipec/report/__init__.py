"""What a campaign leaves behind for people: files, a parity plot, a closing summary, a page to look at."""

from mlip_autopipec.report.results import plot_parity, summary_table, write_results

__all__ = ["plot_parity", "summary_table", "write_results"]
