"""Whether records are a model's answers to some data: seen on a few rows."""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader

from ..costs import device_of
from ..data.base import inputs_at
from ..data.batches import Data, open_data
from ..errors import RunError
from ..model import MultiExitModel
from ..modes import keep_modes
from ..trees import move
from ..types import Records

_ROWS = 16
_CLOSE = 0.02  # of the largest logit: devices round differently, other images are far off


@torch.no_grad()
def check_records(model: MultiExitModel, data: Data, records: Records, what: str) -> None:
    """Raise what says that records are of another model or of other data, if they are.

    The model answers some rows, evenly spread, again. Data that are a DataLoader are not looked at.

    Args:
        model: on the device where it is to run.
        data: what the records should be of.
        records: of all rows.
        what: how to call them in the message.

    Raises:
        RunError: if they are of something else.
    """
    if isinstance(data, DataLoader):
        return
    told = "train anew, in another folder"
    rows = open_data(data, 1).rows
    if rows != len(records):
        raise RunError(f"{what} records have {len(records)} inputs, the data now {rows}; {told}")
    chosen = torch.linspace(0, len(records) - 1, min(_ROWS, len(records))).long()
    with keep_modes(model, model.segments):
        outputs = model.eval()(move(inputs_at(data, chosen.tolist()), device_of(model)))
    for output, before in zip(outputs, records.take(chosen).logits, strict=True):
        if not torch.allclose(
            output.logits.cpu().float(), before, rtol=0, atol=_CLOSE * float(before.abs().max())
        ):
            raise RunError(
                f"{what} records are not what the bundle answers to the data: one of them, or the "
                f"configuration, has changed since; {told}"
            )
