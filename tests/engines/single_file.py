"""Writes a pipeline of SDXL as one file, with the names of tensors that checkpoints have: LDM's and OpenCLIP's.

It is the reverse of what diffusers does when it reads such a file; only what the tiny pipeline has is known here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_UNET = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2", "conv_norm_out": "out.0",
    "conv_out": "out.2",
}  # fmt: skip
_CLIP = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}  # fmt: skip


def save(pipeline: Any, path: Path) -> Path:
    """Write the weights of a pipeline whose UNet has one layer a block; return the file."""
    weights = {f"model.diffusion_model.{_unet(name)}": values for name, values in pipeline.unet.state_dict().items()}
    weights |= {f"first_stage_model.{_vae(name)}": values for name, values in pipeline.vae.state_dict().items()}
    for name, values in pipeline.text_encoder.state_dict().items():
        bare = name.removeprefix("text_model.")
        weights[f"conditioner.embedders.0.transformer.text_model.{bare}"] = values
    encoder = {name.removeprefix("text_model."): each for name, each in pipeline.text_encoder_2.state_dict().items()}
    weights |= {f"conditioner.embedders.1.model.{name}": values for name, values in _open_clip(encoder).items()}
    save_file({name: values.contiguous() for name, values in weights.items()}, path)
    return path


def _unet(name: str) -> str:
    for ours, theirs in _UNET.items():
        if name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    part, kind, rest = _parts(name)
    if part == "mid":
        number, rest = rest.split(".", 1)
        return f"middle_block.{1 if kind == 'attentions' else 2 * int(number)}.{_inner(kind, rest)}"
    side, block = part.split(".")
    number, rest = rest.split(".", 1)
    if kind == "downsamplers":
        return f"input_blocks.{2 * (int(block) + 1)}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":  # behind the attention of its block
        return f"output_blocks.{2 * int(block) + 1}.{2 if int(block) == 0 else 1}.{rest}"
    place = 2 * int(block) + int(number)
    where = f"input_blocks.{place + 1}" if side == "down" else f"output_blocks.{place}"
    return f"{where}.{1 if kind == 'attentions' else 0}.{_inner(kind, rest)}"


def _inner(kind: str, rest: str) -> str:
    if kind != "resnets":
        return rest
    layer, last = rest.rsplit(".", 1)
    return f"{_RESNET[layer]}.{last}"


def _parts(name: str) -> tuple[str, str, str]:
    match = re.fullmatch(r"(?:(mid)_block|(down|up)_blocks\.(\d+))\.(\w+)\.(.*)", name)
    if match is None:
        raise ValueError(f"{name} is not known here")
    return match[1] or f"{match[2]}.{match[3]}", match[4], match[5]


def _vae(name: str) -> str:
    for side, blocks in (("encoder", "down"), ("decoder", "up")):
        for block in range(4):
            level = block if blocks == "down" else 3 - block
            ours, theirs = f"{side}.{blocks}_blocks.{block}.", f"{side}.{blocks}.{level}."
            name = name.replace(f"{ours}resnets", f"{theirs}block")
            name = name.replace(f"{ours}{blocks}samplers.0", f"{theirs}{blocks}sample")
    for ours, theirs in (
        ("mid_block.resnets.0", "mid.block_1"), ("mid_block.resnets.1", "mid.block_2"),
        ("mid_block.attentions.0.group_norm", "mid.attn_1.norm"),
        ("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out"), ("mid_block.attentions.0.to_", "mid.attn_1."),
        ("conv_norm_out", "norm_out"), ("conv_shortcut", "nin_shortcut"),
    ):  # fmt: skip
        name = name.replace(ours, theirs)
    return name


def _open_clip(encoder: dict[str, Any]) -> dict[str, Any]:
    made = {
        "token_embedding.weight": encoder["embeddings.token_embedding.weight"],
        "positional_embedding": encoder["embeddings.position_embedding.weight"],
        "text_projection": encoder["text_projection.weight"].T,
    }
    for name, values in encoder.items():
        if name.startswith("final_layer_norm."):
            made[name.replace("final_layer_norm", "ln_final")] = values
        elif (match := re.fullmatch(r"encoder\.layers\.(\d+)\.(.*)\.(weight|bias)", name)) and match[2] in _CLIP:
            made[f"transformer.resblocks.{match[1]}.{_CLIP[match[2]]}.{match[3]}"] = values
        elif match and match[2] == "self_attn.q_proj":
            three = [encoder[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            made[f"transformer.resblocks.{match[1]}.attn.in_proj_{match[3]}"] = torch.cat(three)
    return made
