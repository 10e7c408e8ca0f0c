"""Run files whose campaigns take seconds."""

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

#: Without a halt.
QUIET = {
    "name": "copper",
    "structures": [{"bulk": {"name": "Cu", "crystal": "fcc", "a": 3.6, "cubic": True}, "repeat": [2, 2, 2]}],
    "conditions": [{"temperature_K": 300}],
    "oracle": {"kind": "emt"},
    "trainer": {"kind": "linear", "basis": {"cutoff": 4.0, "number_of_functions_per_element": 20}},
    "dynamics": {"n_steps": 60, "gamma_hi": 50.0, "engine": "library"},
    "first_dataset": {"n_structures": 8, "n_test": 1},
    "stop": {"max_cycles": 1},
}
