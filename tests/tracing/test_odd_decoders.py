"""What decoders may legally do and few do is right, or refused: it does not end as a bug."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import autoconvert
from autoconvert.errors import Refused
from tests.models import CONTEXT, VOCABULARY, WIDTH, Decoder, assert_chunks_give_what_the_model_gives, rewrite

Body = Callable[["Odd", Tensor], Tensor]


class Odd(nn.Module):
    """`body(self, x [1, tokens, width])` between embedding and head."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, VOCABULARY)
        self.linear, self.gate, self.body = nn.Linear(WIDTH, WIDTH), nn.Parameter(torch.tensor(0.7)), body
        self.register_buffer("count", torch.tensor(3))
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, groups=WIDTH)
        self.eval()

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.body(self, self.embed(tokens)))


def along_the_batch(x: Tensor) -> Tensor:
    x = x.transpose(0, 1)
    return F.scaled_dot_product_attention(x, x, x).transpose(0, 1)


def held(module: nn.Module, buffer: str) -> Any:
    """The number that a buffer holds, in Python."""
    return module.get_buffer(buffer).item()


BODIES: dict[str, Body] = {
    "token shift around the end": lambda m, x: m.linear(x) + F.pad(x, (0, 0, 1, -1), mode="circular"),
    "strides after padding": lambda _, x: F.pad(x, (0, 0, 1, 0)).as_strided(x.shape, x.stride()) + x,
    "gate as a number": lambda m, x: x + m.gate.item() * m.linear(x),
    "gate as a condition": lambda m, x: torch.where(m.gate > 0, x, m.linear(x)),
    "gate as a branch": lambda m, x: m.linear(x) if m.gate > 0 else x,
    "Fourier transform": lambda _, x: torch.fft.fft(x, dim=-1).real,
    "roll": lambda m, x: m.linear(x) + x.roll(1, 1),
    "attention along the batch": lambda _, x: along_the_batch(x),
    "buffer as a size": lambda m, x: x + torch.zeros(int(held(m, "count")), WIDTH).sum(0),
    "maximum so far": lambda _, x: x.cummax(1)[0],
    "branch on values": lambda m, x: m.linear(x) if x.sum() > 0 else x,
}


LOOKING_BACK: dict[str, Body] = {
    "token shift by padding": lambda m, x: m.linear(x) + F.pad(x, (0, 0, 1, -1)),
    "token shift by a module": lambda m, x: m.linear(x) + nn.ZeroPad2d((0, 0, 1, -1))(x),
    "convolution after padding": lambda m, x: m.conv(F.pad(x.transpose(1, 2), (2, 0))).transpose(1, 2),
    "windows after padding": lambda _, x: F.pad(x, (0, 0, 2, 0)).unfold(1, 3, 1).mean(-1),
}


@pytest.mark.parametrize("name", LOOKING_BACK)
def test_what_looks_back_needs_no_attention(name: str) -> None:
    module = Odd(LOOKING_BACK[name])
    assert_chunks_give_what_the_model_gives(rewrite(module), module)


@pytest.mark.parametrize("name", BODIES)
def test_it_is_refused(name: str) -> None:
    with pytest.raises(Refused):
        rewrite(Odd(BODIES[name]))


def own(forward: Callable[[Decoder, Tensor], Tensor]) -> Decoder:
    class Own(Decoder):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.tensor(0.3))
            self.register_buffer("at", torch.tensor(3), persistent=False)

        def forward(self, tokens: Tensor) -> Tensor:
            return forward(self, tokens)

    return Own()


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


def mixed(module: Decoder, tokens: Tensor) -> Tensor:
    """Branches weighted by a learned distribution, as routers without tokens do."""
    x = module.embed(tokens)
    first, *others = module.gain.softmax(0).unbind(0)
    return module.head(first * x + others[0] * module.attend(module, x) + sum(others) * module.query(x))


def bounded(module: Decoder, tokens: Tensor) -> Tensor:
    """Learned numbers as bounds, as a norm, as a power and as a complex phase."""
    x = module.embed(tokens) + module.attend(module, module.embed(tokens))
    least, most = module.gain.min(), module.gain.max()
    x = x.clamp(least, most) * module.square.norm() * least.abs() ** 0.5
    turned = torch.view_as_complex(x.unflatten(-1, (-1, 2))) * torch.polar(most, least)
    return module.head(torch.view_as_real(turned).flatten(-2))


def stored(module: Decoder, tokens: Tensor) -> Tensor:
    """Numbers in Python that buffers hold: as a factor and as an index."""
    x = module.embed(tokens)
    x = x + module.attend(module, x) * held(module, "scale")
    return module.head(x + module.rows[held(module, "at")])


def sized(module: Decoder, tokens: Tensor) -> Tensor:
    """Numbers in Python that sizes give."""
    x = module.embed(tokens)
    x = x + module.attend(module, x) * x.shape[-1] ** -0.5
    return module.head(x.view(*x.size()[:-1], 2, -1).flatten(-2) * len(tokens) * int(x.shape[-1] * 0.5))


def across_one_text(module: Decoder, tokens: Tensor) -> Tensor:
    """Products and a softmax along the batch, in which there is one text."""
    x = module.embed(tokens)
    x = (x + module.attend(module, x)).transpose(0, 1)
    return module.head(((x @ x.mT).softmax(-1) @ x).transpose(0, 1))


RIGHT = (gated, mixed, bounded, stored, sized, counted, histogram, across_one_text)


@pytest.mark.parametrize("forward", RIGHT, ids=lambda forward: forward.__name__)
def test_it_is_right(forward: Callable[[Decoder, Tensor], Tensor]) -> None:
    module = own(forward)
    assert_chunks_give_what_the_model_gives(rewrite(module), module)


@pytest.mark.parametrize("forward", [stored, counted, histogram], ids=lambda forward: forward.__name__)
def test_the_file_is_right(forward: Callable[[Decoder, Tensor], Tensor], tmp_path: Path) -> None:
    """The conversion itself compares the file with the module."""
    module = own(forward)
    autoconvert.convert(module, tmp_path / "out", quantize="none", context=CONTEXT, prefill=(6,), formats=("tflite",))


@pytest.mark.parametrize("name", ["token shift around the end", "attention along the batch"])
def test_a_conversion_refuses_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(Refused):
        autoconvert.convert(Odd(BODIES[name]), tmp_path / "out", quantize="none", context=CONTEXT, formats=("tflite",))
    assert not (tmp_path / "out").exists()
