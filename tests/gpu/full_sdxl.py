"""SDXL at its full size with random weights: the shapes of the published base model, and nothing downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

PARAMETERS = {
    "unet": 2_567_463_684,
    "vae": 83_653_863,
    "text_encoder": 123_060_480,
    "text_encoder_2": 694_659_840,
}
"""What the published model's components count, so that the shapes below are known to be right."""


def components(vocabulary: int) -> dict[str, Any]:
    """Build the four networks with random weights, on torch's default device and in its default dtype.

    `vocabulary` is the number of the token that ends a text, plus one.
    """
    return {
        "unet": UNet2DConditionModel(
            sample_size=128, in_channels=4, out_channels=4, layers_per_block=2, block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10), attention_head_dim=(5, 10, 20), cross_attention_dim=2048,
            use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        ),
        "vae": AutoencoderKL(
            sample_size=1024, in_channels=3, out_channels=3, latent_channels=4, layers_per_block=2,
            block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4, scaling_factor=0.13025, force_upcast=True,
        ),
        "text_encoder": CLIPTextModel(_text_config(vocabulary, width=768, layers=12, heads=12, act="quick_gelu")),
        "text_encoder_2": CLIPTextModelWithProjection(
            _text_config(vocabulary, width=1280, layers=32, heads=20, act="gelu")
        ),
    }  # fmt: skip


def save(folder: Path, tiny: Path, *, device: str) -> Path:
    """Write the pipeline in bfloat16 (7 GB), built on `device`; the tokenizers are those of a tiny SDXL's folder."""
    tokenizers = {
        name: CLIPTokenizer.from_pretrained(tiny / name, local_files_only=True) for name in ("tokenizer", "tokenizer_2")
    }
    torch.manual_seed(0)
    with torch.device(device), _numbers(torch.bfloat16):
        networks = components(len(tokenizers["tokenizer"]))
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1
    )
    pipeline = StableDiffusionXLPipeline(**networks, **tokenizers, scheduler=scheduler)
    pipeline.to(torch.bfloat16).save_pretrained(folder, safe_serialization=True)
    return folder


@contextmanager
def _numbers(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _text_config(vocabulary: int, *, width: int, layers: int, heads: int, act: str) -> Any:
    return CLIPTextConfig(
        vocab_size=49408, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=heads, projection_dim=width, hidden_act=act, bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1, pad_token_id=vocabulary - 1,
    )  # fmt: skip
