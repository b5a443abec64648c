"""The arithmetic of steering: where (sites), when (schedules), whether (gates) and how (modifiers).

Everything here is pure torch and knows nothing of a host. Files are read by `steering.formats`.
"""

from __future__ import annotations

from .direction_modifiers import AddDirection, Clamp, ProjectOut
from .directions import DirectionSet, Weighting
from .errors import SteeringError
from .firing import FiringLog, FiringRecord
from .gates import Gate, GateKind
from .modifiers import Blend, Form, Modifier, Repel, Step
from .plan import Entry, Plan
from .sae import SelectedLatents
from .schedules import Schedule
from .sites import Site, select_sites

__all__ = [
    "AddDirection",
    "Blend",
    "Clamp",
    "DirectionSet",
    "Entry",
    "FiringLog",
    "FiringRecord",
    "Form",
    "Gate",
    "GateKind",
    "Modifier",
    "Plan",
    "ProjectOut",
    "Repel",
    "Schedule",
    "SelectedLatents",
    "Site",
    "Step",
    "SteeringError",
    "Weighting",
    "select_sites",
]
