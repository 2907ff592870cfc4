"""Data sets, each in four disjoint parts."""

from .base import Splits as Splits
from .base import create_dataset as create_dataset
from .base import list_datasets as list_datasets
from .base import register as register
from .splits import Parts as Parts
from .splits import split as split
