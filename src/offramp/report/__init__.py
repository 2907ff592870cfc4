"""Pictures and tables of what was evaluated."""

from .page import write as write
