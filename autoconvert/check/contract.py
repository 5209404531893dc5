"""What the runtime expects of a file's signatures, whoever made it: names, types, shapes and states."""

from collections.abc import Iterator, Mapping

import numpy as np

from autoconvert.check.verdict import CONTRACT, Verdict, failed, not_checked, passed
from autoconvert.ir.interface import Role
from autoconvert.lowering.cpu import CPU
from autoconvert.runtime.loaded_file import SignatureTypes, TensorType
from autoconvert.runtime.open_shapes import OPEN
from autoconvert.runtime.signatures import DECODE, PARAMETERS, PREFILL

_TOKENS, _POSITIONS = CPU.port_names[Role.TOKENS], CPU.port_names[Role.INPUT_POS]
_MASK, _LOGITS = CPU.port_names[Role.MASK], CPU.port_names[Role.LOGITS]
_PORTS = frozenset({_TOKENS, _POSITIONS, _MASK})
# How the runtime's names of states begin.
_STATE = "kv_cache"
# Up to here the end of the context is no loss: the runtime takes no chunk that is longer than what is left of it.
_SMALL_CHUNK = 16


def verdict_of(types: Mapping[str, SignatureTypes]) -> Verdict:
    """Judges the signatures of a file by name: failed for what the runtime cannot take, not checked for what it may."""
    prefill = {name: given for name, given in types.items() if name.startswith(PREFILL)}
    if DECODE not in types or not prefill:
        names = ", ".join(sorted(types)) or "none"
        return failed(CONTRACT, f"the signatures are {names}: prefill_N and decode are needed")
    run = {**prefill, DECODE: types[DECODE]}
    if unknown := {port: name for name, given in run.items() for port in _unknown(given)}:
        inputs = ", ".join(f"{port} (of {name})" for port, name in unknown.items())
        return not_checked(CONTRACT, f"inputs that are not given here: {inputs}")
    if len(set(_follow_the_history(run))) > 1:
        return not_checked(CONTRACT, "some lengths follow the history and others are fixed, which is not run here")
    faults = [text for name, given in run.items() for text in _faults(name, given)] or list(_together(run))
    return failed(CONTRACT, "; ".join(faults)) if faults else passed(CONTRACT, _summary(run))


def _follow_the_history(run: Mapping[str, SignatureTypes]) -> Iterator[bool]:
    """For each length of a chunk or a history, whether each call decides it."""
    for name, given in run.items():
        if _MASK in given.inputs:
            yield OPEN in given.inputs[_MASK].shape[-1:]
        if name != DECODE and _POSITIONS in given.inputs:
            yield OPEN in given.inputs[_POSITIONS].shape[:1]


def _unknown(given: SignatureTypes) -> list[str]:
    """Inputs of which nothing is known; what is named as a state and does not come out is known to be wrong."""
    known = given.outputs.keys() | _PORTS | {PARAMETERS}
    return sorted(name for name in given.inputs.keys() - known if not name.startswith(_STATE))


def _faults(name: str, given: SignatureTypes) -> Iterator[str]:
    for port in sorted(_PORTS - given.inputs.keys()):
        yield f"{name} has no input {port}"
    if not given.inputs.keys() >= _PORTS:
        return
    positions, mask = given.inputs[_POSITIONS], given.inputs[_MASK]
    length = 1 if name == DECODE else (positions.shape or (0,))[0]
    wanted: dict[str, tuple[TensorType, tuple[int, ...]]] = {
        _TOKENS: (given.inputs[_TOKENS], (1, length)),
        _POSITIONS: (positions, (length,)),
        _MASK: (mask, (1, 1, length, mask.shape[-1] if mask.shape else 0)),
    }
    for port, (found, shape) in wanted.items():
        if found.shape != shape:
            yield f"{port} of {name} is {list(found.shape)}, and {list(shape)} is needed"
    for port in (_TOKENS, _POSITIONS):
        if given.inputs[port].dtype != np.int32:
            yield f"{port} of {name} is {given.inputs[port].dtype}, and int32 is needed"
    if mask.dtype not in (np.dtype(np.float32), np.dtype(np.bool_)):
        yield f"the mask of {name} is {mask.dtype}, and float32 or bool is needed"
    if PARAMETERS in given.inputs and given.inputs[PARAMETERS] != TensorType((1, 1, 1, 7), np.dtype(np.int32)):
        yield f"{PARAMETERS} of {name} is not int32 of [1, 1, 1, 7]"
    for state in sorted(_states(given)):
        if state not in given.inputs or state not in given.outputs:
            where = "goes in and does not come out" if state in given.inputs else "comes out and does not go in"
            yield f"the state {state} of {name} {where}"
        elif given.inputs[state] != given.outputs[state]:
            yield f"the state {state} of {name} comes out with another type than it goes in"
    if name == DECODE and _LOGITS not in given.outputs:
        yield f"{DECODE} gives no {_LOGITS}"


def _together(run: Mapping[str, SignatureTypes]) -> Iterator[str]:
    """What signatures must have in common, each of them in order for itself."""
    decode = run[DECODE]
    states = {state: decode.inputs[state] for state in _states(decode)}
    for name, given in run.items():
        others = {state: given.inputs[state] for state in _states(given)}
        if different := sorted(s for s in {*states, *others} if states.get(s) != others.get(s)):
            yield f"{name} and {DECODE} have other states: {', '.join(different[:3])}"
    contexts = {given.inputs[_MASK].shape[-1] for given in run.values()}
    if len(contexts) > 1:
        yield f"the masks are for contexts of {', '.join(map(str, sorted(contexts)))} positions"
    for context in sorted(contexts - {OPEN}):
        if CPU.capacity(context) != context:
            yield f"a context of {context} positions, a prime number, makes the runtime corrupt its memory"
    logits = decode.outputs[_LOGITS]
    if logits.dtype != np.float32 or logits.shape != (1, 1, *logits.shape[-1:]):
        yield f"the logits are {logits.dtype} of {list(logits.shape)}, and float32 of [1, 1, tokens] is needed"


def _states(given: SignatureTypes) -> set[str]:
    inputs = given.inputs.keys() - _PORTS - {PARAMETERS}
    # Any other output is something that nobody asks for.
    return inputs | {name for name in given.outputs if name.startswith(_STATE)}


def _summary(run: Mapping[str, SignatureTypes]) -> str:
    decode = run[DECODE]
    shortest = min(given.inputs[_POSITIONS].shape[0] for name, given in run.items() if name != DECODE)
    context, states = decode.inputs[_MASK].shape[-1], len(_states(decode))
    if context == OPEN:
        return f"{', '.join(run)}; chunks of any length, {states} states that follow the history"
    said = f"{', '.join(run)}; a context of {context} positions, {states} states"
    if shortest > _SMALL_CHUNK:
        said += f"; note: no prefill is shorter than {shortest}, so that the last {shortest - 1} positions of a chat "
        said += "may be lost"
    return said
