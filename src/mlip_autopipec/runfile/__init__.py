"""The run file, one YAML file that describes a whole campaign: its model, its sections, and `init` that writes one."""
