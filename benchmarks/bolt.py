"""Chronos-Bolt models with random weights, saved as the hub's are."""

from __future__ import annotations

from pathlib import Path

__all__ = ["PUBLISHED", "save_bolt", "save_published"]


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


#: Teachers of published sizes, and the horizons they are timed at: Chronos-Bolt forecasts 64
#: steps in one pass.
PUBLISHED = {
    "chronos-bolt-tiny": (64, 96),
    "chronos-bolt-small": (64, 96),
    "chronos-bolt-base": (64, 96),
    "chronos-2": (96,),
}


def save_published(directory: Path, name: str) -> None:
    """Save a model of a published size, with random weights: they take the same time."""
    if name == "chronos-2":
        return _save_chronos2(directory)
    sizes = {
        "chronos-bolt-tiny": {"d_model": 256, "d_ff": 1024, "num_layers": 4},
        "chronos-bolt-small": {"d_model": 512, "d_ff": 2048, "num_layers": 6},
        "chronos-bolt-base": {"d_model": 768, "d_ff": 3072, "num_layers": 12},
    }[name]
    return save_bolt(
        directory,
        **sizes,
        d_kv=64,
        context_length=2048,
        prediction_length=64,
        input_patch_size=16,
    )


def _save_chronos2(directory: Path) -> None:
    """Save a model of the size of Chronos-2."""
    from chronos.chronos2 import Chronos2Model
    from chronos.chronos2.config import Chronos2CoreConfig

    chronos = {
        "context_length": 8192,
        "input_patch_size": 16,
        "input_patch_stride": 16,
        "output_patch_size": 16,
        "max_output_patches": 64,
        "quantiles": [0.01, 0.05, *(q / 20 for q in range(2, 19)), 0.95, 0.99],
        "use_reg_token": True,
        "use_arcsinh": True,
        "time_encoding_scale": 8192,
    }
    config = Chronos2CoreConfig(
        d_model=768,
        d_kv=64,
        d_ff=3072,
        num_layers=12,
        num_heads=12,
        vocab_size=2,
        pad_token_id=0,
        chronos_config=chronos,
    )
    config.architectures = ["Chronos2Model"]
    config.chronos_pipeline_class = "Chronos2Pipeline"
    Chronos2Model(config).save_pretrained(directory)
