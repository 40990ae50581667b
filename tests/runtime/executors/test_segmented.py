# SPDX-License-Identifier: Apache-2.0
"""What the executor asks of a device, on one that computes nothing."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from enginery.plugins.emulate.device import EmulatedDevice
from enginery.runtime.batch import SAMPLE_HOST_ONLY
from enginery.runtime.engine import Engine
from enginery.runtime.errors import EngineMismatchError
from enginery.runtime.executor import Limits
from enginery.runtime.executors.device import View
from enginery.runtime.executors.image import RankImage
from enginery.runtime.executors.rank import are_of_collective
from enginery.runtime.executors.segmented import SegmentedExecutor, common_cuts, wants_logits
from enginery.runtime.executors.steps import attention_cuts
from tests.support.batches import make_batch
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.emulation import build_emulated

LIMITS = Limits(
    max_batch_size=6, max_num_tokens=48, max_logit_rows=48, max_seq_len=112, tokens_per_block=16
)


class IdleDevice(EmulatedDevice):
    """Keeps keys, grids, copies and fetches; fails when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[Hashable | None] = []
        self.grids: list[tuple[str, int]] = []
        self.copies: list[list[int]] = []
        self.fetched: list[tuple[int, ...]] = []
        self.num_synchronized = 0
        self.fails = False

    def load_kernel(self, kernel: Any) -> Any:
        return kernel.spec

    def launch(self, handle: Any, grid: int, arguments: Mapping[str, Any]) -> None:
        if self.fails:
            raise RuntimeError("the launch failed")
        assert grid >= 1
        self.grids.append((handle, grid))

    def run(self, key: Hashable | None, work: Callable[[], None]) -> None:
        self.keys.append(key)
        super().run(key, work)

    def copy_rows(self, view: Any, pairs: Any, row_bytes: int, pitch: int, count: int) -> None:
        assert row_bytes * pairs.max() < pitch and view.num_bytes == pitch * count
        self.copies.append(pairs.ravel().tolist())

    def fetch(self, view: Any) -> Any:
        self.fetched.append(view.shape)
        return super().fetch(view)

    def synchronize(self) -> None:
        self.num_synchronized += 1


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("idle")
    checkpoint = write_tiny_checkpoint(folder / "checkpoint", "llama", dtype="bfloat16")
    with Engine(build_emulated(checkpoint, folder / "engine")) as opened:
        yield opened


@pytest.fixture
def device() -> IdleDevice:
    return IdleDevice()


@pytest.fixture
def executor(engine: Engine, device: IdleDevice) -> SegmentedExecutor:
    executor = SegmentedExecutor(engine, None, [device])
    assert executor.provider == "native"  # the SKU's first
    executor.init(LIMITS, 1 << 20)
    return executor


def run(executor: SegmentedExecutor, *sequences: tuple[int, int], **options: Any) -> Any:
    executor.execute(make_batch(sequences, **options))
    return executor.collect()


def test_decode_steps_of_a_size_are_recorded_once(
    executor: SegmentedExecutor, device: IdleDevice
) -> None:
    run(executor, (1, 3), (1, 9), (1, 1))
    run(executor, (1, 5), (1, 10), (1, 2), (1, 14))
    three, four = device.keys
    assert three is not None and three == four
    run(executor, (1, 5), (1, 40))  # two splits and a part: another number of items
    run(executor, (1, 5))
    assert len(set(device.keys)) == 3


def test_other_steps_are_not_recorded(executor: SegmentedExecutor, device: IdleDevice) -> None:
    run(executor, (2, 0))
    run(executor, (1, 3), (7, 3))
    assert device.keys == [None, None]


def test_grids_of_a_padded_decode(executor: SegmentedExecutor, device: IdleDevice) -> None:
    # 3 tokens padded to 4; contexts of 41, 5 and 2 tokens are 3 + 1 + 1 items, padded to 8.
    run(executor, (1, 40), (1, 4), (1, 1))
    grids = dict(device.grids)
    assert grids["kv_append"] == 4 * 2
    assert grids["paged_attention"] == 8 * 2
    assert grids["combine"] == 4 * 4
    assert grids["sample"] == 4
    device.grids.clear()
    run(executor, (1, 10), (1, 4), (1, 1))
    assert "combine" not in dict(device.grids)


def test_a_chunk_that_wants_no_logits(executor: SegmentedExecutor, device: IdleDevice) -> None:
    batch = make_batch([(5, 0)])
    empty = {"logit_rows": batch.logit_rows[:0], "samples": batch.samples[:0]}
    executor.execute(type(batch)(**{**vars(batch), **empty}))
    output = executor.collect()
    assert output.token_ids is None and output.logits is not None
    assert output.logits.shape == (0, 320)
    assert "sample" not in dict(device.grids) and "gather_rows" not in dict(device.grids)
    # Nothing is fetched that would be waited for.
    assert (device.fetched, device.num_synchronized) == ([], 1)


def test_what_is_fetched(executor: SegmentedExecutor, device: IdleDevice) -> None:
    output = run(executor, (1, 3), (1, 9))
    assert output.logits is None and output.token_ids.tolist() == [0, 0]
    assert device.fetched == [(2,)]
    output = run(executor, (1, 3), (1, 9), flags=SAMPLE_HOST_ONLY)
    assert output.logits.shape == (2, 320)
    assert device.fetched[1:] == [(2,), (2, 320)]


def test_several_tokens_drawn_from_one_row(executor: SegmentedExecutor, device: IdleDevice) -> None:
    output = run(executor, (1, 0), samples_per_sequence=3)
    assert output.token_ids.shape == (3,) and output.logits is None
    assert dict(device.grids)["sample"] == 3


def test_blocks_are_copied_first(executor: SegmentedExecutor, device: IdleDevice) -> None:
    run(executor, (1, 3), block_copies=[(5, 2), (7, 9)])
    assert device.copies == [[5, 2, 7, 9]]


def test_a_failed_step_leaves_the_next_one_whole(
    executor: SegmentedExecutor, device: IdleDevice
) -> None:
    device.fails = True
    with pytest.raises(RuntimeError, match="the launch failed"):
        executor.execute(make_batch([(3, 0)]))
    # Its arrays are not written again before everything queued is done.
    assert device.num_synchronized == 1
    device.fails = False
    assert run(executor, (1, 3)).token_ids.shape == (1,)


@pytest.mark.parametrize("window", [None, "9", [9], -1])
def test_a_window_that_is_none(executor: SegmentedExecutor, window: Any) -> None:
    image = executor.images[0]
    hostile = image_with_window(image, window)
    with pytest.raises(EngineMismatchError, match=r"sliding_window is .* not an integer from 0 on"):
        attention_cuts(hostile)


def test_ranks_of_other_steps(executor: SegmentedExecutor) -> None:
    image = executor.images[0]
    assert common_cuts([image, replace(image, rank=1)]) == common_cuts([image])
    without = [step for step in image.steps if step.op != "gather_rows"]
    for other in (replace(image, steps=tuple(without)), image_with_window(image, 9)):
        with pytest.raises(EngineMismatchError, match="rank 1 has other steps") as caught:
            common_cuts([image, replace(other, rank=1)])
        assert caught.value.status == "RANK_MISMATCH"


@pytest.mark.parametrize(
    ("op", "index"),
    [("kv_append", 1), ("kv_append", 2), ("kv_append", 4), ("paged_attention", 2), ("embed", 1)],
)
def test_tensors_of_another_size(op: str, index: int, engine: Engine, device: IdleDevice) -> None:
    executor = SegmentedExecutor(engine, None, [device])
    image = executor.images[0]
    (step, *_) = (step for step in image.steps if step.op == op)
    tensor = replace(image.tensors["rope.inv_freq"], shape=(7,))
    inputs = (*step.inputs[:index], tensor, *step.inputs[index + 1 :])
    steps = [replace(step, inputs=inputs) if each is step else each for each in image.steps]
    executor.images = (replace(image, steps=tuple(steps)),)
    with pytest.raises(EngineMismatchError, match=rf"\({op}\): .* is not a tensor of shape \["):
        executor.init(LIMITS, 1 << 20)


def test_operands_of_collectives() -> None:
    def view(dtype: str, columns: int, rows: int = 4, offset: int = 0) -> View:
        return View(None, offset, dtype, (rows, columns))

    assert are_of_collective("all_reduce", view("f32", 8), view("f32", 8))
    assert not are_of_collective("all_reduce", view("f32", 8), view("f32", 8, offset=256))
    assert not are_of_collective("all_reduce", view("bf16", 8), view("bf16", 8))
    assert are_of_collective("all_gather", view("f32", 4), view("f32", 8, offset=256))
    for source in (None, view("bf16", 4), view("f32", 16), view("f32", 3), view("f32", 4, rows=5)):
        assert not are_of_collective("all_gather", source, view("f32", 8))


def image_with_window(image: RankImage, window: Any) -> RankImage:
    """An image whose last layer has another sliding window."""
    last = max(step.index for step in image.steps if step.op == "paged_attention")
    steps = [
        replace(step, attributes={**step.attributes, "sliding_window": window})
        if step.index == last
        else step
        for step in image.steps
    ]
    return replace(image, steps=tuple(steps))


@pytest.mark.parametrize(
    ("rows", "num_rows", "expected"),
    [([0, 1, 2], 3, False), ([0, 0, 1], 2, False), ([0, 0, 2], 3, True), ([1], 2, True),
     ([0, 0, 1], 3, True), ([], 1, True)],
)  # fmt: skip
def test_rows_that_nobody_draws_from_want_logits(
    rows: list[int], num_rows: int, expected: bool
) -> None:
    samples = make_batch([(1, 0)]).samples.repeat(len(rows))
    samples["logit_row"] = rows
    assert wants_logits(samples, num_rows) is expected
    if len(rows):
        samples["flags"][-1] |= np.uint32(SAMPLE_HOST_ONLY)
        assert wants_logits(samples, num_rows)
