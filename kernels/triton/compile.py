"""Compiles every configuration that is shipped, for six architectures, without a GPU:

    python -m steerdit.kernels.triton.compile            compile all, compare with registers.json
    python -m steerdit.kernels.triton.compile --write    compile all, write registers.json

What is asked of each: no stack (so nothing spills), no more shared memory than the architecture has, a tensor-core
instruction where there is a matrix product, and no more registers than the table says.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.knobs import cache

from . import configs
from .configs import ARCHITECTURES, Config
from .direction import add_direction_kernel
from .gather import gather_kernel
from .membership import membership_kernel
from .row_topk import row_topk_kernel
from .steer import steer_kernel
from .threshold import compact_kernel

TABLE = Path(__file__).with_name("registers.json")
TRITON: str = triton.__version__
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
TENSOR_CORE = re.compile(r"\b(?:mma\.sync|wgmma\.mma_async|tcgen05\.mma)")

FLOATS = ("bf16", "fp16", "fp32")
SIZE = {"bf16": 2, "fp16": 2, "fp32": 4, "i16": 2, "i32": 4}


class Variant(NamedTuple):
    """One kernel as it is launched for one class of calls."""

    name: str
    kernel: Any
    types: Mapping[str, str]
    """Of every argument that is not constant."""
    config: Config
    constants: Mapping[str, Any] = {}
    aligned: tuple[str, ...] = ()
    """Sizes that are multiples of 16, as those of real models are; pointers always are."""
    multiplies: bool = False
    """Whether it holds a matrix product."""


class Compiled(NamedTuple):
    """What became of a variant."""

    name: str
    arch: int
    registers: int
    """Of one thread, 255 at most."""
    stack: int
    """Bytes."""
    shared: int
    """Bytes of one program."""
    limit: int
    """Bytes that the architecture allows."""
    tensor_core: int
    """How many such instructions the program text holds."""
    multiplies: bool

    def faults(self) -> list[str]:
        """What forbids shipping it."""
        found = [f"{self.stack} bytes of stack"] if self.stack else []
        if self.shared > self.limit:
            found.append(f"{self.shared} bytes of shared memory of {self.limit}")
        if self.multiplies and not self.tensor_core:
            found.append("a matrix product without a tensor core")
        return [f"{self.name} on sm_{self.arch}: {fault}" for fault in found]


def variants(arch: int) -> Generator[Variant]:
    """Every configuration that can be launched on an architecture."""
    for dtype in FLOATS:
        yield from _steer(arch, dtype)
    for bits in ("i16", "i32"):
        yield from _rank(arch, bits)
    for dtype in FLOATS:
        yield from _single(dtype)


def largest(arch: int) -> Generator[Variant]:
    """Of each kernel and size of number the last variant, which is of the largest class."""
    last: dict[tuple[Any, int], Variant] = {}
    for variant in variants(arch):
        first = next(iter(variant.types.values())).lstrip("*")
        last[variant.kernel, SIZE[first]] = variant
    yield from last.values()


def _steer(arch: int, dtype: str) -> Generator[Variant]:
    pointer = f"*{dtype}"
    sizes = {"tokens": "i32", "width": "i32", "latents": "i32", "strength": "fp32", "keep_norm": "i32"}
    ends = {"x": pointer, "out": pointer}
    encoder = {"encoder": pointer, "bias": "*fp32", "threshold": "*fp32"}
    for latents in configs.STEER_LATENTS[SIZE[dtype]]:
        config = configs.steer(arch, SIZE[dtype], latents)
        assert config is not None
        for way, given, absent in (
            ("given", {"codes": pointer}, encoder),
            ("encoded", encoder, {"codes": pointer}),
        ):
            variant = Variant(
                f"steer {dtype} {way} S<={latents}",
                steer_kernel,
                {**ends, **given, "directions": pointer, **sizes},
                config,
                dict.fromkeys(absent),
                aligned=("width",),
                multiplies=True,
            )
            yield variant


def _rank(arch: int, bits: str) -> Generator[Variant]:
    types = {"pre": f"*{bits}", "values": f"*{bits}", "indices": "*i64", "latents": "i32", "k": "i32"}
    for latents in configs.TOPK_LATENTS:
        for k in configs.TOPK_K:
            config = configs.row_topk(arch, SIZE[bits], latents, k)
            assert config is not None
            name = f"row_topk {bits} N<={latents} k<={k}"
            yield Variant(name, row_topk_kernel, types, config, {"RELU": True}, ("latents",))
    types = {"pre": f"*{bits}", "selected": "*i64", "out": "*u8"}
    types |= {"latents": "i32", "probes": "i32", "k": "i32"}
    for latents in (65_536, configs.MEMBERSHIP_LATENTS) if bits == "i16" else (configs.MEMBERSHIP_LATENTS,):
        config = configs.membership(SIZE[bits], latents)
        name = f"membership {bits} N<={latents}"
        yield Variant(name, membership_kernel, types, config, aligned=("latents",))


def _single(dtype: str) -> Generator[Variant]:
    pointer = f"*{dtype}"
    for index in ("i32", "i64"):
        types = {"values": pointer, "indices": f"*{index}", "rows": pointer, "bias": "*fp32", "out": pointer}
        variant = Variant(
            f"gather {dtype} {index}",
            gather_kernel,
            {**types, "k": "i32", "width": "i32"},
            configs.GATHER[SIZE[dtype]],
        )
        yield variant._replace(name=f"{variant.name} ragged")
        yield variant._replace(aligned=("width",))
    types = {"pre": pointer, "threshold": "*fp32", "values": pointer, "indices": "*i64", "counts": "*i64"}
    types |= {"latents": "i32", "capacity": "i32"}
    yield Variant(f"compact {dtype}", compact_kernel, types, configs.COMPACT, aligned=("latents",))
    types = {"x": pointer, "direction": "*fp32", "out": pointer}
    types |= {"width": "i32", "strength": "fp32", "keep_norm": "i32"}
    for width in configs.DIRECTION_WIDTHS:
        config = configs.add_direction(width)
        assert config is not None
        variant = Variant(f"add_direction {dtype} d<={width}", add_direction_kernel, types, config)
        yield variant._replace(name=f"{variant.name} ragged")
        yield variant._replace(aligned=("width",))


def compiled(variant: Variant, arch: int) -> Compiled:
    """Compiles one variant for one architecture to machine code and reads what it needs.

    Raises:
        RuntimeError: the interpreter is on, or triton came without its disassembler.
    """
    if not hasattr(variant.kernel, "arg_names") or not hasattr(variant.kernel, "cache_key"):
        raise RuntimeError("unset TRITON_INTERPRET: in the interpreter there is nothing to compile")
    constants = {**variant.config.constants, **variant.constants}
    names: list[str] = variant.kernel.arg_names
    aligned = [n for n, t in variant.types.items() if t.startswith("*") or n in variant.aligned]
    made = triton.compile(
        ASTSource(
            fn=variant.kernel,
            signature={n: "constexpr" if n in constants else variant.types[n] for n in names},
            constexprs=constants,
            attrs={(names.index(n),): [["tt.divisibility", 16]] for n in aligned},
        ),
        target=GPUTarget("cuda", arch, 32),
        options={"num_warps": variant.config.num_warps, "num_stages": variant.config.num_stages},
    )
    registers, stack = _usage(made.asm["cubin"])
    return Compiled(
        variant.name,
        arch,
        registers,
        stack,
        made.metadata.shared,
        ARCHITECTURES[arch].shared,
        len(TENSOR_CORE.findall(made.asm["ptx"])),
        variant.multiplies,
    )


def _usage(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of stack of machine code."""
    tool = TOOLS / "cuobjdump"
    if not tool.exists():
        raise RuntimeError(f"this triton has no {tool}, which reads what a kernel needs")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+)", done.stdout + done.stderr)
    assert found is not None, done.stdout + done.stderr
    return int(found[1]), int(found[2])


def compiled_all(
    architectures: Iterable[int] = tuple(ARCHITECTURES), *, only_largest: bool = False, only: str = ""
) -> Generator[Compiled]:
    """Compiles everything, or of each kernel the largest class, or what `only` occurs in the names of, half a second
    each, in a cache of its own.
    """
    with tempfile.TemporaryDirectory() as folder, cache.scope():
        cache.dir = folder
        for arch in architectures:
            for variant in largest(arch) if only_largest else variants(arch):
                if only in variant.name:
                    yield compiled(variant, arch)


def table() -> dict[str, dict[str, list[int]]]:
    """Registers and bytes of shared memory by variant and architecture, as they were recorded."""
    return json.loads(TABLE.read_text(encoding="utf-8"))["variants"] if TABLE.exists() else {}


def recorded_by() -> str:
    """The version of triton that compiled the table; another one's numbers say nothing about growth."""
    return json.loads(TABLE.read_text(encoding="utf-8"))["triton"] if TABLE.exists() else ""


def growth(rows: Sequence[Compiled]) -> list[str]:
    """Where something needs more registers than was recorded, or was not recorded."""
    known, found = table(), list[str]()
    for row in rows:
        before = known.get(row.name, {}).get(str(row.arch))
        if before is None:
            found.append(f"{row.name} on sm_{row.arch} is not in {TABLE.name}")
        elif row.registers > before[0]:
            found.append(f"{row.name} on sm_{row.arch}: {row.registers} registers, recorded {before[0]}")
    return found


def write(rows: Sequence[Compiled]) -> None:
    """Records the rows beside those of other architectures that the same triton compiled."""
    shipped = {variant.name for arch in ARCHITECTURES for variant in variants(arch)}
    known = {name: row for name, row in table().items() if name in shipped and recorded_by() == TRITON}
    for row in rows:
        known.setdefault(row.name, {})[str(row.arch)] = [row.registers, row.shared]
    lines = (f"  {json.dumps(name)}: {json.dumps(found)}" for name, found in known.items())
    head = f' "triton": "{TRITON}",\n "columns": ["registers", "bytes of shared memory"],\n'
    body = ",\n".join(lines)
    TABLE.write_text(f'{{\n{head} "variants": {{\n{body}\n }}\n}}\n', encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compile every shipped kernel for six architectures.")
    parser.add_argument(
        "--arch", type=int, nargs="*", default=list(ARCHITECTURES), choices=list(ARCHITECTURES)
    )
    parser.add_argument("--only", default="", help="a part of the variants' names, such as 'steer fp32'")
    parser.add_argument("--write", action="store_true", help="record registers and shared memory")
    asked = parser.parse_args(arguments)
    rows: list[Compiled] = []
    for row in compiled_all(asked.arch, only=asked.only):
        rows.append(row)
        print(f"sm_{row.arch:<4} {row.name:36} {row.registers:4} registers {row.shared:7} shared", flush=True)
        for fault in row.faults():
            print(f"  FAULT {fault}", flush=True)
    faults = [fault for row in rows for fault in row.faults()]
    if asked.write and not faults:
        write(rows)
    elif recorded_by() == TRITON:
        faults += growth(rows)
    else:
        print(
            f"registers.json is of triton {recorded_by() or 'none'}, this is {TRITON}: growth is not compared"
        )
    print("\n".join(faults) or f"{len(rows)} compiled, all sound")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
