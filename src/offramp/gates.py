"""Linear gates fitted on cached features, and alpha found for a budget (LEENet's last phase)."""

from .train.gate_data import GateData as GateData
from .train.gate_data import cache_gates as cache_gates
from .train.gate_fit import Fitting as Fitting
from .train.gate_fit import Gates as Gates
from .train.gates import GatePoint as GatePoint
from .train.gates import fit_gates as fit_gates
from .train.gates import sweep_gates as sweep_gates
from .train.gates import tune_gates as tune_gates
