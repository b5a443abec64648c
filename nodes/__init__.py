"""The nodes that people drag: one module per task, no mathematics, no host internals.

The host imports them all when it starts, and people wait. So that this costs what the schemas cost, every module here

- imports at its top the host's node API, `schema`, `offered`, the host's folders and progress, and errors;
- names the types of sockets under `TYPE_CHECKING`;
- imports what a node works with inside the function that does the work, when it first runs.

Options and defaults that belong to such work are in `offered.py`. tests/host/test_offered.py holds all of this.
"""

from __future__ import annotations

from typing import Any

from .adapt import AdaptNode
from .anchors import CollectAnchorsNode, SamplePromptsNode
from .attention_flow import AttentionFlowNode
from .browse import BrowseNode
from .bundle import DownloadBundleNode, LoadBundleNode
from .calibrate import CalibrateNode
from .direction_files import ExportDirectionNode, ImportDirectionNode, SaveBundleNode
from .directions import (
    AlignEncodersNode,
    CalibrateDirectionNode,
    EstimateDirectionNode,
    TransferDirectionNode,
)
from .encoders import LoadLanguageModelNode, TextEncoderNode
from .flow import RestrictFlowNode
from .flow_mask import FlowMaskNode
from .imported import ImportSaeNode
from .pairs import LoadPairsNode
from .prompts import LoadPromptsNode, PromptListNode
from .record import LoadRecordingNode, RecordNode
from .report import ReportNode
from .route import RouteNode
from .save import SaveSaeBundleNode
from .select import SelectNode
from .steer import BlendNode, RepelNode
from .steer_direction import SteerConditioningNode, SteerDirectionNode
from .train import TrainSaeNode

NODES: list[type[Any]] = [
    LoadBundleNode,
    DownloadBundleNode,
    ImportSaeNode,
    RepelNode,
    BlendNode,
    ReportNode,
    LoadPromptsNode,
    PromptListNode,
    RecordNode,
    LoadRecordingNode,
    SteerConditioningNode,
    SteerDirectionNode,
    SaveBundleNode,
    ImportDirectionNode,
    ExportDirectionNode,
    TrainSaeNode,
    RouteNode,
    SelectNode,
    AdaptNode,
    CalibrateNode,
    BrowseNode,
    SaveSaeBundleNode,
    LoadLanguageModelNode,
    TextEncoderNode,
    LoadPairsNode,
    EstimateDirectionNode,
    AlignEncodersNode,
    TransferDirectionNode,
    CalibrateDirectionNode,
    RestrictFlowNode,
    FlowMaskNode,
    SamplePromptsNode,
    CollectAnchorsNode,
    AttentionFlowNode,
]
