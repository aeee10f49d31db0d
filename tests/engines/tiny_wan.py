"""Wan pipelines with tiny random weights, saved as folders that the real loading code reads. Nothing is downloaded."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from peft import LoraConfig, get_peft_model_state_dict
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

Shape = Literal["text", "two_stages", "first_frame", "first_and_last_frame", "free_frames", "text_and_first_frame"]
"""What the weights can do.

Wan 2.1: from text, from a first frame, from a first and a last frame. Wan 2.2: from text in two stages with a
transformer each; with both frames at will (no image encoder); 5B, from text with or without a first frame.
"""

_TEXT_WIDTH = 32
_IMAGE_WIDTH = 4
_PATCHES = 4


def save(shape: Shape, folder: Path) -> Path:
    """Write a pipeline with random weights, always the same for a shape, into a folder; return the folder."""
    torch.manual_seed(0)
    components: dict[str, Any] = {
        "tokenizer": _tokenizer(),
        "text_encoder": _text_encoder(),
        "vae": _vae(),
        "scheduler": UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
        ),
        "transformer": _transformer(shape),
    }
    match shape:
        case "text":
            pipeline: Any = WanPipeline(**components)
        case "two_stages":
            pipeline = WanPipeline(**components, transformer_2=_transformer(shape), boundary_ratio=0.9)
        case "text_and_first_frame":
            pipeline = WanPipeline(**components, expand_timesteps=True)
        case "free_frames":
            pipeline = WanImageToVideoPipeline(**components, image_encoder=None, image_processor=None)
        case _:
            pipeline = WanImageToVideoPipeline(**components, **_eyes())
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def save_lora(folder: Path, name: str = "ink.safetensors") -> Path:
    """Write a LoRA for any of the tiny transformers as peft makes it, with random weights; return the file."""
    torch.manual_seed(1)
    transformer = _transformer("text")
    transformer.add_adapter(LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=["to_q", "to_v"]))
    layers = get_peft_model_state_dict(transformer)
    WanPipeline.save_lora_weights(folder, transformer_lora_layers=layers, weight_name=name, safe_serialization=True)
    return folder / name


def _tokenizer() -> T5Tokenizer:
    """A Unigram of letters: every prompt of ASCII is spelled, and none is too large for the vocabulary."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    letters = [(letter, -3.0) for letter in string.ascii_letters + string.digits + string.punctuation]
    return T5Tokenizer(vocab=special + letters, extra_ids=0, model_max_length=512)


def _text_encoder() -> UMT5EncoderModel:
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=128, d_model=_TEXT_WIDTH, d_kv=8, d_ff=37, num_layers=2, num_heads=4,
            relative_attention_num_buckets=8,
        )
    ).eval()  # fmt: skip


def _vae() -> AutoencoderKLWan:
    return AutoencoderKLWan(
        base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    ).eval()


def _transformer(shape: Shape) -> WanTransformer3DModel:
    # To the 16 channels of what is made, a first frame adds its own 16 and a mask of 4.
    from_frames = shape in ("first_frame", "first_and_last_frame", "free_frames")
    sees = shape in ("first_frame", "first_and_last_frame")
    return WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=36 if from_frames else 16,
        out_channels=16, text_dim=_TEXT_WIDTH, freq_dim=64, ffn_dim=32, num_layers=2, cross_attn_norm=True,
        rope_max_seq_len=64, image_dim=_IMAGE_WIDTH if sees else None,
        added_kv_proj_dim=24 if sees else None,
        pos_embed_seq_len=2 * (_PATCHES + 1) if shape == "first_and_last_frame" else None,
    ).eval()  # fmt: skip


def _eyes() -> dict[str, Any]:
    encoder = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=_IMAGE_WIDTH, projection_dim=_IMAGE_WIDTH, num_hidden_layers=2, num_attention_heads=2,
            image_size=16, intermediate_size=16, patch_size=8,
        )
    ).eval()  # fmt: skip
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, do_center_crop=True
    )
    return {"image_encoder": encoder, "image_processor": processor}
