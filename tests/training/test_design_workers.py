"""Workers of a fit have one thread each, and leave no traceback behind when it is ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from ase.build import bulk
from pyace import ACEBBasisSet
from threadpoolctl import threadpool_info, threadpool_limits

from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.training import design

SCRIPT = """
    import os, signal, sys
    from ase.build import bulk
    from mlip_autopipec.potentials.basis import BasisSettings
    from mlip_autopipec.training import design

    def interrupt(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    from pyace import ACEBBasisSet
    basis = ACEBBasisSet(BasisSettings(number_of_functions_per_element=100).configuration(["Cu"]))
    atoms = [bulk("Cu", cubic=True) * (12, 12, 12) for _ in range(2)]
    print("begun", flush=True)
    try:
        while True:
            list(design._all_rows(basis, atoms, 4))  # two of the workers have nothing to do
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


def test_a_term_to_the_whole_group_ends_in_no_traceback():
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "begun\n"
    try:
        process.wait(2.0)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)
    out, error = process.communicate(timeout=300)
    assert "interrupted" in out, error
    assert "Traceback" not in error


def threads() -> list[int]:
    return [pool["num_threads"] for pool in threadpool_info()]


def test_each_worker_has_one_thread():
    basis = ACEBBasisSet(BasisSettings(number_of_functions_per_element=10).configuration(["Cu"]))
    with threadpool_limits(2):
        before = threads()
        pool = ProcessPoolExecutor(1, get_context("fork"), design._start_worker, (basis,))
        with pool:
            there = pool.submit(threads).result()
        (alone,) = design._all_rows(basis, [bulk("Cu", cubic=True)], 1)
        (first, _) = design._all_rows(basis, [bulk("Cu", cubic=True)] * 2, 2)
    assert set(before) == {2}, "as on a machine with two cores"
    assert set(there) == {1}
    assert (first.forces == alone.forces).all()
