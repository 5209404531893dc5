"""What decoders may legally do and few do is right, or refused: it does not end as a bug."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoconvert.errors import Refused
from tests.models import VOCABULARY, WIDTH, Decoder, assert_chunks_give_what_the_model_gives, rewrite

Body = Callable[["Odd", Tensor], Tensor]


class Odd(nn.Module):
    """`body(self, x [1, tokens, width])` between embedding and head."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, VOCABULARY)
        self.linear, self.gate, self.body = nn.Linear(WIDTH, WIDTH), nn.Parameter(torch.tensor(0.7)), body
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, groups=WIDTH)
        self.eval()

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.body(self, self.embed(tokens)))


BODIES: dict[str, Body] = {
    "token shift by padding": lambda m, x: m.linear(x) + F.pad(x, (0, 0, 1, -1)),
    "token shift by a module": lambda m, x: m.linear(x) + nn.ZeroPad2d((0, 0, 1, -1))(x),
    "convolution after padding": lambda m, x: m.conv(F.pad(x.transpose(1, 2), (2, 0))).transpose(1, 2),
    "windows after padding": lambda _, x: F.pad(x, (0, 0, 2, 0)).unfold(1, 3, 1).mean(-1),
    "strides after padding": lambda _, x: F.pad(x, (0, 0, 1, 0)).as_strided(x.shape, x.stride()) + x,
    "gate as a number": lambda m, x: x + m.gate.item() * m.linear(x),
    "gate as a condition": lambda m, x: torch.where(m.gate > 0, x, m.linear(x)),
    "gate as a branch": lambda m, x: m.linear(x) if m.gate > 0 else x,
    "Fourier transform": lambda _, x: torch.fft.fft(x, dim=-1).real,
    "roll": lambda m, x: m.linear(x) + x.roll(1, 1),
    "maximum so far": lambda _, x: x.cummax(1)[0],
    "branch on values": lambda m, x: m.linear(x) if x.sum() > 0 else x,
}


@pytest.mark.parametrize("name", BODIES)
def test_it_is_refused(name: str) -> None:
    with pytest.raises(Refused):
        rewrite(Odd(BODIES[name]))


def gated(module: Decoder, tokens: Tensor) -> Tensor:
    """Residuals with learned gates of one number, and one of a mean of weights."""
    x = module.embed(tokens)
    gate = torch.sigmoid(module.offset.mean())
    x = x + torch.tanh(module.gain[0]) * module.attend(module, x)
    x = torch.lerp(x, module.query(x), torch.sigmoid(module.gain[1]))
    return module.head(gate * x + (1 - gate) * module.key(x))


def counted(module: Decoder, tokens: Tensor) -> Tensor:
    """A row by how many tokens of one kind came so far."""
    x = module.embed(tokens)
    x = x + module.attend(module, x)
    return module.head(x + module.rows[(tokens == 3).cumsum(1)])


def histogram(module: Decoder, tokens: Tensor) -> Tensor:
    """Sums over tokens alone, beside attention."""
    seen = F.one_hot(tokens, VOCABULARY).float().cumsum(1)
    x = module.embed(tokens)
    return module.head(x + module.attend(module, x)) + seen


@pytest.mark.parametrize("forward", [gated, counted, histogram], ids=lambda forward: forward.__name__)
def test_it_is_right(forward: Callable[[Decoder, Tensor], Tensor]) -> None:
    class Own(Decoder):
        def forward(self, tokens: Tensor) -> Tensor:
            return forward(self, tokens)

    module = Own()
    assert_chunks_give_what_the_model_gives(rewrite(module), module)
