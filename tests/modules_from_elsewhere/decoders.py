"""The decoders, and which patterns each needs: the rest is arithmetic at every position."""

from torch import nn

from tests.modules_from_elsewhere.alibi_decoder import AlibiDecoder
from tests.modules_from_elsewhere.complex_rotary import ComplexRotary
from tests.modules_from_elsewhere.dense_mixture import MixtureDecoder
from tests.modules_from_elsewhere.einsum_decoder import EinsumDecoder
from tests.modules_from_elsewhere.multi_query import MultiQuery
from tests.modules_from_elsewhere.nano_gpt import NanoGPT
from tests.modules_from_elsewhere.torch_layers import TorchLayers
from tests.modules_from_elsewhere.windowed_pairs import WindowedPairs

_SCORES = {"attention_scores.product", "attention_scores.scaled", "attention.written_out"}

PATTERNS_OF: dict[type[nn.Module], set[str]] = {
    NanoGPT: {"layer_norm.without_bias", "attention.native.causal"},
    EinsumDecoder: {"gelu_tanh", "layer_norm.written_out", "attention_scores.filled", *_SCORES},
    ComplexRotary: {
        "rms_norm",
        "rotary.interleaved.halves",
        "attention_scores.masked",
        "gated_feed_forward.silu",
        *_SCORES,
    },
    AlibiDecoder: {"layer_norm", "attention_scores.masked", *_SCORES},
    MultiQuery: {"rms_norm", "attention_scores.filled", *_SCORES},
    MixtureDecoder: {
        "rms_norm.native",
        "attention.native.causal",
        "attention.native.grouped.causal",
        "attention.shared.causal",
    },
    TorchLayers: {"layer_norm", "attention.native", "attention.native.causal"},
    WindowedPairs: {
        "rms_norm.native.without_weight",
        "rotary.interleaved",
        "attention.native.grouped",
        "gated_feed_forward.silu.fused",
    },
}
