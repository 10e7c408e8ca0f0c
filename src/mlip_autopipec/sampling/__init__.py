"""What is labelled next: the first dataset, and candidates around a halt."""
