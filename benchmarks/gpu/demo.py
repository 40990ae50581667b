# SPDX-License-Identifier: Apache-2.0
"""The demo's engines for a GPU, each beside the engine for cpu of the same scheme.

    FOLDER/NAME               for the GPU
    FOLDER/checkpoints/NAME   what both are built from, where it is calibrated
    FOLDER/cpu/NAME           what foretells it: the same checkpoint, scheme and KV cache dtype
    FOLDER/cpu/float32        the reference: nothing quantised, nothing rounded

Engines for cpu are built where they are wanted, which takes a second and numpy alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from enginery.builder.build import build, plan_build
from enginery.builder.options import BuildRequest
from enginery.quantization.calibration_formats import CALIBRATION_FORMATS
from enginery.quantize import QuantizeRequest, plan_quantization, quantize

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo"
HELD_OUT = DEMO / "heldout.txt"
NUM_PROMPTS = 6
REQUEST = BuildRequest(
    model=DEMO, max_batch_size=64, max_num_tokens=2048, max_seq_len=1024, overwrite=True
)


@dataclass(frozen=True)
class DemoEngine:
    """One engine of the demo.

    Attributes:
        name: of its folder.
        qformat: the scheme.
        kv_cache_dtype: "auto" is bfloat16.
        tolerance: how far its logits may be from those of the cpu engine of its scheme, relative
            (Frobenius).
    """

    name: str
    qformat: str
    kv_cache_dtype: str = "auto"
    tolerance: float = 5e-2

    def is_calibrated(self) -> bool:
        """Whether it takes scales that are measured on text."""
        form = CALIBRATION_FORMATS[self.qformat]
        return form.reads_data or self.kv_cache_dtype != "auto"

    def checkpoint(self, folder: Path) -> Path:
        """What it is built from; calibrated first if it is not there."""
        if not self.is_calibrated():
            return DEMO
        output = folder / "checkpoints" / self.name
        if not output.exists():
            output.parent.mkdir(parents=True, exist_ok=True)
            request = QuantizeRequest(DEMO, output, self.qformat, self.kv_cache_dtype, device="cpu")
            quantize(plan_quantization(request))
        return output

    def build(self, folder: Path, sku: str, output: Path, cache: Path | None = None) -> Path:
        """Builds it for one SKU, or several with commas between."""
        request = replace(
            REQUEST,
            model=self.checkpoint(folder),
            output=output,
            sku=sku,
            qformat=self.qformat,
            kv_cache_dtype=self.kv_cache_dtype,
            cache_dir=cache,
        )
        output.parent.mkdir(parents=True, exist_ok=True)
        build(plan_build(request))
        return output

    def on_gpu(self, folder: Path) -> Path:
        """The engine for the GPU, which is there."""
        return folder / self.name

    def on_cpu(self, folder: Path) -> Path:
        """The engine for cpu of the same scheme; built if it is not there."""
        output = folder / "cpu" / self.name
        return output if output.exists() else self.build(folder, "cpu", output)


DEMO_ENGINES = (
    DemoEngine("bf16", "none", tolerance=2e-2),
    DemoEngine("int8_wo", "int8_wo", tolerance=2e-2),
    DemoEngine("int8_sq", "int8_sq"),
    DemoEngine("int8_sq.kv_int8", "int8_sq", "int8"),
    DemoEngine("fp8", "fp8"),
    DemoEngine("fp8.kv_fp8", "fp8", "fp8"),
    DemoEngine("int4_wo", "int4_wo", tolerance=2e-2),
    DemoEngine("int4_awq", "int4_awq", tolerance=2e-2),
)


def reference(folder: Path) -> Path:
    """The engine of the float32 reference; built if it is not there."""
    output = folder / "cpu" / "float32"
    if not output.exists():
        output.parent.mkdir(parents=True, exist_ok=True)
        build(plan_build(replace(REQUEST, output=output, dtype="float32")))
    return output


def demo_prompts() -> list[str]:
    """The first prompts that come with the demo."""
    lines = (DEMO / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["prompt"] for line in lines[:NUM_PROMPTS]]
