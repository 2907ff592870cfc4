"""Pictures and tables of what was evaluated."""

from .compare import Comparison as Comparison
from .compare import compare as compare
from .page import write as write
