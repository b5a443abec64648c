"""What a real server says of the pack: its log, its nodes, their help, its folder, and what it refuses."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from steerdit.benchmarks.hosting.client import Client, ExecutionError, PromptError
from steerdit.benchmarks.hosting.server import Host

ROOT = Path(__file__).resolve().parents[2]
NODES = {
    "SteerDiT_LoadBundle": "Load Steering Bundle",
    "SteerDiT_DownloadBundle": "Download Steering Bundle",
    "SteerDiT_ImportSAE": "Import SAE",
    "SteerDiT_Repel": "Repel",
    "SteerDiT_Blend": "Blend",
    "SteerDiT_Report": "Steering Report",
    "SteerDiT_LoadPrompts": "Load Prompts",
    "SteerDiT_PromptList": "Prompt List",
    "SteerDiT_Record": "Record Activations",
    "SteerDiT_LoadRecording": "Load Recording",
    "SteerDiT_SteerConditioning": "Steer Conditioning",
    "SteerDiT_SteerDirection": "Steer Direction",
    "SteerDiT_SaveBundle": "Save Bundle",
    "SteerDiT_ImportDirection": "Import Direction",
    "SteerDiT_ExportDirection": "Export Direction",
    "SteerDiT_TrainSAE": "Train SAE",
    "SteerDiT_Route": "Route Sites",
    "SteerDiT_Select": "Select Latents",
    "SteerDiT_Adapt": "Adapt Decoder",
    "SteerDiT_Calibrate": "Calibrate Gates",
    "SteerDiT_Browse": "Browse Latents",
    "SteerDiT_SaveSAEBundle": "Save SAE Bundle",
    "SteerDiT_LoadLanguageModel": "Load Language Model",
    "SteerDiT_TextEncoderStates": "Text Encoder States",
    "SteerDiT_LoadPairs": "Load Prompt Pairs",
    "SteerDiT_EstimateDirection": "Estimate Direction",
    "SteerDiT_AlignEncoders": "Align Encoders",
    "SteerDiT_TransferDirection": "Transfer Direction",
    "SteerDiT_CalibrateDirection": "Calibrate Direction",
    "SteerDiT_RestrictFlow": "Restrict Flow (UVR)",
    "SteerDiT_FlowMask": "Flow Mask",
    "SteerDiT_SamplePrompts": "Sample Prompts",
    "SteerDiT_CollectAnchors": "Collect Unsafe Anchors",
    "SteerDiT_AttentionFlow": "Attention Flow",
}
# The host prints whole tenths of a second: 0.2 stands for less than 0.25.
IMPORT_TIME = re.compile(r"^\s*(?P<seconds>\d+\.\d) seconds(?P<failed>.*?): .*[/\\]steerdit$")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
COMPLAINTS = re.compile(
    r"warning|error|traceback|exception|cannot|unable|failed|deprecated|skip", re.IGNORECASE
)


@pytest.fixture(params=["host", "oldest_host"])
def any_host(request: pytest.FixtureRequest) -> Host:
    return request.getfixturevalue(request.param)


def log_lines(host: Host) -> list[str]:
    plain = COLOURS.sub("", host.log_text())
    for place in (sys.prefix, str(ROOT)):  # a checkout's own folder may be named as the pack is
        plain = plain.replace(place, "")
    return [line.removeprefix("[INFO] ") for line in plain.partition("To see the GUI go to")[0].splitlines()]


def test_the_host_imports_the_pack_quickly_and_without_a_word(any_host: Host) -> None:
    lines = log_lines(any_host)
    (found,) = [match for line in lines if (match := IMPORT_TIME.match(line))]
    assert not found["failed"]
    assert float(found["seconds"]) <= 0.2
    about_us = [line for line in lines if "steerdit" in line.lower() and not IMPORT_TIME.match(line)]
    assert about_us == []
    # Nothing else in this host's folder could be meant by a complaint of any kind.
    assert [line for line in lines if COMPLAINTS.search(line) and "custom" in line.lower()] == []
    assert [line for line in lines if line.startswith(("[WARNING]", "[ERROR]", "Traceback"))] == []


def test_all_nodes_are_there_under_one_menu_entry(any_host: Host) -> None:
    info = Client(any_host.url).object_info()
    ours = {name: entry for name, entry in info.items() if entry["python_module"] == "custom_nodes.steerdit"}
    assert {name: entry["display_name"] for name, entry in ours.items()} == NODES
    for name, entry in ours.items():
        assert entry["category"].partition("/")[0] == "SteerDiT"
        assert entry["description"]
        for group in ("required", "optional"):
            for key, spec in entry["input"].get(group, {}).items():
                assert spec[1]["tooltip"], f"{name}.{key}"
        assert all(entry["output_tooltips"]), name


@pytest.mark.parametrize("name", NODES)
def test_each_node_has_a_help_page(any_host: Host, name: str) -> None:
    page = Client(any_host.url).get_bytes(f"/extensions/steerdit/docs/{name}.md").decode()
    assert page.startswith("# ")
    inputs = Client(any_host.url).object_info()[name]["input"]
    for key in {**inputs.get("required", {}), **inputs.get("optional", {})}:
        assert re.search(rf"\b{key}\b", page, re.IGNORECASE), f"the page of {name} says nothing of {key}"


def test_bundles_are_listed_from_models_and_from_extra_model_paths(any_host: Host) -> None:
    client = Client(any_host.url)
    assert "steering" in client.get("/models")
    assert sorted(client.models("steering")) == ["elsewhere.safetensors", "near.safetensors"]
    bundle = client.object_info()["SteerDiT_LoadBundle"]["input"]["required"]["bundle"]
    choices = bundle[0] if isinstance(bundle[0], list) else bundle[1]["options"]
    assert sorted(choices) == ["elsewhere.safetensors", "near.safetensors"]


def shown(node: str, inputs: dict[str, Any], **others: dict[str, Any]) -> dict[str, Any]:
    """A prompt that runs one node and shows its first output."""
    return {
        "1": {"class_type": node, "inputs": inputs},
        "9": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
        **{name.removeprefix("n"): entry for name, entry in others.items()},
    }


def test_both_bundles_load(any_host: Host) -> None:
    client = Client(any_host.url)
    for name in ("near.safetensors", "elsewhere.safetensors"):
        assert "weapons" in client.run(shown("SteerDiT_LoadBundle", {"bundle": name})).text(9)


def test_bad_input_is_refused_before_anything_runs(any_host: Host) -> None:
    client = Client(any_host.url)
    with pytest.raises(PromptError, match=r"(?s)SteerDiT_LoadBundle.*nowhere\.safetensors"):
        client.run(shown("SteerDiT_LoadBundle", {"bundle": "nowhere.safetensors"}))
    with pytest.raises(PromptError, match=r"Required input is missing: bundle") as missing:
        client.run(shown("SteerDiT_Repel", {"strength": 99.0}))
    assert "Value 99.0 bigger than max of 10.0" in str(missing.value)
    assert set(missing.value.node_errors) == {"1"}
    with pytest.raises(PromptError, match=r"does not exist|not found"):
        client.run(shown("SteerDiT_Nothing", {}))


def test_a_choice_that_does_not_exist_is_refused_too(client: Client) -> None:
    """By newer hosts; older ones leave that to the node, whose enumerations refuse it when it runs."""
    with pytest.raises(PromptError, match="not in list"):
        client.run(shown("SteerDiT_Blend", {"gate": "sometimes"}))


def test_an_error_inside_a_node_names_the_node_and_what_to_do(any_host: Host) -> None:
    client = Client(any_host.url)
    latent = {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}}
    prompt = shown("SteerDiT_Report", {"samples": ["2", 0], "category": "all"}, n2=latent)
    with pytest.raises(ExecutionError) as failure:
        client.run(prompt)
    assert (failure.value.node, failure.value.node_type) == ("1", "SteerDiT_Report")
    assert failure.value.exception_type.endswith("SteeringError")
    assert "sampler" in failure.value.exception_message
