"""The encodings that reach a grade or a size: a group of tables is rounded at a time, and a text read again."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from torch import Tensor

from autoconvert.check.grade import divergence_of
from autoconvert.check.rounded_source import rounded_reference
from autoconvert.driver.needs import file_size, parameters_of
from autoconvert.driver.settings import Settings
from autoconvert.errors import InputError
from autoconvert.quantization.mixed import Mixture, Table, coarser_than, finer_than, groups_of
from autoconvert.quantization.recipe import Recipe
from autoconvert.report.readable import readable_size
from autoconvert.source.source import Source

# Multiply-adds, a parameter, a token and a group each, that finding out takes about.
_MULTIPLY_ADDS = 400_000_000_000

Advance = Callable[[int, int], None]


@dataclass(frozen=True)
class Measured:
    """The model's text: `expected` are its logits [tokens, vocabulary]; `advance` is told of groups."""

    source: Source
    tokens: Sequence[int]
    expected: Tensor
    advance: Advance

    def divergence(self, recipe: Recipe) -> float:
        """How far the model rounded by `recipe` is from itself, in nats a token."""
        with rounded_reference(self.source, recipe) as reference:
            return divergence_of(self.expected, reference(self.tokens))

    def order(self, mixture: Mixture) -> list[list[str]]:
        """The names of groups of tables, those first whose rounding costs most for each byte that it saves."""
        most = _MULTIPLY_ADDS // (self.source.parameters * len(self.tokens))
        groups = groups_of(_tables(self.source), mixture, most)
        costs = []
        for number, group in enumerate(groups):
            names = [table.name for table in group]
            costs.append((self.divergence(mixture.of_group(names)) / sum(map(mixture.saved, group)), names))
            self.advance(number + 1, len(groups))
        return [names for _, names in sorted(costs, reverse=True)]


def of_grade(measured: Measured, recipe: Recipe, most: float) -> Recipe:
    """`recipe` with as few tables stored finer as make its divergence at most `most`."""
    mixture = finer_than(recipe)
    if mixture is None or measured.divergence(recipe) <= most:
        return recipe
    order = measured.order(mixture)
    counts = range(len(order))
    enough = bisect_left(counts, True, key=lambda count: measured.divergence(_first(mixture, order, count)) <= most)
    if enough < len(order):
        return _first(mixture, order, enough)
    return of_grade(measured, mixture.fine, most)


def of_size(measured: Measured, settings: Settings, most: int) -> Recipe:
    """The recipe of `settings` with as few tables stored coarser as make a file of `most` bytes.

    Raises InputError where no recipe here makes one so small.
    """
    source, recipe = measured.source, settings.quantize
    parameters = parameters_of(source, [name for name, _ in source.module.named_parameters()])

    def size(each: Recipe) -> int:
        return file_size(parameters, each, settings.signatures)

    if size(recipe) <= most:
        return recipe
    mixture = coarser_than(recipe)
    if mixture is None or (smallest := size(mixture.coarse)) > most:
        smallest = size(recipe) if mixture is None else smallest
        raise InputError(
            f"No file of this model has {readable_size(most)}: its smallest has {readable_size(smallest)} of weights.",
            hint="Choose a larger --target-size, or a smaller model.",
        )
    order = measured.order(mixture)
    too_many = bisect_left(range(len(order) + 1), True, key=lambda count: size(_first(mixture, order, count)) > most)
    return _first(mixture, order, too_many - 1)


def _first(mixture: Mixture, order: Sequence[Sequence[str]], count: int) -> Recipe:
    return mixture.with_fine([name for names in order[:count] for name in names])


def _tables(source: Source) -> list[Table]:
    parameters = parameters_of(source, [name for name, _ in source.module.named_parameters()])
    return [
        Table(name, (prod(each.shape[:-1]), each.shape[-1]), each.uses)
        for name, each in parameters.items()
        if len(each.shape) > 1
    ]
