# SPDX-License-Identifier: Apache-2.0
"""Trains the demo checkpoint of examples/demo: a Llama of 4 M parameters on public-domain prose.

    python examples/train_demo.py prepare --text kjv.txt austen.txt --work_dir work
    python examples/train_demo.py train --work_dir work --output_dir examples/demo

`prepare` cuts the texts into chapters, holds some out and trains the tokenizer; `train` needs only
what `prepare` wrote, and uses a GPU when there is one. examples/demo/README.md names the texts and
the commands that produce them. Needs torch, tokenizers and safetensors.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import math
import re
import shutil
import time
from pathlib import Path

import tokenizers
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn

BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
SPECIAL_TOKENS = (BOS, EOS, "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('role must be system, user or assistant') }}"
    "{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] | trim + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
HELDOUT_BYTES = 64 * 1024
WINDOW = 512  # Tokens predicted per training row and per evaluation window.


@dataclasses.dataclass(frozen=True)
class Config:
    """The fields of config.json that the model below reads, under their names there."""

    vocab_size: int = 4096
    hidden_size: int = 256
    intermediate_size: int = 768
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0


class Attention(nn.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        q_size = config.num_attention_heads * config.head_dim
        kv_size = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, q_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv_size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=False)
        self.o_proj = nn.Linear(q_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        heads = (*x.shape[:2], -1, self.head_dim)
        q, k, v = (
            p(x).view(heads).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.o_proj(out.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]


class DecoderLayer(nn.Module):
    """Pre-norm attention and MLP, with dropout on what each adds to the residual stream."""

    def __init__(self, config: Config, dropout: float) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.dropout(self.self_attn(self.input_layernorm(x), cos, sin))
        return x + self.dropout(self.mlp(self.post_attention_layernorm(x)))  # type: ignore[no-any-return]


class Llama(nn.Module):
    """A Llama whose output projection is its embedding; attributes are named as checkpoints are."""

    def __init__(self, config: Config, dropout: float) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            DecoderLayer(config, dropout) for _ in range(config.num_hidden_layers)
        )
        self.norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.dropout = nn.Dropout(dropout)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                # Layers add 2 * num_hidden_layers terms to the residual stream: GPT-2's scaling
                # keeps its variance at the start independent of the depth.
                is_output = name.endswith(("o_proj.weight", "down_proj.weight"))
                depth_scale = (2 * config.num_hidden_layers) ** -0.5 if is_output else 1.0
                nn.init.normal_(parameter, std=0.02 * depth_scale)

    def forward(self, token_ids: Tensor) -> Tensor:
        """Maps token ids [batch, length] to logits [batch, length, vocab_size]."""
        cos, sin = rotary_table(self.config, token_ids.shape[1], token_ids.device)
        x = self.dropout(self.embed_tokens(token_ids))
        for layer in self.layers:
            x = layer(x, cos, sin)
        return F.linear(self.norm(x), self.embed_tokens.weight)


def rotary_table(config: Config, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines [length, head_dim] in float32, with each frequency in both halves."""
    exponents = torch.arange(0, config.head_dim, 2, device=device) / config.head_dim
    positions = torch.arange(length, device=device)
    angles = torch.outer(positions, config.rope_theta**-exponents).repeat(1, 2)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates [batch, heads, length, head_dim], pairing element i with i + head_dim / 2."""
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


def chapters(text: str) -> list[str]:
    """Cuts a text into chapters of unwrapped paragraphs, separated by one blank line."""
    paragraphs = [" ".join(p.split()) for p in re.split(r"\n\s*\n", text)]
    found: list[list[str]] = [[]]
    for paragraph in filter(None, paragraphs):
        if re.match(r"chapter\b", paragraph, re.IGNORECASE):
            found.append([])
        found[-1].append(paragraph)
    return ["\n\n".join(chapter) for chapter in found if chapter]


def hold_out(texts: list[str], num_bytes: int) -> tuple[list[str], list[str]]:
    """Splits chapters into those before and the last ones that reach `num_bytes` in UTF-8."""
    size, first = 0, len(texts)
    while size < num_bytes:
        first -= 1
        size += len(texts[first].encode())
    return texts[:first], texts[first:]


def train_tokenizer(texts: list[str], vocab_size: int) -> Tokenizer:
    """Trains a byte-level BPE tokenizer; the special tokens take the last ids, as in Llama 3."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {BOS} $B:1",
        special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
    )
    return tokenizer


def prepare(args: argparse.Namespace) -> None:
    """Writes train.jsonl, validation.txt, heldout.txt and tokenizer.json into the work directory.

    Both slices are whole chapters from the end of the last text. Validation decides when to stop,
    the held-out text decides nothing.
    """
    texts = [text for path in args.text for text in chapters(path.read_text(encoding="utf-8"))]
    texts, heldout = hold_out(texts, HELDOUT_BYTES)
    texts, validation = hold_out(texts, HELDOUT_BYTES)
    args.work_dir.mkdir(parents=True, exist_ok=True)
    for name, chosen in (("heldout", heldout), ("validation", validation)):
        (args.work_dir / f"{name}.txt").write_text("\n\n".join(chosen) + "\n", encoding="utf-8")
    with (args.work_dir / "train.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(text, ensure_ascii=False) + "\n" for text in texts)
    train_tokenizer(texts, Config.vocab_size).save(str(args.work_dir / "tokenizer.json"))
    print(f"{len(texts)} chapters, {sum(len(text.encode()) for text in texts)} bytes to train on")


def cross_entropy(model: Llama, rows: Tensor) -> Tensor:
    """Mean negative log-likelihood in nats of rows [batch, 1 + n], the first token given."""
    with torch.autocast(rows.device.type, torch.bfloat16, enabled=rows.is_cuda):
        logits = model(rows[:, :-1])
    return F.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())


@torch.no_grad()
def evaluate(model: Llama, ids: Tensor, bos: int) -> float:
    """Mean negative log-likelihood of `ids` in windows of WINDOW tokens, each after a BOS."""
    model.eval()
    bos_token = ids.new_tensor([bos])
    windows = [torch.cat((bos_token, window)) for window in torch.split(ids, WINDOW)]
    total = sum(cross_entropy(model, row[None]).item() * (len(row) - 1) for row in windows)
    model.train()
    return total / len(ids)


def learning_rate(step: int, args: argparse.Namespace) -> float:
    """Linear warm-up over the first 2 %, then half a cosine down to a hundredth of the peak."""
    warmup = max(1, args.steps // 50)
    progress = max(0, step - warmup) / max(1, args.steps - warmup)
    decay = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))
    return float(args.learning_rate * min(1.0, (step + 1) / warmup) * decay)


def train(args: argparse.Namespace) -> None:
    """Trains on random windows and writes the average of the weights that validated best."""
    started = time.monotonic()
    torch.manual_seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = Tokenizer.from_file(str(args.work_dir / "tokenizer.json"))
    bos, eos = tokenizer.encode(BOS + EOS, add_special_tokens=False).ids

    lines = (args.work_dir / "train.jsonl").read_text(encoding="utf-8").splitlines()
    stream: list[int] = []
    for encoding in tokenizer.encode_batch([json.loads(line) for line in lines]):
        stream += [*encoding.ids, eos]
    data = torch.tensor(stream, device=device)
    validation_text = (args.work_dir / "validation.txt").read_text(encoding="utf-8")
    validation_ids = tokenizer.encode(validation_text, add_special_tokens=False).ids
    validation = torch.tensor(validation_ids, device=device)

    model = Llama(Config(), args.dropout).to(device)
    average = copy.deepcopy(model).requires_grad_(False)
    matrices = [p for p in model.parameters() if p.dim() == 2]
    gains = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": args.weight_decay}, {"params": gains}],
        betas=(0.9, 0.95),
        weight_decay=0.0,
        fused=device.type == "cuda",
    )
    num_parameters = sum(p.numel() for p in model.parameters())
    print(f"{num_parameters} parameters, {len(data)} tokens, {device}", flush=True)

    best_loss, best_step, best_weights = math.inf, 0, average.state_dict()
    offsets = torch.arange(WINDOW, device=device)
    for step in range(args.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args)
        starts = torch.randint(len(data) - WINDOW, (args.batch_size, 1), device=device)
        rows = F.pad(data[starts + offsets], (1, 0), value=bos)
        loss = cross_entropy(model, rows)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        # The average forgets over 1 % of the run, and over less of it at the start.
        forget = max(min(1.0, 100 / args.steps), 1 / (step + 1))
        torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), forget)
        if (step + 1) % args.eval_interval == 0 or step + 1 == args.steps:
            validation_loss = evaluate(average, validation, bos)
            if validation_loss < best_loss:
                best_loss, best_step = validation_loss, step + 1
                best_weights = copy.deepcopy(average.state_dict())
            print(
                f"step {step + 1} train {loss.item():.4f} validation {validation_loss:.4f} "
                f"perplexity {math.exp(validation_loss):.2f} {time.monotonic() - started:.0f} s",
                flush=True,
            )
    record = {
        "arguments": {k: v for k, v in vars(args).items() if isinstance(v, int | float)},
        "best_step": best_step,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "epochs": round(args.steps * args.batch_size * WINDOW / len(data), 1),
        "num_parameters": num_parameters,
        "num_train_tokens": len(data),
        "seconds": round(time.monotonic() - started),
        "validation_perplexity": round(math.exp(best_loss), 3),
        "versions": {"tokenizers": tokenizers.__version__, "torch": torch.__version__},
    }
    save_checkpoint(args.output_dir, args.work_dir, best_weights, bos, eos, record)


def save_checkpoint(
    output_dir: Path,
    work_dir: Path,
    weights: dict[str, Tensor],
    bos: int,
    eos: int,
    record: dict[str, object],
) -> None:
    """Writes the Hugging Face checkpoint in bfloat16, the held-out text and training.json."""
    output_dir.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{k}": v.to("cpu", torch.bfloat16).contiguous() for k, v in weights.items()}
    save_file(tensors, output_dir / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "mlp_bias": False,
        "rope_scaling": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        **dataclasses.asdict(Config()),
    }
    tokenizer_config = {
        "add_bos_token": True,
        "bos_token": BOS,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": EOS,
        "model_max_length": Config.max_position_embeddings,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    files = {
        "config": config,
        "generation_config": {"bos_token_id": bos, "do_sample": False, "eos_token_id": eos},
        "tokenizer_config": tokenizer_config,
        "training": record,
    }
    for name, value in files.items():
        text = json.dumps(value, indent=2, sort_keys=True) + "\n"
        (output_dir / f"{name}.json").write_text(text, encoding="utf-8")
    for name in ("tokenizer.json", "heldout.txt"):
        shutil.copyfile(work_dir / name, output_dir / name)


def main() -> None:
    """Parses the command line and runs `prepare` or `train`."""
    parser = argparse.ArgumentParser(description="Train the demo checkpoint")
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("prepare", help="cut the texts, train the tokenizer")
    command.add_argument("--text", type=Path, nargs="+", required=True, help="UTF-8 text files")
    command.add_argument("--work_dir", type=Path, required=True)
    command.set_defaults(run=prepare)
    command = commands.add_parser("train", help="train and write the checkpoint")
    command.add_argument("--work_dir", type=Path, required=True, help="written by prepare")
    command.add_argument("--output_dir", type=Path, required=True)
    command.add_argument("--steps", type=int, default=3200)
    command.add_argument("--batch_size", type=int, default=64, help="windows per step")
    command.add_argument("--learning_rate", type=float, default=3e-3, help="peak")
    command.add_argument("--weight_decay", type=float, default=1.0)
    command.add_argument("--dropout", type=float, default=0.2)
    command.add_argument("--eval_interval", type=int, default=100, help="steps")
    command.add_argument("--seed", type=int, default=0)
    command.set_defaults(run=train)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
