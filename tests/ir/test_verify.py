"""A pass that leaves a broken program is caught right after it, by its name; what passes ensure is ensured in time."""

import dataclasses
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from autoconvert import ops
from autoconvert.analysis.invariants import Invariant
from autoconvert.errors import BrokenPass
from autoconvert.ir.editing import emit
from autoconvert.ir.inference import Inference
from autoconvert.ir.interface import Role
from autoconvert.ir.nodes import named_results
from autoconvert.ir.program import Program
from autoconvert.ir.verify import verify
from autoconvert.lowering.cpu import CPU
from autoconvert.passes import canonicalize
from autoconvert.passes.pipeline import PASSES
from autoconvert.patterns import PATTERNS
from autoconvert.rewrite.pass_manager import Options, Pass, run_names, run_passes
from tests.models import CONTEXT, Decoder, signatures, traced

aten = torch.ops.aten

Change = Callable[[Program], Program | None]
MixedIn = Callable[[Decoder, Tensor], Tensor]


def scaled(decoder: Decoder, x: Tensor) -> Tensor:
    """Operations whose types say where they are wrong."""
    return x + torch.tanh(x) * decoder.gain


def rewritten(change: Change, after: str = "insert-kv-cache", mix: MixedIn = scaled, **declared: object) -> Program:
    """All passes on a decoder, and one that makes a change in place after the pass `after`."""
    at = run_names(PASSES).index(after) + 1
    broken = Pass("break", "Breaks something.", lambda program, _: change(program) or program, **declared)  # type: ignore[arg-type]
    options = Options(CONTEXT, PATTERNS, lambda *_: None, CPU)
    return run_passes(traced(Decoder(mix)), options, (*PASSES[:at], broken, *PASSES[at:]))


def first(program: Program, target: object) -> fx.Node:
    return program.graph.graph.find_nodes(op="call_function", target=target)[0]  # type: ignore[arg-type]


def like(node: fx.Node, *sizes: int | torch.SymInt, dtype: torch.dtype | None = None) -> Tensor:
    value = node.meta["val"]
    with value.fake_mode:
        return torch.empty(sizes or value.shape, dtype=dtype or value.dtype)


def test_what_is_not_broken_passes() -> None:
    verify(rewritten(lambda _: None), "all passes")


def test_a_wrong_shape_is_told_with_what_is_inferred_and_the_line_of_the_model() -> None:
    def change(program: Program) -> None:
        node = first(program, aten.tanh.default)
        node.meta["val"] = like(node, 1, node.meta["val"].shape[1], 9)

    with pytest.raises(BrokenPass) as caught:
        rewritten(change)
    message = caught.value.message
    assert message.startswith("After break: tanh")
    assert "tests/models.py:" in message and "self.mix(self, x)" in message
    assert re.search(r"is recorded as float32\[1, s\d+, 9\], but float32\[1, s\d+, 8\] is inferred from", message)


def test_sizes_of_two_symbols_are_told_apart() -> None:
    """Whatever numbers stand for them: a size in one symbol is none in another."""
    shapes = ShapeEnv()
    source, target = (shapes.create_unbacked_symint() for _ in range(2))
    for size in (source, target):
        torch._check(size >= 0)  # type: ignore[no-untyped-call]
    with FakeTensorMode(shape_env=shapes):
        x = torch.empty(source)
        wrong = [torch.empty(target - distance) for distance in range(-9, 10)]
    graph = fx.Graph()
    placeholder = graph.placeholder("x")
    placeholder.meta["val"] = x
    node = graph.call_function(aten.tanh.default, (placeholder,))
    for each in wrong:
        node.meta["val"] = each
        inference = Inference()
        assert not inference.agrees(node, inference.key(node))
    node.meta["val"] = x
    assert inference.agrees(node, inference.key(node))


def test_a_wrong_shape_is_caught_though_it_is_right_at_one_length() -> None:
    def change(program: Program) -> None:
        node = first(program, aten.tanh.default)
        node.meta["val"] = like(node, 1, 19, 8)

    with pytest.raises(BrokenPass, match=r"^After break: tanh.* is recorded as float32\[1, 19, 8\]"):
        rewritten(change)


def test_a_wrong_dtype() -> None:
    def change(program: Program) -> None:
        node = first(program, aten.tanh.default)
        node.meta["val"] = like(node, dtype=torch.float16)

    with pytest.raises(BrokenPass, match=r"^After break: tanh.* is recorded as float16"):
        rewritten(change)


def test_a_wrong_type_of_one_of_several_results() -> None:
    def change(program: Program) -> None:
        node = first(program, ops.cached_attention)
        result, key, value = node.meta["val"]
        node.meta["val"] = (result, key, value.transpose(2, 3))

    with pytest.raises(BrokenPass, match=r"^After break: cached_attention.*, float32\[1, 2, 4, 32\]\), but "):
        rewritten(change)


def test_a_change_that_leaves_what_comes_after_as_it_was() -> None:
    def change(program: Program) -> None:
        node = first(program, aten.tanh.default)
        with program.graph.graph.inserting_before(node):
            source = node.all_input_nodes[0]
            node.replace_input_with(source, emit(program.graph.graph, aten.unsqueeze.default, source, 0, like=node))

    with pytest.raises(BrokenPass, match=r"^After break: tanh.*, but float32\[1, 1, "):
        rewritten(change)


def test_an_operation_that_its_operands_do_not_fit() -> None:
    def change(program: Program) -> None:
        node = first(program, aten.mul.Tensor)
        node.args = (node.args[0], program.graph.graph.find_nodes(op="placeholder", target="head_bias")[0])

    with pytest.raises(BrokenPass, match=r"^After break: mul.* cannot be computed from its operands, .*float32\[31\]"):
        rewritten(change)


def test_a_use_before_the_definition() -> None:
    def change(program: Program) -> None:
        node = first(program, aten.tanh.default)
        next(iter(node.users)).append(node)

    with pytest.raises(BrokenPass, match=r"^After break: mul.* uses tanh, which is not computed before it"):
        rewritten(change)


def test_a_use_of_what_is_no_longer_there() -> None:
    def change(program: Program) -> None:
        other = fx.Graph().placeholder("other")
        other.meta["val"] = first(program, aten.tanh.default).meta["val"]
        node = first(program, aten.tanh.default)
        node.args = (other,)

    with pytest.raises(BrokenPass, match=r"^After break: tanh.* uses other, which is not computed before it"):
        rewritten(change)


def test_an_input_that_is_not_as_declared() -> None:
    def change(program: Program) -> None:
        tokens = program.input(Role.TOKENS)
        tokens.meta["val"] = like(tokens, dtype=torch.int32)

    says = r"the tokens tokens is declared as int64\[1, length\], and its input, .*, is int32\[1, length\]"
    with pytest.raises(BrokenPass, match=rf"^After break: {says}"):
        rewritten(change, changes_ports=True)


def test_an_input_that_is_declared_as_none() -> None:
    def change(program: Program) -> None:
        program.input(Role.TOKENS).target = "texts"

    with pytest.raises(BrokenPass, match=r"^After break: texts is an input of the graph, and is declared as none"):
        rewritten(change)


def test_a_port_that_is_another_without_a_word() -> None:
    def change(program: Program) -> Program:
        tokens = program.input(Role.TOKENS)
        tokens.target = "texts"
        inputs = [dataclasses.replace(p, name="texts") if p.role is Role.TOKENS else p for p in program.inputs]
        return dataclasses.replace(program, inputs=tuple(inputs))

    with pytest.raises(BrokenPass, match=r"^After break: the port t(okens|exts) was .*, and the pass does not say"):
        rewritten(change)
    rewritten(change, after="insert-scan-states", changes_ports=True)


def test_an_input_that_is_dropped_without_a_word() -> None:
    def change(program: Program) -> None:
        graph = program.graph.graph
        (mask,) = graph.find_nodes(op="placeholder", target="mask")
        (attention,) = mask.users
        with graph.inserting_before(attention):
            open_for_all = emit(graph, aten.zeros.default, [1, 1, 1, CONTEXT], like=mask)
        attention.replace_input_with(mask, open_for_all)
        graph.erase_node(mask)

    with pytest.raises(BrokenPass, match=r"^After break: mask is declared, and is no input"):
        rewritten(change)


def test_an_output_of_another_name() -> None:
    def change(program: Program) -> None:
        results = named_results(program.graph.graph)
        program.graph.graph.output_node().args = ({"scores" if k == "logits" else k: v for k, v in results.items()},)

    with pytest.raises(BrokenPass, match=r"^After break: logits is declared, and is not returned"):
        rewritten(change)


@pytest.mark.parametrize("changes_ports", [False, True])
def test_a_state_whose_result_is_missing(changes_ports: bool) -> None:
    def change(program: Program) -> None:
        results = named_results(program.graph.graph)
        del results["kv_cache_v_0"]
        program.graph.graph.output_node().args = (results,)

    with pytest.raises(BrokenPass, match=r"^After break: kv_cache_v_0 is declared, and is not returned"):
        rewritten(change, changes_ports=changes_ports)


def test_a_state_of_another_shape_than_its_input() -> None:
    def change(program: Program) -> Program:
        key, *others = program.states
        return dataclasses.replace(program, states=(dataclasses.replace(key, shape=(1, 2, 3, 4)), *others))

    says = r"the state kv_cache_k_0 is declared as float32\[1, 2, 3, 4\], and its input, .*, is float32\[1, 2, 32, 4\]"
    with pytest.raises(BrokenPass, match=rf"^After break: {says}"):
        rewritten(change)


def test_a_weight_of_another_shape_than_its_input() -> None:
    def change(program: Program) -> Program:
        weight = dataclasses.replace(program.weights["head_weight"], shape=(8, 31))
        return dataclasses.replace(program, weights={**program.weights, weight.name: weight})

    says = r"the weight head_weight is declared as float32\[8, 31\], and its input, .*, is float32\[31, 8\]"
    with pytest.raises(BrokenPass, match=rf"^After break: {says}"):
        rewritten(change)


def test_a_weight_without_an_input() -> None:
    def change(program: Program) -> Program:
        weight = dataclasses.replace(program.weights["head_weight"], name="other")
        return dataclasses.replace(program, weights={**program.weights, "other": weight})

    with pytest.raises(BrokenPass, match=r"^After break: other is declared, and is no input"):
        rewritten(change)


def test_a_constant_of_another_shape() -> None:
    def change(program: Program) -> None:
        graph = program.graph
        graph.register_buffer("offsets", torch.zeros(8))
        node = first(program, aten.tanh.default)
        with graph.graph.inserting_before(node):
            constant = graph.graph.get_attr("offsets")
            constant.meta["val"] = like(node, 1)
            emit(graph.graph, aten.add.Tensor, node.args[0], constant, like=node)

    with pytest.raises(BrokenPass, match=r"^After break: offsets.* is recorded as float32\[1\], but is float32\[8\]"):
        rewritten(change)


def sum_so_far(_: Decoder, x: Tensor) -> Tensor:
    return x.cumsum(1)


@pytest.mark.parametrize("after", ["cumsum-to-scan", "insert-scan-states"])
def test_a_wrong_type_of_what_a_recurrence_gives(after: str) -> None:
    def change(program: Program) -> None:
        (call,) = program.graph.graph.find_nodes(op="call_module")
        sums, *states = call.meta["val"]
        call.meta["val"] = (sums.to(torch.int32), *states)

    with pytest.raises(BrokenPass, match=r"^After break: running_sum_0.* is recorded as \(int32.*gives \(float32"):
        rewritten(change, after=after, mix=sum_so_far)


def test_a_recurrence_that_is_given_another_state_than_its_own() -> None:
    def change(program: Program) -> None:
        (call,) = program.graph.graph.find_nodes(op="call_module")
        state = program.graph.graph.find_nodes(op="placeholder", target="kv_cache_k_0")[0]
        call.args = (call.args[0], state, *call.args[2:])

    says = r"gives nothing: the state float32\[1, 8\] is given as float32\[1, 2, 32, 4\]"
    with pytest.raises(BrokenPass, match=rf"^After break: running_sum_0.* {says}"):
        rewritten(change, after="insert-scan-states", mix=sum_so_far)


def of_chosen_rows(_: Decoder, x: Tensor) -> Tensor:
    return x + x[0][torch.where(x[0, :, 0] > 0)[0]].sum(0)


def test_sizes_that_only_running_tells_are_the_same_whatever_they_are_called() -> None:
    def change(program: Program) -> None:
        node = first(program, aten.where.default)
        node.meta["val"] = (like(node.all_input_nodes[0], 3, dtype=torch.int64),)

    program = traced(Decoder(of_chosen_rows))
    verify(program, "the trace")
    change(program)
    with pytest.raises(BrokenPass, match=r"^After it: where.* is recorded as \(int64\[3\]\), but \(int64\[u\d+\]\) is"):
        verify(program, "it")


def test_the_ends_of_a_signature_are_verified() -> None:
    program = rewritten(lambda _: None)
    states = (dataclasses.replace(program.states[0], dtype=torch.float16), *program.states[1:])
    with pytest.raises(BrokenPass, match=r"^After prefill_4: the state kv_cache_k_0 is declared as float16"):
        signatures(dataclasses.replace(program, states=states), [4])


def test_an_invariant_that_is_claimed_and_not_kept() -> None:
    no_tanh = Invariant(
        "no tanh",
        lambda program: next(
            (f"{n.name} is there" for n in program.graph.graph.nodes if n.target is aten.tanh.default), None
        ),
    )
    with pytest.raises(BrokenPass, match=r"^After break: tanh is there, against no tanh"):
        rewritten(lambda _: None, ensures=(no_tanh,))


def test_an_invariant_is_kept_until_the_pass_that_requires_it() -> None:
    def change(program: Program) -> None:
        """What comes after takes it for a score that it could never have let through."""
        node = first(program, aten.tanh.default)
        with program.graph.graph.inserting_before(node):
            emit(program.graph.graph, ops.attention_scores, *[node.args[0]] * 2, None, 1.0, 0.0, like=node)

    # Four passes before it is required.
    with pytest.raises(BrokenPass, match=r"^After break: attention_scores.* is there, against scores of attention"):
        rewritten(change, after="hoist-projections")


def test_what_a_pass_requires_is_there_before_it_runs() -> None:
    never = Invariant("never", lambda _: "nothing is")
    step = Pass("picky", "Wants too much.", lambda program, _: pytest.fail("it ran"), requires=(never,))
    with pytest.raises(BrokenPass, match=r"^After what was before picky: it requires never, and nothing is"):
        run_passes(traced(Decoder()), Options(CONTEXT, PATTERNS, lambda *_: None, CPU), (canonicalize.PASS, step))


def test_every_requirement_of_the_tuple_is_ensured_before() -> None:
    ensured: set[Invariant] = set()
    for step in PASSES:
        assert ensured.issuperset(step.requires), step.name
        ensured.update(step.ensures)


def test_a_pass_that_stands_again_runs_only_where_the_graph_is_another() -> None:
    runs: list[str] = []

    def noted(step: Pass) -> Pass:
        def run(program: Program, options: Options) -> Program:
            runs.append(step.name)
            return step.run(program, options)

        return dataclasses.replace(step, run=run)

    seen: list[str] = []
    options = Options(CONTEXT, PATTERNS, lambda *_: None, CPU)
    run_passes(traced(Decoder()), options, tuple(map(noted, PASSES)), lambda step, _: seen.append(step.name))
    assert seen == [step.name for step in PASSES]
    assert runs[:6] == ["canonicalize", "loops-to-pairs", "dense-rows", "fuse", "canonicalize", "decompose"]
    assert runs.count("canonicalize") == 2
