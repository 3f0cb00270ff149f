"""Chronos-Bolt models with random weights, saved as the hub's are."""

from __future__ import annotations

from pathlib import Path

__all__ = ["save_bolt"]


def save_bolt(
    directory: Path,
    d_model: int,
    d_kv: int,
    d_ff: int,
    num_layers: int,
    context_length: int,
    prediction_length: int,
    input_patch_size: int,
) -> None:
    """Save a model of these sizes, with ``d_model // d_kv`` heads and levels 0.1 to 0.9."""
    from chronos.chronos_bolt import ChronosBoltModelForForecasting
    from transformers import T5Config

    config = T5Config(
        d_model=d_model,
        d_kv=d_kv,
        d_ff=d_ff,
        num_layers=num_layers,
        num_decoder_layers=num_layers,
        num_heads=d_model // d_kv,
        vocab_size=2,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
        initializer_factor=0.05,
        is_encoder_decoder=True,
    )
    config.chronos_config = {
        "context_length": context_length,
        "prediction_length": prediction_length,
        "input_patch_size": input_patch_size,
        "input_patch_stride": input_patch_size,
        "quantiles": [q / 10 for q in range(1, 10)],
        "use_reg_token": True,
    }
    config.architectures = ["ChronosBoltModelForForecasting"]
    config.chronos_pipeline_class = "ChronosBoltPipeline"
    ChronosBoltModelForForecasting(config).save_pretrained(directory)
