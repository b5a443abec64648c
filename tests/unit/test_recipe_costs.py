"""What a recipe is said to take, held against what is known otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from steerdit.__main__ import main
from steerdit.benchmarks.emoji_scenes import weights
from steerdit.steering.errors import SteeringError
from steerdit.steering.sites import Site
from steerdit.training.recipes import read_recipe
from steerdit.training.recipes.architectures import KNOWN, architecture_of, read_architecture
from steerdit.training.recipes.costs import planned, stage_costs, token_plan
from steerdit.training.recipes.lists import Lists
from steerdit.training.recordings import PromptRow

RECIPES = Path(__file__).resolve().parents[2] / "example_recipes"
ROWS = tuple(
    PromptRow(f"{label} words of a prompt {i}", label, "risk", f"{i}")
    for i in range(10)
    for label in ("unsafe", "safe")
)


def test_the_public_models_have_their_published_sizes() -> None:
    # The blocks' matrices: 12 d² a stream in double and joint blocks, modulation 6 d² a stream, 3 d² in single ones.
    flux, large = KNOWN["flux1-dev"], KNOWN["sd3.5-large"]
    d = flux.width
    blocks = 19 * 2 * (12 + 6) * d**2 + 38 * (12 + 3) * d**2
    assert abs(blocks * 2 - flux.bytes) < 0.03 * flux.bytes
    d = large.width
    assert abs(38 * 2 * (12 + 6) * d**2 * 2 - large.bytes) < 0.03 * large.bytes
    assert flux.image_tokens(1024, 1024) == 4096
    assert flux.sites("double.18.image, text") == {Site("text"): 4096, Site.parse("double.18.image"): 3072}
    with pytest.raises(SteeringError, match=r"joint\.37\.text"):
        large.sites("joint.37.text")


def test_operations_are_counted_as_block_by_block() -> None:
    it = KNOWN["flux1-dev"]
    length, d = 4096 + 256, it.width
    weights_met = (3 + 1 + 8) * d * d * length  # query, key, value; output; the MLP's two
    attention = 2 * length * length * d  # scores, and the mean of values
    assert it.operations(1024, 1024) == pytest.approx(2 * 57 * (weights_met + attention))


def test_a_file_s_header_says_its_architecture() -> None:
    found = read_architecture(weights.path("generator"))
    assert (found.family, found.text_width) == ("flux", 384)
    assert found.bytes == weights.path("generator").stat().st_size
    assert set(found.sites("double.*")) >= {Site.parse("double.1.text")}
    with pytest.raises(SteeringError, match=r"a FLUX\.1 or SD3 diffusion model"):
        read_architecture(weights.path("oracle"))
    with pytest.raises(SteeringError, match="one of flux1-dev"):
        architecture_of("flux2", Path("nowhere.safetensors"))


def test_disk_is_counted_row_by_row() -> None:
    recipe = read_recipe(
        RECIPES / "flux1-dev.toml", {"record.sites": "'single.37.image'", "train.sites": "'single.37.image'"}
    )
    plan = token_plan(recipe, ROWS, KNOWN["flux1-dev"])
    rows = len(ROWS) * recipe.record.steps * recipe.record.tokens_per_image
    costs = {cost.name: cost for cost in stage_costs(recipe, Lists(ROWS, ROWS), KNOWN["flux1-dev"])}
    labels = 12  # sample, sigma and position of each row
    assert costs["record training"].disk == rows * (3072 * 2 + labels)
    assert sum(of[Site.parse("single.37.image")] for of in plan.all_rows()) == rows
    assert "route" not in costs
    table = 16 * 3072 * 3072
    assert costs["save (1 sites)"].disk == 3 * table * 2
    # One picture: 28 calls of 69 TFLOP at 300 TFLOP/s.
    assert costs["record training"].seconds == pytest.approx(len(ROWS) * 28 * 69 / 300, rel=0.02)


@pytest.mark.parametrize("name", ["flux1-dev", "sd3.5-large"])
def test_the_recipes_say_what_their_plan_says(name: str, tmp_path: Path) -> None:
    text = (RECIPES / f"{name}.toml").read_text(encoding="utf-8")
    table = planned(read_recipe(RECIPES / f"{name}.toml"), tmp_path).splitlines()
    start = next(at for at, line in enumerate(table) if line.startswith("stage"))
    for line in table[start : table.index("", start)]:
        assert f"#     {line}\n" in text, "write the table of --plan into the recipe"


def test_the_command_plans_without_a_host(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    recipe = str(RECIPES / "flux1-dev.toml")
    work = ["--work", str(tmp_path / "work")]
    assert main(["make-bundle", recipe, "--plan", *work]) == 0
    said = capsys.readouterr().out
    assert "assumed: prompts.jsonl is not there yet" in said
    assert "Computed, not measured" in said
    assert not (tmp_path / "work").exists()
    assert main(["make-bundle", recipe, "--plan", "--set", "train.stepps=3", *work]) == 1
    assert "--set train.stepps" in capsys.readouterr().err
    assert main(["make-bundle", str(tmp_path / "gone.toml")]) == 1
    assert "Check its path" in capsys.readouterr().err
