"""On-the-fly learning of ACE interatomic potentials."""
