"""offramp: neural networks that answer early, within a budget, and on the clock."""

from . import train as train
from .attach import attach as attach
from .costs import measure as measure
from .data import create_dataset as create_dataset
from .data import list_datasets as list_datasets
from .errors import OfframpError as OfframpError
from .evaluate import ExitResult as ExitResult
from .evaluate import Result as Result
from .evaluate import area_under_curve as area_under_curve
from .evaluate import curve as curve
from .evaluate import evaluate as evaluate
from .evaluate import evaluate_exits as evaluate_exits
from .model import MultiExitModel as MultiExitModel
from .model import create_model as create_model
from .model import list_models as list_models
from .objectives import Objective as Objective
from .objectives import create_objective as create_objective
from .objectives import list_objectives as list_objectives
from .places import Place as Place
from .places import places as places
from .policies import ExitPolicy as ExitPolicy
from .policies import create_policy as create_policy
from .policies import list_policies as list_policies
from .records import load_records as load_records
from .records import record as record
from .records import save_records as save_records
from .runtime import anytime as anytime
from .runtime import run as run
from .train import fit as fit
from .types import Batch as Batch
from .types import Budget as Budget
from .types import Carry as Carry
from .types import Costs as Costs
from .types import ExitOutput as ExitOutput
from .types import Prediction as Prediction
from .types import Records as Records
from .types import Term as Term

__version__ = "0.1.0.dev0"
