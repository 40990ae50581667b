# SPDX-License-Identifier: Apache-2.0
"""The figures of an engine's accuracy, and what a build may lose of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from enginery.layer_noise import LayerNoise

NUM_DESCRIBED_LAYERS = 3


class AccuracyError(Exception):
    """The engine is further from its reference than the build allows.

    Attributes:
        report: what was measured.
    """

    def __init__(self, message: str, report: AccuracyReport) -> None:
        super().__init__(message)
        self.report = report


@dataclass(frozen=True)
class AccuracyReport:
    """An engine beside its reference on one text.

    Attributes:
        perplexity, reference_perplexity: exp of the mean negative log-likelihood of the text.
        perplexity_increase: the first over the second, less 1.
        kl_divergence_mean, kl_divergence_p99: of the engine's next-token distribution from the
            reference's, in nats, over positions: mean and 99th percentile.
        top1_agreement: share of positions at which both would say the same token.
        num_tokens: predicted tokens.
        window: tokens of a piece of the text; each piece is read after a begin-of-text token alone.
        text: name and SHA-256 of the text.
        engine, reference: what they are: target, dtype, qformat and kv_cache_dtype; of the
            reference also which checkpoint it was built from, see
            `enginery.reference_model.reference_identity`.
        layers: what quantising each linear layer alone costs, the worst first; empty where two
            engines were compared without their checkpoints.
    """

    perplexity: float
    reference_perplexity: float
    perplexity_increase: float
    kl_divergence_mean: float
    kl_divergence_p99: float
    top1_agreement: float
    num_tokens: int
    window: int
    text: dict[str, str]
    engine: dict[str, str]
    reference: dict[str, str]
    layers: tuple[LayerNoise, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The attributes by name."""
        return dataclasses.asdict(self)

    def describe(self) -> str:
        """The figures as lines for a person."""
        return "\n".join(
            [
                f"Accuracy on {self.text['name']} ({self.num_tokens} tokens)",
                (
                    f"  perplexity      {self.perplexity:.4f}, of the reference "
                    f"({self.reference['dtype']}) {self.reference_perplexity:.4f}: "
                    f"{self.perplexity_increase:+.2%}"
                ),
                (
                    f"  KL divergence   mean {self.kl_divergence_mean:.5f} nats, "
                    f"99th percentile {self.kl_divergence_p99:.5f}"
                ),
                f"  top-1 agreement {self.top1_agreement:.2%}",
                *self._describe_layers(),
            ]
        )

    def _describe_layers(self) -> list[str]:
        worst = [layer for layer in self.layers if layer.snr_db is not None]
        if not worst:
            return []
        lines = [
            f"    {layer.name}: {layer.snr_db:.1f} dB, {layer.noise_share:.1%} of the noise"
            for layer in worst[:NUM_DESCRIBED_LAYERS]
        ]
        if worst[0].is_quantised:
            pattern = worst[0].parts[0]
            lines.append(f"    --exclude_modules PATTERN leaves a layer out, e.g. {pattern}")
        return ["  least signal to noise, of each layer alone:", *lines]


@dataclass(frozen=True)
class Gate:
    """What a build may lose; None: whatever it is.

    Attributes:
        max_perplexity_increase: 0.01 is one percent.
        min_top1_agreement: 0.99 is 99 percent.
    """

    max_perplexity_increase: float | None = None
    min_top1_agreement: float | None = None

    def check(self, report: AccuracyReport) -> None:
        """Raises AccuracyError with everything that is missed."""
        missed = []
        limit = self.max_perplexity_increase
        if limit is not None and not report.perplexity_increase <= limit:
            missed.append(
                f"perplexity rose by {report.perplexity_increase:.2%}; {limit:.2%} is allowed"
            )
        limit = self.min_top1_agreement
        if limit is not None and not report.top1_agreement >= limit:
            missed.append(
                f"top-1 agreement is {report.top1_agreement:.2%}; {limit:.2%} is the least"
            )
        if missed:
            raise AccuracyError("; ".join(missed), report)
