"""The run file, one YAML that says everything about a campaign: its model, its sections, and `init` that writes one."""
