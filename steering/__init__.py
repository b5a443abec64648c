"""The arithmetic of steering: where (sites), when (schedules), whether (gates) and how (modifiers).

Everything here is pure torch and knows nothing of a host. Files are read by `steering.formats`. A name is imported when
it is first asked for, so that whoever needs an error alone does not wait for all modifiers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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

_MODULES = {
    "direction_modifiers": ("AddDirection", "Clamp", "ProjectOut"),
    "directions": ("DirectionSet", "Weighting"),
    "errors": ("SteeringError",),
    "firing": ("FiringLog", "FiringRecord"),
    "gates": ("Gate", "GateKind"),
    "modifiers": ("Blend", "Form", "Modifier", "Repel", "Step"),
    "plan": ("Entry", "Plan"),
    "sae": ("SelectedLatents",),
    "schedules": ("Schedule",),
    "sites": ("Site", "select_sites"),
}


if not TYPE_CHECKING:  # the checker reads the imports above

    def __getattr__(name: str) -> object:
        """PEP 562: the name from its module, from then on an attribute of this package."""
        for module, names in _MODULES.items():
            if name in names:
                found = globals()[name] = getattr(import_module(f".{module}", __name__), name)
                return found
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
