"""Data sets, each in four disjoint parts."""

from .augment import Augment as Augment
from .augment import PairedAugment as PairedAugment
from .augment import augmentation as augmentation
from .base import Splits as Splits
from .base import create_dataset as create_dataset
from .base import first_inputs as first_inputs
from .base import list_datasets as list_datasets
from .base import register as register
from .images import ImageFiles as ImageFiles
from .images import Images as Images
from .maps import MapFiles as MapFiles
from .maps import Maps as Maps
from .masks import Legend as Legend
from .masks import Pairs as Pairs
from .preprocess import Preprocess as Preprocess
from .splits import Parts as Parts
from .splits import split as split
