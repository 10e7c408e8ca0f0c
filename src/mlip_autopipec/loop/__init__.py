"""When a walker goes on, and when the loop ends: plain logic, no jobs."""
