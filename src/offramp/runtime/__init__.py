"""Running a model: exit by exit, with rows that are done leaving the batch."""

from .adaptive import anytime as anytime
from .adaptive import run as run
