"""A transformer of one block that predicts the next character, an ordinary `torch.nn.Module`."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Transformer(nn.Module):
    """Embedding, attention and a perceptron, with residuals around both.

    Args:
        inputs: number of characters in a window.
        classes: number of different characters.
        width: size of a character's vector, a multiple of `heads`.
        heads: number of attention heads.

    """

    def __init__(self, inputs: int, classes: int, width: int = 32, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.characters = nn.Embedding(classes, width)
        self.positions = nn.Embedding(inputs, width)
        self.norm_attention = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.project = nn.Linear(width, width)
        self.perceptron = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Scores (B, classes) of the character that follows windows x (B, inputs) of characters."""
        hidden = self.characters(x.long()) + self.positions.weight
        # Only the last character's vector is read out, so only that one attends to the others.
        last = hidden[:, -1]
        last = last + self.attention(self.norm_attention(hidden))
        return self.out(last + self.perceptron(last))

    def attention(self, hidden: Tensor) -> Tensor:
        """What the last of the vectors (B, inputs, width) gathers from all of them: (B, width)."""
        query = self.query(hidden[:, -1]).unflatten(-1, (self.heads, -1))
        key, value = self.key_value(hidden).unflatten(-1, (2, self.heads, -1)).unbind(-3)
        scores = (query.unsqueeze(1) * key).sum(-1) / query.shape[-1] ** 0.5
        weights = torch.softmax(scores, dim=1)
        return self.project((weights.unsqueeze(-1) * value).sum(1).flatten(-2))


create = Transformer
