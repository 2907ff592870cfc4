"""Training: one loop, one backward step."""

from .backward import backward_step as backward_step
from .loop import fit as fit
from .meter import History as History
from .options import Options as Options
from .routes import Routes as Routes
from .routes import route_table as route_table
