"""SDXL with tiny random weights, saved as folders that the real loading code reads. Nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

_TEXT_WIDTHS = (32, 48)
_POOLED_WIDTH = 32


def save(folder: Path) -> Path:
    """Write a pipeline with random weights, always the same, into a folder; return the folder.

    Its autoencoder is 8 times smaller than its pictures, as the real one.
    """
    torch.manual_seed(0)
    vocabulary = _tokenizer_files(folder / "letters")
    one, two = (_text_config(vocabulary, width) for width in _TEXT_WIDTHS)
    pipeline = StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(one).eval(),
        text_encoder_2=CLIPTextModelWithProjection(two).eval(),
        tokenizer=_tokenizer(folder / "letters", pad="<|endoftext|>"),
        tokenizer_2=_tokenizer(folder / "letters", pad="!"),
        unet=_unet(),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            timestep_spacing="leading",
            steps_offset=1,
        ),
    )
    pipeline.save_pretrained(folder / "sdxl", safe_serialization=True)
    return folder / "sdxl"


def save_lora(folder: Path, name: str = "ink.safetensors", *, seed: int = 1, width: int = 1) -> Path:
    """Write a LoRA for the tiny UNet, or one so many times as wide, as peft makes it; return the file."""
    torch.manual_seed(seed)
    unet = _unet(width)
    unet.add_adapter(LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=["to_q", "to_v"]))
    StableDiffusionXLPipeline.save_lora_weights(
        folder, unet_lora_layers=get_peft_model_state_dict(unet), weight_name=name, safe_serialization=True
    )
    return folder / name


def _tokenizer_files(folder: Path) -> int:
    """Write a vocabulary of single letters, so that n letters are n tokens; return its size."""
    folder.mkdir(parents=True)
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}), "utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", "utf-8")
    return len(words)


def _tokenizer(folder: Path, *, pad: str) -> CLIPTokenizer:
    return CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), pad_token=pad, model_max_length=77,
    )  # fmt: skip


def _text_config(vocabulary: int, width: int) -> Any:
    return CLIPTextConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=37, num_hidden_layers=3,
        num_attention_heads=4, projection_dim=_POOLED_WIDTH, hidden_act="gelu",
        bos_token_id=vocabulary - 2, eos_token_id=vocabulary - 1, pad_token_id=vocabulary - 1,
    )  # fmt: skip


def _unet(width: int = 1) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        block_out_channels=(8 * width, 16 * width), layers_per_block=1, sample_size=8, in_channels=4, out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4), use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=8, transformer_layers_per_block=(1, 1), norm_num_groups=4,
        projection_class_embeddings_input_dim=8 * 6 + _POOLED_WIDTH, cross_attention_dim=sum(_TEXT_WIDTHS),
    ).eval()  # fmt: skip


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=[4, 4, 8, 8], in_channels=3, out_channels=3, latent_channels=4, norm_num_groups=4,
        down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4, sample_size=64,
        scaling_factor=0.13025,
    ).eval()  # fmt: skip


def save_ip_adapter(folder: Path) -> Path:
    """Write an IP-Adapter for the tiny UNet, and the encoder that sees for it; return the folder."""
    torch.manual_seed(3)
    unet, tokens = _unet(), 4
    encoder = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=16, projection_dim=8, num_hidden_layers=2, num_attention_heads=2, image_size=32,
            intermediate_size=16, patch_size=8,
        )
    ).eval()  # fmt: skip
    encoder.save_pretrained(folder / "image_encoder", safe_serialization=True)
    width = unet.config.cross_attention_dim
    weights = {
        "image_proj.proj.weight": torch.randn(tokens * width, 8), "image_proj.proj.bias": torch.randn(tokens * width),
        "image_proj.norm.weight": torch.ones(width), "image_proj.norm.bias": torch.zeros(width),
    }  # fmt: skip
    # Attention to the prompt has the odd numbers, attention to the picture itself the even ones.
    for number, name in enumerate(unet.attn_processors):
        if name.endswith("attn2.processor"):
            shape = unet.get_submodule(name.removesuffix(".processor")).to_k.weight.shape
            weights |= {f"ip_adapter.{number}.to_{part}_ip.weight": torch.randn(shape) for part in "kv"}
    save_file(weights, folder / "ip-adapter.safetensors")
    return folder


def save_controlnet(folder: Path) -> Path:
    """Write a ControlNet for the tiny UNet with random weights, which do something at once; return the folder."""
    torch.manual_seed(4)
    net = ControlNetModel.from_unet(_unet(), conditioning_embedding_out_channels=(8, 16, 16, 8))
    for values in net.parameters():
        torch.nn.init.normal_(values, std=0.1)
    net.save_pretrained(folder, safe_serialization=True)
    return folder
