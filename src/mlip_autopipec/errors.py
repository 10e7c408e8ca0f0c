"""Exceptions of this package. Every message says what is wrong, where, and what to do."""

from __future__ import annotations

import errno
import sqlite3
from numbers import Integral, Real

#: How to get pacemaker and gracemaker. Only where uv reads this package's pyproject.toml does it keep CUDA out.
INSTALL_ACE = (
    "`pip install uv && uv pip install -c constraints.txt -e '.[ace]'` in the folder of mlip_autopipec's sources "
    "(anywhere else, and with pip, gigabytes of CUDA packages come along)"
)


class MLIPError(RuntimeError):
    """Base class of all errors raised on purpose by this package."""


class InvalidInputError(MLIPError, ValueError):
    """
    Input refused before anything is computed; names the field and the value.

    Attributes
    ----------
    field
        What is refused, as ``class.field`` where it is a setting; None where it is not one setting.
    """

    field: str | None = None

    @classmethod
    def of(cls, field: str, what: str) -> InvalidInputError:
        """
        Make the error of one setting.

        Parameters
        ----------
        field
            Which, e.g. ``StopRule.max_cycles``.
        what
            What its value is and what to do; goes on where ``field`` ends.
        """
        error = cls(f"{field} {what}")
        error.field = field
        return error


def check_whole(field: str, value: object, least: int | None = None, more: str = "") -> None:
    """
    Refuse what is no whole number: in Python a setting may be anything.

    Parameters
    ----------
    field, value
        As for :meth:`InvalidInputError.of`.
    least
        The smallest that is allowed; None where others check that.
    more
        What else to say, behind that.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or (least is not None and int(value) < least):
        allowed = "" if least is None else f", {least} or more{more}"
        raise InvalidInputError.of(field, f"is {value!r}; give a whole number{allowed}")


def check_number(field: str, value: object) -> None:
    """Refuse what is no number that is compared with others: a text, a truth value, nan. Arguments as above."""
    if isinstance(value, bool) or not isinstance(value, Real) or not float(value) == float(value):
        raise InvalidInputError.of(field, f"is {value!r}; give a number")


class NothingLeftError(InvalidInputError):
    """A campaign that has ended is asked for nothing that it does not have."""


class LabelError(MLIPError):
    """An oracle calculation from which no label can be made."""


class TrainingError(MLIPError):
    """A fit that failed, did not train, or made the potential worse."""


class TeacherMissingError(TrainingError):
    """Labels or a training that waited for a teacher whose job failed: what failed is the teaching, not they."""


class ExplorationError(MLIPError):
    """An MD run that crashed or never started, as opposed to one that halted."""


class RestartFileError(ExplorationError):
    """A LAMMPS restart file this LAMMPS cannot read, one of a newer version for instance."""


class ExecutableError(MLIPError):
    """An external program that is missing, lacks a feature, or ended without its result."""


def lacks_space(error: BaseException) -> bool:
    """Tell whether an error comes of a full disk, or of a quota that is used up: then it is no failure of a job."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if isinstance(cause, sqlite3.OperationalError) and "disk is full" in str(cause):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
