"""What looks back a fixed number of positions runs in chunks; what looks ahead, or elsewhere, is refused."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from autoconvert.errors import Refused
from autoconvert.scan.scan import StatefulScan
from tests import models
from tests.models import LENGTH, WIDTH, Change, Decoder

KERNEL = 4
ONE_RUN, TOKEN_BY_TOKEN = ((LENGTH, LENGTH),), ((1, 1),) * LENGTH


def weight(decoder: Decoder, *sizes: int) -> Tensor:
    """Numbers of the model's own."""
    count = torch.Size(sizes).numel()
    return torch.cat([decoder.square.flatten()] * (count // WIDTH**2 + 1))[:count].view(sizes)


def depthwise(decoder: Decoder) -> Tensor:
    return weight(decoder, WIDTH, 1, KERNEL)


def padded_both_sides(decoder: Decoder, x: Tensor) -> Tensor:
    """As Mamba: the convolution pads, and what lies behind the text is cut."""
    return F.conv1d(x.mT, depthwise(decoder), padding=KERNEL - 1, groups=WIDTH)[..., : x.shape[1]].mT


def padded_before(decoder: Decoder, x: Tensor) -> Tensor:
    return F.conv1d(F.pad(x.mT, (KERNEL - 1, 0)), depthwise(decoder), decoder.gain, groups=WIDTH).mT


def activated_before_the_cut(decoder: Decoder, x: Tensor) -> Tensor:
    longer = F.conv1d(x.mT, depthwise(decoder), padding=KERNEL - 1, groups=WIDTH)
    return (F.silu(longer) * decoder.gain[:, None])[..., : -(KERNEL - 1)].mT


def dilated(decoder: Decoder, x: Tensor) -> Tensor:
    full = weight(decoder, WIDTH, WIDTH, 3)
    return F.conv1d(F.pad(x.mT, (4, 0)), full, dilation=2).mT


def grouped(decoder: Decoder, x: Tensor) -> Tensor:
    return F.conv1d(F.pad(x.mT, (1, 0)), weight(decoder, WIDTH, 2, 2), groups=WIDTH // 2).mT


def two_convolutions_in_one_padding(decoder: Decoder, x: Tensor) -> Tensor:
    """The second sees what the first gives for the zeros before the text, which its bias makes no zeros."""
    padded = F.pad(x.mT, (2 * (KERNEL - 1), 0))
    first = F.conv1d(padded, depthwise(decoder), decoder.gain, groups=WIDTH)
    return F.conv1d(first, depthwise(decoder), groups=WIDTH).mT


def windows(decoder: Decoder, x: Tensor) -> Tensor:
    """As dynamic convolutions: weights of each position for the last few."""
    seen = F.pad(x, (0, 0, KERNEL - 1, 0)).unfold(1, KERNEL, 1)
    strengths = (x @ decoder.square[:, :KERNEL]).softmax(-1)
    return (seen * strengths[:, :, None]).sum(-1)


def windows_backwards(decoder: Decoder, x: Tensor) -> Tensor:
    seen = F.pad(x.mT, (KERNEL - 1, 0)).unfold(-1, KERNEL, 1).flip(-1).transpose(1, 2)
    return (seen * weight(decoder, WIDTH, KERNEL)).sum(-1)


def slices_of_a_padded_text(decoder: Decoder, x: Tensor) -> Tensor:
    padded, length = F.pad(x, (0, 0, 2, 0)), x.shape[1]
    return padded[:, :length] * 0.5 + padded[:, 1 : length + 1] * decoder.gain - padded[:, 2:]


def token_shift(decoder: Decoder, x: Tensor) -> Tensor:
    """As RWKV: half of the channels are those of the token before."""
    before = F.pad(x, (0, 0, 1, -1))
    return torch.cat([before[..., : WIDTH // 2], x[..., WIDTH // 2 :]], -1)


def behind_zeros(decoder: Decoder, x: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1) * decoder.gain + x


def behind_made_zeros(decoder: Decoder, x: Tensor) -> Tensor:
    return torch.cat([x.new_zeros(1, 2, WIDTH), x], 1)[:, : x.shape[1]]


def shifted_again(decoder: Decoder, x: Tensor) -> Tensor:
    for _ in range(3):
        x = x * decoder.gain + F.pad(x, (0, 0, 1, -1))
    return x


def shifted_heads(decoder: Decoder, x: Tensor) -> Tensor:
    """The sequence in the middle, with an axis on both sides."""
    heads = x.view(1, -1, 2, WIDTH // 2).transpose(1, 2)
    return F.pad(heads, (0, 0, 1, 0))[:, :, :-1].transpose(1, 2).flatten(2)


BACK: list[Change] = [
    padded_both_sides,
    padded_before,
    activated_before_the_cut,
    dilated,
    grouped,
    two_convolutions_in_one_padding,
    windows,
    windows_backwards,
    slices_of_a_padded_text,
    token_shift,
    behind_zeros,
    behind_made_zeros,
    shifted_again,
    shifted_heads,
]


@pytest.mark.parametrize("back", BACK, ids=lambda back: back.__name__)
def test_what_looks_back_runs_in_chunks(back: Change) -> None:
    module = Decoder(back)
    program = models.rewrite(module)
    scans = [each for each in program.graph.modules() if isinstance(each, StatefulScan)]
    tokens = models.random_ids(LENGTH)
    assert scans and not any(each.scan.unrolls for each in scans)
    for splits in (ONE_RUN, TOKEN_BY_TOKEN, models.CHUNKS):
        logits = models.logits_in_chunks(program, module, tokens, splits)
        models.assert_same(logits, models.logits_of_source(module, tokens))


def test_one_register_serves_all_that_ask_for_the_same_text() -> None:
    program = models.rewrite(Decoder(slices_of_a_padded_text))
    registers = [state.shape for state in program.states if len(state.shape) == 3]
    assert registers == [(1, 2, WIDTH)]


AHEAD: dict[str, tuple[Callable[[Decoder, Tensor], Tensor], str]] = {
    "the next token": (lambda d, x: F.pad(x, (0, 0, -1, 1)), "it combines values of several positions"),
    "a window around it": (
        lambda d, x: F.conv1d(x.mT, depthwise(d)[..., 1:], padding=1, groups=WIDTH).mT,
        "it combines values of several positions",
    ),
    "the first token dropped": (
        lambda d, x: F.pad(x[:, 1:], (0, 0, 1, 0)),
        "it changes the length of the sequence",
    ),
    "the cut at the wrong end": (
        lambda d, x: F.conv1d(x.mT, depthwise(d), padding=KERNEL - 1, groups=WIDTH)[..., KERNEL - 1 :].mT,
        "it changes the length of the sequence",
    ),
    "other numbers before the text": (
        lambda d, x: F.pad(x, (0, 0, 1, -1), value=1.0),
        "it combines values of several positions",
    ),
    "a wheel": (lambda d, x: x.roll(1, 1), "it combines values of several positions"),
    "axes read in another order": (
        lambda d, x: F.pad(x, (0, 0, 2, 0)).mT.reshape(1, -1, WIDTH)[:, : x.shape[1]],
        "it changes the length of the sequence",
    ),
}


@pytest.mark.parametrize("name", AHEAD)
def test_what_looks_elsewhere_is_refused(name: str) -> None:
    change, reason = AHEAD[name]
    with pytest.raises(Refused, match=reason):
        models.rewrite(Decoder(change))
