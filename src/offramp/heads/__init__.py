"""Heads: from a state to an exit's output. Each can add a gate."""

from .base import Answer as Answer
from .base import Head as Head
from .conv import ConvHead as ConvHead
from .dense import DenseHead as DenseHead
from .flat import FlatHead as FlatHead
from .linear import LinearHead as LinearHead
from .pooler import PoolerHead as PoolerHead
