"""The error of this package."""


class InvalidInputError(ValueError):
    """Input that VASP, or its stand-in, cannot run with; the message says what is wrong and what to do."""
