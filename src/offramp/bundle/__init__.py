"""Bundles: a folder with a model, its policy and what using them takes; no pickle, no code."""

from __future__ import annotations

from .hub import from_pretrained as from_pretrained
from .hub import push_to_hub as push_to_hub
from .loading import Bundle as Bundle
from .loading import load as load
from .saving import save as save
