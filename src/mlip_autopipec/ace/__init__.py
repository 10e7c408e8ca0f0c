"""ACE potentials: basis, active set, errors and trainers. Knows no workflow."""
