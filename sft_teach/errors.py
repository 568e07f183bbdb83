"""The errors of this package: each says what was wrong, what was expected, and what to do."""

from __future__ import annotations


class SFTTeachError(Exception):
    """Base class, so that `except SFTTeachError` catches everything this package raises itself."""


class DataError(SFTTeachError, ValueError):
    """A text, label, file or argument that cannot be used as it is."""


class SourceError(SFTTeachError):
    """A data set or a model that its source cannot deliver."""


class TrainingDiverged(SFTTeachError):
    """The loss stopped being a finite number."""


class OutOfMemory(SFTTeachError):
    """The machine has less memory than the run needs."""


class CheckpointError(SFTTeachError):
    """A checkpoint that cannot be written, is damaged, or belongs to another run."""
