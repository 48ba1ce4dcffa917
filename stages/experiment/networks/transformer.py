"""A transformer of one block that predicts the next character: 14,714 weights on text."""

from __future__ import annotations

from torch import Tensor, nn

WIDTH, HEADS = 32, 2


class Transformer(nn.Module):
    """Embedding, attention and a perceptron, with a residual around each of the last two.

    Args:
        inputs: number of characters in a window.
        classes: number of different characters.

    """

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(classes, WIDTH)
        self.positions = nn.Embedding(inputs, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key_value = nn.Linear(WIDTH, 2 * WIDTH)
        self.project = nn.Linear(WIDTH, WIDTH)
        self.perceptron = nn.Sequential(
            nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )
        self.out = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Scores (B, classes) of the character that follows windows x (B, inputs) of characters."""
        hidden = self.characters(x.long()) + self.positions.weight
        # Only the vector of the last character is read out, so only it attends to the others.
        last = hidden[:, -1] + self.attention(self.norm(hidden))
        scores: Tensor = self.out(last + self.perceptron(last))
        return scores

    def attention(self, hidden: Tensor) -> Tensor:
        """What the last of the vectors (B, inputs, WIDTH) gathers from all of them: (B, WIDTH)."""
        query = self.query(hidden[:, -1:]).unflatten(-1, (HEADS, -1))
        key, value = self.key_value(hidden).unflatten(-1, (2, HEADS, -1)).unbind(-3)
        weights = ((query * key).sum(-1) / query.shape[-1] ** 0.5).softmax(dim=1)
        gathered: Tensor = self.project((weights.unsqueeze(-1) * value).sum(1).flatten(-2))
        return gathered


create = Transformer
