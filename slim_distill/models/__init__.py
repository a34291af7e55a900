"""Detectors as functions from feeds to named variables."""

from slim_distill.models.build import BACKBONES, MODES, build_model

__all__ = ["BACKBONES", "MODES", "build_model"]
