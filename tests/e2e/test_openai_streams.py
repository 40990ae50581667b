# SPDX-License-Identifier: Apache-2.0
"""Hundreds of streams through the front end at once, by readers of every kind."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.support.hostile_clients import peak_bytes
from tests.support.openai_server import MODEL, Serving, posted, serving
from tests.support.triton import build_lasting_engine, wait_until

NUM_STREAMS = 256
NUM_TOKENS = 60
# More than the buffers of the system hold.
NUM_TOKENS_OF_STALLED = 600
MAX_GROWTH_BYTES = 256 << 20


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["python", "native"])
def test_hundreds_of_streams(backend: str, tmp_path: Path, record_property: Any) -> None:
    """Whoever reads gets all tokens, and memory stays within bounds.

    A quarter reads as fast as it can, a quarter slowly, a quarter vanishes after its first token
    and a quarter reads nothing before all others have ended.
    """
    engine = build_lasting_engine(tmp_path)
    with serving(engine, f"--backend={backend}") as server:
        expected = [_whole(server, index) for index in range(2)]
        pids = {"front end": server.front_end_pid(), "server": int(server.ready["pid"])}
        before = {name: peak_bytes(pid) for name, pid in pids.items()}
        texts = asyncio.run(_all_streams(server))
        wait_until(server.is_idle, "all KV blocks are back")
        assert texts[:2] == expected
        assert sum(text is not None for text in texts) == NUM_STREAMS - NUM_STREAMS // 4
        for name, pid in pids.items():
            peak = peak_bytes(pid)
            record_property(f"{name}, {backend}", (before[name], peak))
            print(f"{backend}: {name}: {before[name] >> 20} MiB before, {peak >> 20} MiB at most")
            assert peak - before[name] < MAX_GROWTH_BYTES


def _body(index: int) -> dict[str, Any]:
    num_tokens = NUM_TOKENS_OF_STALLED if index % 4 == 3 else NUM_TOKENS
    return {
        "model": MODEL, "prompt": f"And it came to pass {index}", "max_tokens": num_tokens,
        "seed": index, "ignore_eos": True, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip


def _whole(server: Serving, index: int) -> str:
    body = {name: value for name, value in _body(index).items() if "stream" not in name}
    extra = {"ignore_eos": body.pop("ignore_eos")}
    text: str = server.client().completions.create(**body, extra_body=extra).choices[0].text
    return text


async def _all_streams(server: Serving) -> list[str | None]:
    """The text of each stream; None of those that vanished."""
    others_have_ended = asyncio.Event()
    streams = [
        asyncio.create_task(_read(server, index, others_have_ended)) for index in range(NUM_STREAMS)
    ]
    await asyncio.gather(*(stream for index, stream in enumerate(streams) if index % 4 != 3))
    others_have_ended.set()
    return await asyncio.gather(*streams)


async def _read(server: Serving, index: int, others_have_ended: asyncio.Event) -> str | None:
    reader, writer = await posted(server, _body(index))
    kind = index % 4
    if kind == 3:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await others_have_ended.wait()
        writer.transport.resume_reading()  # type: ignore[attr-defined]
    status = await reader.readline()
    assert status == b"HTTP/1.1 200 OK\r\n", status + await reader.read(1 << 16)
    text, num_tokens = "", 0
    while (line := await reader.readline()) != b"data: [DONE]\n":
        assert line, "the stream broke off"
        if kind == 2 and line.startswith(b"data: "):
            writer.transport.abort()
            return None
        if kind == 1:
            await asyncio.sleep(0.01)
        if line.startswith(b"data: "):
            chunk = json.loads(line.removeprefix(b"data: "))
            text += "".join(choice["text"] for choice in chunk["choices"])
            num_tokens = (chunk["usage"] or {}).get("completion_tokens", num_tokens)
    writer.close()
    assert num_tokens == _body(index)["max_tokens"]
    return text
