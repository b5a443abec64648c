"""Listing the nodes imports none of their work, and what their schemas offer is what that work takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from steerdit.benchmarks.hosting.install import install
from steerdit.host.conditioning import SLOTS
from steerdit.nodes import offered
from steerdit.steering.competition import TopK
from steerdit.steering.direction_files import ENDINGS
from steerdit.steering.direction_modifiers import OPERATORS as DIRECTION_OPERATORS
from steerdit.steering.directions import Weighting
from steerdit.steering.flow import asked as flow
from steerdit.steering.flow.groups import Weights
from steerdit.steering.flow.localise import Selection
from steerdit.steering.flow.modifier import STARTUP, RestrictFlow
from steerdit.steering.flow.noise import Noise
from steerdit.steering.flow.score import ScoreKind
from steerdit.steering.formats import foreign
from steerdit.steering.formats.directions import DIRECTION_BLOCKS, MAPS
from steerdit.steering.formats.header import FAMILY_BLOCKS
from steerdit.steering.gates import GateKind
from steerdit.steering.modifiers import Form
from steerdit.training.adaptation.domains import LESSONS
from steerdit.training.adaptation.domains import METHODS as ADAPTATION_METHODS
from steerdit.training.adaptation.terms import AdaptationConfig
from steerdit.training.dictionaries.config import ACTIVATIONS, PRECISIONS, TrainingConfig
from steerdit.training.directions import SMOLLM2
from steerdit.training.directions.align import FLOOR
from steerdit.training.directions.tables import SUFFIXES as PAIR_SUFFIXES
from steerdit.training.directions.transport import QUANTILE
from steerdit.training.gates.thresholds import GateRule
from steerdit.training.recordings import manifest, prompts
from steerdit.training.routing.ranking import OPERATORS, PUBLISHED
from steerdit.training.selection.choosing import METHODS, SelectionRule

LISTING = """
import asyncio, sys
sys.path.insert(0, sys.argv.pop())
sys.argv = [sys.argv[0], "--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
import steerdit
extension = asyncio.run(steerdit.comfy_entrypoint())
for node in asyncio.run(extension.get_node_list()):
    node.GET_SCHEMA()
print(*(name for name in sys.modules if name.startswith("steerdit.")))
"""
WORK = (
    "steerdit.training",
    "steerdit.evaluation",
    "steerdit.kernels",
    "steerdit.host.attach",
    "steerdit.steering.modifiers",
    "steerdit.steering.directions",
    "steerdit.steering.formats.bundle",
    "steerdit.steering.formats.foreign",
)


def test_listing_the_nodes_imports_none_of_their_work(tmp_path: Path) -> None:
    listed = subprocess.run(
        [sys.executable, "-c", LISTING, str(install())],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    loaded = listed.stdout.splitlines()[-1].split()
    assert "steerdit.nodes.train" in loaded
    assert [name for name in loaded if name.startswith(WORK)] == []


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (offered.PROMPT_SUFFIXES, prompts.SUFFIXES),
        (offered.PAIR_SUFFIXES, PAIR_SUFFIXES),
        (offered.VECTOR_ENDINGS, ENDINGS),
        (offered.RECORDING_MANIFEST, manifest.FILE),
        (offered.SMOLLM2, SMOLLM2),
        (offered.FORMS, tuple(form.value for form in Form)),
        (offered.TOPK, tuple(mode.value for mode in TopK)),
        (offered.DIRECTION_OPERATORS, tuple(DIRECTION_OPERATORS)),
        (offered.WEIGHTINGS, tuple(weighting.value for weighting in Weighting)),
        (offered.SAE_FAMILIES, tuple(FAMILY_BLOCKS)),
        (offered.TEXT_FAMILIES, tuple(DIRECTION_BLOCKS)),
        (offered.TEXT_FAMILIES, tuple(SLOTS)),
        (offered.FLOW_TASKS, tuple(flow.TASKS)),
        (offered.FLOW_THRESHOLDS, flow.THRESHOLDS),
        (offered.FLOW_FORMS, flow.FORMS),
        (sorted(offered.FLOW_SCORES), sorted(kind.value for kind in ScoreKind)),
        (
            (offered.Flow.core, offered.Flow.ring, offered.Flow.safe, offered.Flow.noise),
            (Weights().core, Weights().ring, Weights().safe, Noise().alpha),
        ),
        ((offered.Flow.startup, offered.Flow.end), (STARTUP.end_percent, STARTUP.end_percent)),
        ((offered.Flow.noise_end, offered.Flow.spread), (RestrictFlow.noisy.end_percent, Selection().spread)),
        (offered.AUTO, foreign.AUTO),
        (offered.FORMATS, tuple(foreign.FORMATS)),
        (offered.ORIENTATIONS, tuple(foreign.ORIENTATIONS)),
        (offered.LABELS, manifest.LABELS),
        (offered.DTYPES, tuple(manifest.DTYPES)),
        (offered.PRECISIONS, PRECISIONS),
        (offered.ROUTE_OPERATORS, OPERATORS),
        (offered.SELECTION_METHODS, METHODS),
        (offered.LESSONS, LESSONS),
        (offered.ADAPTATION_METHODS, ADAPTATION_METHODS),
        (offered.FLOOR, FLOOR),
        (offered.QUANTILE, QUANTILE),
        # These are in another order, for people.
        (sorted(offered.GATES), sorted(kind.value for kind in GateKind)),
        (sorted(offered.ACTIVATIONS), sorted(ACTIVATIONS)),
        (sorted(offered.MAPS), sorted(MAPS)),
    ],
)
def test_what_is_offered_is_what_there_is(said: Any, meant: Any) -> None:
    assert said == meant


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (offered.Training, TrainingConfig()),
        (offered.Routing, PUBLISHED),
        (offered.Selecting, SelectionRule()),
        (offered.Adaptation, AdaptationConfig()),
        (offered.Gates, GateRule()),
    ],
)
def test_defaults_are_those_of_the_work(said: type, meant: Any) -> None:
    names = [name for name in vars(said) if not name.startswith("_")]
    assert names
    assert {name: getattr(said, name) for name in names} == {name: getattr(meant, name) for name in names}
