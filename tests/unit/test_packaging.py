"""The pack's metadata says what the tree holds and what the registry accepts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).resolve().parents[2]
METADATA: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ACCELERATORS = {
    "Environment :: GPU :: NVIDIA CUDA",
    "Environment :: GPU :: AMD ROCm",
    "Environment :: GPU :: Intel Arc",
    "Environment :: GPU :: Apple Metal",
    "Environment :: NPU :: Huawei Ascend",
}


def tracked(pattern: str) -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", pattern], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    return [Path(line) for line in listing.stdout.splitlines()]


def test_every_package_goes_into_a_wheel() -> None:
    packages = [".".join(("steerdit", *path.parts[:-1])) for path in tracked("*__init__.py")]
    assert sorted(packages) == sorted(METADATA["tool"]["setuptools"]["packages"])


def test_every_module_is_in_a_package() -> None:
    outside = {"noxfile.py"}
    for path in tracked("*.py"):
        if path.parts[0] != "tests" and str(path) not in outside:
            assert (ROOT / path).with_name("__init__.py").exists(), path


def test_requirements_txt_says_the_same() -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == METADATA["project"]["dependencies"]


def test_the_host_brings_torch() -> None:
    assert not any(name.startswith("torch") for name in METADATA["project"]["dependencies"])


def test_dependencies_are_not_pinned() -> None:
    # A pin in one pack breaks its neighbours, which share the host's environment.
    assert not any("==" in name or "<" in name for name in METADATA["project"]["dependencies"])


def test_the_registry_accepts_the_classifiers() -> None:
    # One value that it does not know empties the whole list.
    environments = [c for c in METADATA["project"]["classifiers"] if c.startswith("Environment ::")]
    assert environments
    assert set(environments) <= ACCELERATORS


def test_the_registry_finds_name_publisher_and_repository() -> None:
    assert METADATA["project"]["name"] == "steerdit"
    assert METADATA["project"]["urls"]["Repository"].startswith("https://")
    assert METADATA["tool"]["comfy"]["PublisherId"] == "steerdit"
    assert METADATA["tool"]["comfy"]["DisplayName"] == "SteerDiT"


def test_the_licence_is_apache() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert METADATA["project"]["license"] == {"text": "Apache-2.0"}


@pytest.mark.parametrize("heavy", ["torch", "numpy", "comfy", "comfy_api", "huggingface_hub"])
def test_importing_the_pack_loads_nothing_heavy(heavy: str) -> None:
    program = f"import sys, steerdit, steerdit.__main__; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def left_out_of_the_registry() -> set[Path]:
    """Tracked files that .comfyignore keeps out of what the registry's users get."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--ignored", "--exclude-from=.comfyignore"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return {Path(line) for line in listing.stdout.splitlines()}


def test_the_registry_s_package_holds_what_users_need() -> None:
    left_out = left_out_of_the_registry()
    assert {path.parts[0] for path in left_out if path.suffix == ".py"} == {"tests", "noxfile.py"}
    needed = [
        *tracked("web/*"),
        *tracked("example_workflows/*"),
        *tracked("*.safetensors"),
        *tracked("*.jsonl"),
    ]
    assert not left_out & {
        *needed,
        Path("LICENSE"),
        Path("NOTICE"),
        Path("README.md"),
        Path("requirements.txt"),
    }
    assert Path("noxfile.py") in left_out


def test_the_registry_s_package_imports(tmp_path: Path) -> None:
    kept = set(tracked("*.py")) - left_out_of_the_registry()
    for path in kept:
        target = tmp_path / "steerdit" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / path).read_bytes())
    program = (
        "import steerdit, steerdit.__main__, steerdit.steering, steerdit.delivery.manifest; "
        "import steerdit.training.gates.thresholds; print(steerdit.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert Path(done.stdout.strip()) == (tmp_path / "steerdit" / "__init__.py").resolve()


def test_the_command_line_says_what_it_can() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "steerdit", "--help"], stdout=subprocess.PIPE, text=True, check=True
    )
    assert "download" in done.stdout
    assert "verify" in done.stdout
