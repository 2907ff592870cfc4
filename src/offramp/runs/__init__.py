"""Studies without code: one folder per run, from a recipe to a bundle and a report."""

from .build import make_data as make_data
from .build import make_model as make_model
from .build import make_objective as make_objective
from .fitting import check_alike as check_alike
from .fitting import check_policies as check_policies
from .fitting import fit_policies as fit_policies
from .folder import Run as Run
from .folder import is_run as is_run
from .folder import open_runs as open_runs
from .gating import sweep as sweep
from .predicting import Answer as Answer
from .predicting import MapAnswer as MapAnswer
from .predicting import answers_maps as answers_maps
from .predicting import predict as predict
from .predicting import predict_maps as predict_maps
from .scoring import score as score
from .training import train as train
