"""What torch.export gives becomes a program of named inputs, parameters and results, or is refused."""

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

from autoconvert.errors import Inseparable, Refused
from autoconvert.ir.interface import Port, Role
from autoconvert.ir.program import Program
from autoconvert.tracing.exported import export, program_of
from autoconvert.tracing.writes import writes

WIDTH, LONGEST = 4, 24

Body = Callable[[Any, Tensor], Any]


class Function(nn.Module):
    """A function of x [s, 4] that may use a parameter, a buffer and a submodule."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = body
        self.gain = nn.Parameter(torch.randn(WIDTH))
        self.inner = nn.Linear(WIDTH, WIDTH)
        self.table: Tensor
        self.register_buffer("table", torch.arange(float(WIDTH)))

    def forward(self, x: Tensor) -> Any:
        return self.body(self, x)


def taken(name: str = "x", length: str | int = "s") -> Port:
    return Port(name, Role.HIDDEN, torch.float32, (length, WIDTH))


def given(name: str = "y") -> tuple[str, Role]:
    return name, Role.HIDDEN


def program(body: Body, outputs: Sequence[str] = ("y",), lengths: Sequence[int] = range(2, LONGEST + 1)) -> Program:
    exported = export(Function(body).eval(), (torch.ones(7, WIDTH),), ({0: Dim("s", min=2, max=LONGEST)},))
    return program_of(exported, [taken()], [given(name) for name in outputs], lengths)


def inputs(made: Program) -> list[str]:
    return [str(node.target) for node in made.graph.graph.find_nodes(op="placeholder")]


def run(made: Program, module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    parameters = dict(module.named_parameters())
    values = {name: parameters[weight.sources[0]] for name, weight in made.weights.items()}
    with torch.no_grad():
        results: dict[str, Tensor] = made.graph(x, *(values[name] for name in inputs(made)[1:]))
    return results


@pytest.fixture(scope="module")
def linear() -> Program:
    return program(lambda m, x: (m.inner(x) * m.gain + m.table, x * 2), ("y", "twice"))


def test_the_users_inputs_come_first_then_the_parameters(linear: Program) -> None:
    first, *others = inputs(linear)
    assert first not in linear.weights
    assert others == list(linear.weights) == ["parameter_gain", "inner_weight", "inner_bias"]


def test_parameters_are_known_by_their_name_in_the_model_and_their_shape(linear: Program) -> None:
    assert {name: (weight.sources, weight.shape) for name, weight in linear.weights.items()} == {
        "parameter_gain": (("gain",), (WIDTH,)),
        "inner_weight": (("inner.weight",), (WIDTH, WIDTH)),
        "inner_bias": (("inner.bias",), (WIDTH,)),
    }


def test_results_have_the_names_that_they_are_given_in_their_order(linear: Program) -> None:
    module, x = Function(lambda m, x: None), torch.randn(5, WIDTH)
    results = run(linear, module, x)
    assert list(results) == ["y", "twice"]
    with torch.no_grad():
        torch.testing.assert_close(results["y"], module.inner(x) * module.gain + module.table)
    torch.testing.assert_close(results["twice"], x * 2)


def test_buffers_and_constants_are_in_the_graph() -> None:
    made = program(lambda m, x: x * m.table + torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert inputs(made)[1:] == list(made.weights)
    held = [value.tolist() for value in made.graph.buffers()]
    assert sorted(held) == [[0.0, 1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0]]
    x = torch.randn(5, WIDTH)
    expected = x * torch.arange(4.0) + torch.arange(1.0, 5.0)
    torch.testing.assert_close(run(made, Function(lambda m, x: None), x)["y"], expected)


def test_names_that_clash_stay_apart() -> None:
    class Clashing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parameter_gain = nn.Parameter(torch.randn(WIDTH))
            self.parameter = nn.Module()
            self.parameter.gain = nn.Parameter(torch.randn(WIDTH))
            self.gain = nn.Parameter(torch.randn(WIDTH))

        def forward(self, x: Tensor) -> Tensor:
            gain: Tensor = self.parameter.gain  # type: ignore[assignment]
            return x * self.gain + gain / self.parameter_gain

    module, x = Clashing(), torch.randn(2, WIDTH)
    made = program_of(export(module, (x,)), [taken(length=2)], [given()])
    assert sorted(weight.sources for weight in made.weights.values()) == [
        ("gain",),
        ("parameter.gain",),
        ("parameter_gain",),
    ]
    assert inputs(made)[1:] == list(made.weights)
    torch.testing.assert_close(run(made, module, x)["y"], module(x).detach())


def test_the_graph_is_functional() -> None:
    def writing(module: Any, x: Tensor) -> Tensor:
        y = x.clone()
        y[:, 0] = 1
        y.mul_(2)
        return y

    made = program(writing)
    assert not any(map(writes, made.graph.graph.nodes))
    x = torch.randn(5, WIDTH)
    torch.testing.assert_close(run(made, Function(writing), x)["y"], writing(None, x))


def test_code_under_no_grad_is_part_of_the_one_graph() -> None:
    def table(module: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = x * 2
        return y + 1

    targets = [node.target for node in program(table).graph.graph.nodes if node.op == "call_function"]
    assert targets == [torch.ops.aten.mul.Tensor, torch.ops.aten.add.Tensor]


def test_an_einstein_sum_of_several_has_the_order_in_which_it_is_written() -> None:
    """The best order depends on the length, which is not known."""
    made = program(lambda m, x: torch.einsum("sw,wv,sv->s", x, m.inner.weight, x))
    module, x = Function(lambda m, x: None), torch.randn(9, WIDTH)
    expected = torch.einsum("sw,wv,sv->s", x, module.inner.weight.detach(), x)
    torch.testing.assert_close(run(made, module, x)["y"], expected)


def test_nothing_is_said_while_tracing(capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder) -> None:
    def talking(module: Any, x: Tensor) -> Tensor:
        warnings.warn("a warning", stacklevel=1)
        print("said")
        logging.getLogger("torch").warning("logged")
        return x * 2

    level = logging.getLogger("torch").level
    program(talking)
    assert capfd.readouterr() == ("", "")
    assert not list(recwarn)
    assert logging.getLogger("torch").level == level


def test_a_buffer_that_lasts_from_call_to_call_is_refused() -> None:
    def counting(module: Any, x: Tensor) -> Tensor:
        module.table.add_(1)
        return x * module.table

    with pytest.raises(Refused, match="The model changes table while it runs") as refusal:
        program(counting)
    assert "lasts from call to call" in refusal.value.hint


OVERWRITTEN: dict[str, Callable[[Any, Tensor], object]] = {
    "copied": lambda m, x: m.table.copy_(x.mean(0)),
    "copied from fewer": lambda m, x: m.table.copy_(x.mean()),
    "filled": lambda m, x: m.table.fill_(3.0).add_(x.mean(0)),
}


@pytest.mark.parametrize("name", OVERWRITTEN)
def test_a_buffer_that_every_call_overwrites_before_it_reads_it_lasts_no_longer_than_one(name: str) -> None:
    def noting(module: Any, x: Tensor) -> Tensor:
        OVERWRITTEN[name](module, x)
        return x * module.table

    x = torch.randn(5, WIDTH)
    made = program(noting)
    torch.testing.assert_close(run(made, Function(noting), x)["y"], noting(Function(noting), x))


@pytest.mark.parametrize("read", ["before", "of a part", "after another"])
def test_a_buffer_of_which_something_is_read_before_it_is_overwritten_is_refused(read: str) -> None:
    def noting(module: Any, x: Tensor) -> Tensor:
        before = module.table.clone()
        if read == "of a part":
            module.table[1:].copy_(x.mean(0)[1:])
            return x * module.table
        module.table.copy_(x.mean(0) if read == "before" else before + 1)
        return x * before if read == "before" else x * module.table

    with pytest.raises(Refused, match="The model changes table while it runs"):
        program(noting)


def test_a_module_keeps_nothing_of_a_trace() -> None:
    def noting(module: Any, x: Tensor) -> Tensor:
        module.new, module.number = x.mean(0), x.sum()
        return x * module.new

    module = Function(noting)
    module.number = 3  # type: ignore[assignment]
    export(module, (torch.ones(7, WIDTH),), ({0: Dim("s", min=2, max=LONGEST)},))
    assert not hasattr(module, "new") and module.number == 3


def test_an_input_that_is_written_into_is_refused() -> None:
    with pytest.raises(Refused, match=r"The model changes .* while it runs"):
        program(lambda m, x: x.mul_(2))


def assuming(holds: Callable[[int], Any]) -> Body:
    def body(module: Any, x: Tensor) -> Tensor:
        torch._check(holds(x.shape[0]))  # type: ignore[no-untyped-call]
        return x * 2

    return body


def test_what_holds_at_every_length_is_no_obstacle() -> None:
    made = program(assuming(lambda s: s * s + 3 * s < 1000))
    torch.testing.assert_close(
        run(made, Function(lambda m, x: None), torch.ones(3, WIDTH))["y"], torch.full((3, 4), 2.0)
    )


def test_the_first_length_at_which_the_code_goes_another_way_is_named() -> None:
    with pytest.raises(Inseparable, match=r"takes another path where .* does not hold: at 10") as refusal:
        program(assuming(lambda s: s * min(s, 10) < 100))
    assert refusal.value.shorter == 9
    assert refusal.value.hint == "A smaller context may do: --context 9."


def test_no_smaller_context_is_proposed_where_the_shortest_text_goes_another_way() -> None:
    with pytest.raises(Inseparable, match="at 2") as refusal:
        program(assuming(lambda s: s != 2))
    assert (refusal.value.hint, refusal.value.shorter) == ("", None)


def test_lengths_that_are_not_asked_for_are_not_tried() -> None:
    program(assuming(lambda s: s * min(s, 10) < 100), lengths=range(2, 10))


def test_code_that_depends_on_tokens_is_refused() -> None:
    def counted(module: Any, x: Tensor) -> Tensor:
        (rows,) = torch.where(x[:, 0] > 0)
        torch._check(rows.shape[0] * 3 > 4)  # type: ignore[no-untyped-call]
        return x.index_add(0, rows, x[rows])

    with pytest.raises(Inseparable, match="the model's code depends on the values of its tokens"):
        program(counted)


def test_what_holds_however_many_entries_are_true_is_no_obstacle() -> None:
    """From none to all of them."""

    def counted(module: Any, x: Tensor) -> Tensor:
        (rows,) = torch.where(x[:, 0] > 0)
        torch._check(rows.shape[0] * 2 <= 2 * LONGEST)  # type: ignore[no-untyped-call]
        return x.index_add(0, rows, x[rows])

    made = program(counted)
    x = torch.tensor([[1.0] * 4, [-1.0] * 4, [2.0] * 4])
    expected = torch.tensor([[2.0] * 4, [-1.0] * 4, [4.0] * 4])
    torch.testing.assert_close(run(made, Function(lambda m, x: None), x)["y"], expected)


def test_what_holds_for_some_pairs_of_lengths_alone_is_refused() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            torch._check(x.shape[0] * 2 <= y.shape[0] * 3)  # type: ignore[no-untyped-call]
            return F.relu(x).sum(0) + y.sum(0)

    lengths = [Dim(name, min=2, max=LONGEST) for name in "st"]
    exported = export(Two(), (torch.ones(5, WIDTH), torch.ones(7, WIDTH)), tuple({0: length} for length in lengths))
    with pytest.raises(Inseparable, match="does not hold: at some lengths") as refusal:
        program_of(exported, [taken("x", "s"), taken("y", "t")], [given("z")], range(2, LONGEST + 1))
    assert (refusal.value.hint, refusal.value.shorter) == ("", None)
