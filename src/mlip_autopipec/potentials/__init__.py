"""ACE potentials: basis, active set, errors and trainers. Knows no workflow."""

import logging


def _import_pyace() -> None:
    """
    Import pyace, if it is there, and undo what it does to the root logger.

    At its first import it sets the level to INFO and adds a handler: every library's messages would then be printed in
    the script of a user of this package. All modules that use pyace are below this one, and find it imported.
    """
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        import pyace  # noqa: F401
    except ImportError:
        pass  # those who need it say so; a database can be asked without
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers


_import_pyace()
