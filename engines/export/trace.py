"""SAM2's two graphs, written so that their ONNX export is small and plain.

The same mathematics as transformers' Sam2Model, with its own modules and weights, but every shape of
the encoder is a Python integer and the decoder is dynamic only in B (prompts) and N (rows), said with
Reshape's 0 and -1. So the files hold no Shape, Gather or Concat chains and no If, run on small
runtimes, and build into TensorRT plans without surprises.

Invariants
1. Position embeddings are folded: the encoder's bicubic interpolation is done here, once. Some
   runtimes read Resize(cubic) as linear without a word.
2. The decoder's one padding row (0, 0, -1), which SAM2 appends when a box comes as two corners, is
   appended inside the graph; callers send only the rows they mean.
3. Tensor names and shapes are those of network.py; export_onnx.py compares the result with
   Sam2Model.forward.

`mask_slice` picks which of SAM2's four masks a decoder gives: all (M = 4), 1..3 (M = 3), 0 (M = 1).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as functional
from torch import nn
from transformers import Sam2Model

MASK_SLICES = {1: slice(0, 1), 3: slice(1, 4), 4: slice(0, 4)}


class _Reshape(torch.autograd.Function):
    """torch.reshape with ONNX's meaning of 0: keep that dimension."""

    @staticmethod
    def forward(_ctx, tensor: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        return tensor.reshape([tensor.shape[i] if d == 0 else d for i, d in enumerate(shape)])

    @staticmethod
    def symbolic(graph, tensor, shape):
        return graph.op("Reshape", tensor, graph.op("Constant", value_t=torch.tensor(shape, dtype=torch.int64)))


def reshape(tensor: torch.Tensor, *shape: int) -> torch.Tensor:
    """See `_Reshape`."""
    return _Reshape.apply(tensor, shape)


def feed_forward(layers: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Sam2FeedForward without its run-time branches."""
    x = layers.activation(layers.proj_in(x))
    for layer in layers.layers:
        x = layers.activation(layer(x))
    x = layers.proj_out(x)
    return torch.sigmoid(x) if layers.sigmoid_output else x


class Encoder(nn.Module):
    """image [1, 3, S, S] to high_res_feats_0, high_res_feats_1, image_embed."""

    def __init__(self, model: Sam2Model) -> None:
        super().__init__()
        self.model = model
        self.backbone = model.vision_encoder.backbone
        self.grid = int(model.prompt_encoder.input_image_size) // 4
        with torch.no_grad():
            self.register_buffer("position", self.backbone._get_pos_embed((self.grid, self.grid)).clone())

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x = self.backbone.patch_embed.projection(image).permute(0, 2, 3, 1) + self.position
        side, stages = self.grid, []
        for index, block in enumerate(self.backbone.blocks):
            x, side = self._block(block, x, side)
            if index in self.backbone.stage_ends:
                stages.append(x)
        levels = self._neck(stages)
        decoder = self.model.mask_decoder
        return (
            decoder.conv_s0(levels[3]),
            decoder.conv_s1(levels[2]),
            levels[1] + self.model.no_memory_embedding.reshape(1, -1, 1, 1),
        )

    def _neck(self, stages: list[torch.Tensor]) -> list[torch.Tensor]:
        """Feature pyramid, coarsest first: strides 32, 16, 8, 4."""
        neck = self.model.vision_encoder.neck
        last = len(neck.convs) - 1
        levels: list[torch.Tensor] = []
        for i in range(last, -1, -1):
            level = neck.convs[last - i](stages[i].permute(0, 3, 1, 2))
            if i != last and i in neck.fpn_top_down_levels:
                level = level + functional.interpolate(levels[-1], scale_factor=2.0, mode="nearest")
            levels.append(level)
        return levels

    def _block(self, block: nn.Module, x: torch.Tensor, side: int) -> tuple[torch.Tensor, int]:
        """One Hiera block on [1, side, side, dim]; windows are cut, padded and joined with fixed sizes."""
        residual, x = x, block.layer_norm1(x)
        stride = block.query_stride[0] if block.query_stride else 1
        if block.dim != block.dim_out:
            residual = block.proj(x)
            if stride > 1:
                residual = functional.max_pool2d(residual.permute(0, 3, 1, 2), stride, stride).permute(0, 2, 3, 1)
        window = block.window_size or side
        padding = -side % window
        if padding:
            x = functional.pad(x, (0, 0, 0, padding, 0, padding))
        across = (side + padding) // window
        x = x.reshape(across, window, across, window, block.dim).permute(0, 2, 1, 3, 4)
        x = self._attention(block.attn, x.reshape(across * across, window * window, block.dim), window, stride)
        window, side = window // stride, side // stride
        x = x.reshape(across, across, window, window, block.dim_out).permute(0, 2, 1, 3, 4)
        x = x.reshape(1, across * window, across * window, block.dim_out)
        if across * window != side:
            x = x[:, :side, :side, :]
        x = residual + x
        return x + feed_forward(block.mlp, block.layer_norm2(x)), side

    @staticmethod
    def _attention(attention: nn.Module, x: torch.Tensor, window: int, stride: int) -> torch.Tensor:
        """Attention inside each window; with a stride, queries are max-pooled first."""
        count, heads = x.shape[0], attention.num_attention_heads
        dim = attention.dim_out // heads
        qkv = attention.qkv(x).reshape(count, window * window, 3, heads, dim).permute(2, 0, 3, 1, 4)
        query, key, value = qkv[0], qkv[1], qkv[2]
        if stride > 1:
            query = query.permute(0, 2, 1, 3).reshape(count, window, window, heads * dim).permute(0, 3, 1, 2)
            query = functional.max_pool2d(query, stride, stride).permute(0, 2, 3, 1)
            query = query.reshape(count, -1, heads, dim).permute(0, 2, 1, 3)
        weights = torch.softmax((query * attention.scale) @ key.transpose(-2, -1), -1)
        return attention.proj((weights @ value).permute(0, 2, 1, 3).reshape(count, -1, heads * dim))


class Decoder(nn.Module):
    """Features and B prompts of N rows to masks [B, M, S/4, S/4], IoU [B, M], object score [B, 1]."""

    def __init__(self, model: Sam2Model, masks: int) -> None:
        super().__init__()
        self.prompts, self.heads = model.prompt_encoder, model.mask_decoder
        self.channels, self.masks = model.hidden_dim, MASK_SLICES[masks]
        self.grid = self.prompts.image_embedding_size[0]
        size = float(self.prompts.input_image_size)
        # (2 (p + 0.5) / S - 1) 2 pi as one multiplication and one addition
        self.scale, self.offset = 4 * math.pi / size, (1.0 / size - 1.0) * 2 * math.pi
        with torch.no_grad():
            position = model.get_image_wide_positional_embeddings().flatten(2).transpose(1, 2)
            self.register_buffer("position", position.contiguous().clone())
            tokens = [self.heads.obj_score_token.weight, self.heads.iou_token.weight, self.heads.mask_tokens.weight]
            self.register_buffer("tokens", torch.cat(tokens, 0).unsqueeze(0).clone())

    def forward(self, image_embed, high_res_feats_0, high_res_feats_1, point_coords, point_labels, mask_input, has_mask_input):
        grid, channels, heads = self.grid, self.channels, self.heads
        zero = point_labels[:, :1] * 0
        labels = torch.cat([point_labels, zero - 1], 1)
        points = torch.cat([point_coords, torch.stack([zero, zero], -1)], 1)
        start = torch.cat([self.tokens + zero.unsqueeze(-1), self._embed(points, labels)], 1)
        given = has_mask_input.reshape(-1, 1, 1, 1)
        dense = given * self.prompts.mask_embed(mask_input)
        dense = dense + (1 - given) * self.prompts.no_mask_embed.weight.reshape(1, -1, 1, 1)
        image = reshape(image_embed + dense, 0, channels, grid * grid).transpose(1, 2)
        tokens, image = self._transformer(start, image)
        up = reshape(image.transpose(1, 2), 0, channels, grid, grid)
        up = heads.activation(heads.upscale_layer_norm(heads.upscale_conv1(up) + high_res_feats_1))
        up = heads.activation(heads.upscale_conv2(up) + high_res_feats_0)
        picked = range(heads.num_mask_tokens)[self.masks]
        hyper = torch.stack([feed_forward(heads.output_hypernetworks_mlps[i], tokens[:, 2 + i]) for i in picked], 1)
        masks = hyper @ reshape(up, 0, channels // 8, 16 * grid * grid)
        masks = reshape(masks, 0, len(picked), 4 * grid, 4 * grid)
        iou = feed_forward(heads.iou_prediction_head, tokens[:, 1])[:, self.masks]
        return masks, iou, feed_forward(heads.pred_obj_score_head, tokens[:, 0])

    def _embed(self, points: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Rows to tokens: position plus the label's own vector, or the "not a point" vector for -1."""
        angle = (points * self.scale + self.offset) @ self.prompts.shared_embedding.positional_embedding
        position = torch.cat([torch.sin(angle), torch.cos(angle)], -1)
        label = labels.unsqueeze(-1)
        out = position * (label > -0.5).float() + self.prompts.not_a_point_embed.weight * (label < -0.5).float()
        for i in range(4):
            out = out + self.prompts.point_embed.weight[i] * ((label > i - 0.5) & (label < i + 0.5)).float()
        return out

    def _transformer(self, start: torch.Tensor, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Two-way attention between tokens [B, T, C] and image [B, HW, C]."""
        transformer, position, tokens = self.heads.transformer, self.position, start
        for layer in transformer.layers:
            if layer.skip_first_layer_pe:
                tokens = self._attend(layer.self_attn, tokens, tokens, tokens)
            else:
                query = tokens + start
                tokens = tokens + self._attend(layer.self_attn, query, query, tokens)
            tokens = layer.layer_norm1(tokens)
            seen = self._attend(layer.cross_attn_token_to_image, tokens + start, image + position, image)
            tokens = layer.layer_norm2(tokens + seen)
            tokens = layer.layer_norm3(tokens + feed_forward(layer.mlp, tokens))
            told = self._attend(layer.cross_attn_image_to_token, image + position, tokens + start, tokens)
            image = layer.layer_norm4(image + told)
        seen = self._attend(transformer.final_attn_token_to_image, tokens + start, image + position, image)
        return transformer.layer_norm_final_attn(tokens + seen), image

    @staticmethod
    def _attend(attention: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        heads, dim = attention.num_attention_heads, attention.head_dim
        query = reshape(attention.q_proj(query), 0, -1, heads, dim).transpose(1, 2)
        key = reshape(attention.k_proj(key), 0, -1, heads, dim).permute(0, 2, 3, 1)
        value = reshape(attention.v_proj(value), 0, -1, heads, dim).transpose(1, 2)
        weights = torch.softmax((query * attention.scaling) @ key, -1)
        return attention.o_proj(reshape((weights @ value).transpose(1, 2), 0, -1, heads * dim))
