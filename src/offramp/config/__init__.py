"""Config files: read, checked as a whole before anything runs, and written back."""

from .copy import copy_config as copy_config
from .load import dump_config as dump_config
from .load import load_config as load_config
from .load import named_policies as named_policies
from .schema import Config as Config
from .schema import DataConfig as DataConfig
from .schema import GatesConfig as GatesConfig
from .schema import ModelConfig as ModelConfig
from .schema import ObjectiveConfig as ObjectiveConfig
from .schema import PolicyConfig as PolicyConfig
from .schema import TrainConfig as TrainConfig
