"""A run file whose campaign takes seconds."""

SMALL = {
    "name": "small",
    "seed": 3,
    "structures": [{"bulk": {"name": "Cu", "cubic": True}, "repeat": [2, 2, 2]}],
    "conditions": [{"temperature_K": 1200}],
    "oracle": {"kind": "emt"},
    "trainer": {"kind": "linear", "basis": {"number_of_functions_per_element": 20, "cutoff": 4.5}},
    "dynamics": {"n_steps": 300, "gamma_lo": 1.5, "gamma_hi": 2.0},
    "first_dataset": {"n_structures": 6, "n_test": 2, "rattle_amplitudes": [0.05, 0.1]},
    "stop": {"n_check_labels": 0},
}
