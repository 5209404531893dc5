"""The semantic operations: what patterns map to and lowerings map from.

Each is one node in the graph and carries its body in plain PyTorch, so that a graph runs after every pass.
"""

from torch._ops import OpOverload

from autoconvert.ops import attention as _attention
from autoconvert.ops import experts as _experts
from autoconvert.ops import feed_forward as _feed_forward
from autoconvert.ops import history as _history
from autoconvert.ops import loops as _loops
from autoconvert.ops import norms as _norms
from autoconvert.ops import rotary as _rotary
from autoconvert.ops import slots as _slots
from autoconvert.ops.semantic import Body, semantic
from autoconvert.ops.semantic import Operation as Operation
from autoconvert.ops.semantic import operation as operation

rms_norm = semantic(_norms.rms_norm)
layer_norm = semantic(_norms.layer_norm)
rotary = semantic(_rotary.rotary)
attention_scores = semantic(_attention.attention_scores)
attention = semantic(_attention.attention)
cached_attention = semantic(_attention.cached_attention)
history = semantic(_history.history)
slots = semantic(_slots.slots, _slots.slots_shape)
write_slots = semantic(_slots.write_slots)
slot_numbers = semantic(_slots.slot_numbers)
numbers_of_slots = semantic(_slots.numbers_of_slots)
gated_feed_forward = semantic(_feed_forward.gated_feed_forward)
expert_linear = semantic(_experts.expert_linear, _experts.expert_linear_shape)
visit = semantic(_loops.visit)

BODIES: dict[OpOverload, Body] = {
    rms_norm: _norms.rms_norm,
    layer_norm: _norms.layer_norm,
    rotary: _rotary.rotary,
    attention_scores: _attention.attention_scores,
    attention: _attention.attention,
    cached_attention: _attention.cached_attention,
    write_slots: _slots.write_slots,
    numbers_of_slots: _slots.numbers_of_slots,
    gated_feed_forward: _feed_forward.gated_feed_forward,
    expert_linear: _experts.expert_linear,
}
