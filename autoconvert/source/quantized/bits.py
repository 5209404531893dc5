"""Unsigned numbers of a few bits each, packed into 32-bit words from the lowest bit on."""

import torch

BITS = (2, 3, 4, 8)


def unpack(words: torch.Tensor, bits: int) -> torch.Tensor:
    """The uint8 numbers [..., 32 n / bits] that the int32 `words` [..., n] hold.

    Numbers of 3 bits run on from word to word, so that three words hold 32 of them.
    """
    # Of an axis of one number, `contiguous` keeps any stride.
    data = words.clone(memory_format=torch.contiguous_format).view(torch.uint8)
    if bits == 8:
        return data
    if bits == 3:
        triples = data.reshape(*data.shape[:-1], -1, 3).int()
        packed = triples[..., 0] | (triples[..., 1] << 8) | (triples[..., 2] << 16)
        numbers = ((packed[..., None] >> torch.arange(0, 24, 3, dtype=torch.int32)) & 7).to(torch.uint8)
    else:
        numbers = torch.stack([(data >> shift) & ((1 << bits) - 1) for shift in range(0, 8, bits)], dim=-1)
    return numbers.reshape(*words.shape[:-1], -1)


def whole_words(bits: int) -> tuple[int, int]:
    """The fewest numbers that fill whole words, and how many words these are."""
    return (32, 3) if bits == 3 else (32 // bits, 1)


def unpack_columns(words: torch.Tensor, bits: int, start: int, stop: int) -> torch.Tensor:
    """Columns `start:stop` of the numbers [rows, columns] that `words` [rows, …] hold, as uint8."""
    numbers, width = whole_words(bits)
    first, last = start // numbers, -(-stop // numbers)
    columns = unpack(words[:, first * width : last * width], bits)
    return columns[:, start - first * numbers : stop - first * numbers]
