"""The decoders, and which patterns each needs: the rest is arithmetic at every position. Some are refused."""

from torch import nn

from tests.modules_from_elsewhere.alibi_decoder import AlibiDecoder
from tests.modules_from_elsewhere.attention_sinks import SinkDecoder
from tests.modules_from_elsewhere.complex_rotary import ComplexRotary
from tests.modules_from_elsewhere.counted_biases import ColumnBias, Forgetting
from tests.modules_from_elsewhere.dense_mixture import MixtureDecoder
from tests.modules_from_elsewhere.differential_attention import DifferentialDecoder
from tests.modules_from_elsewhere.early_transformers import OffsetPositions, ProductMask
from tests.modules_from_elsewhere.einsum_decoder import EinsumDecoder
from tests.modules_from_elsewhere.extrapolating_rotary import FromTheBeginning, FromTheMiddle
from tests.modules_from_elsewhere.gated_residuals import GatedDecoder
from tests.modules_from_elsewhere.hyper_connections import HyperDecoder
from tests.modules_from_elsewhere.latent_attention import LatentDecoder
from tests.modules_from_elsewhere.linear_attention import CumulativeDecoder, RetentionDecoder
from tests.modules_from_elsewhere.local_windows import NormedWindows, WindowDecoder
from tests.modules_from_elsewhere.looped_experts import LoopedExperts
from tests.modules_from_elsewhere.memory_tokens import MemoryKeys, Registers
from tests.modules_from_elsewhere.mixed_positions import AttentionFreeDecoder, SpatialGating
from tests.modules_from_elsewhere.multi_query import MultiQuery
from tests.modules_from_elsewhere.nano_gpt import NanoGPT
from tests.modules_from_elsewhere.normalized import LengthAndDirection, Spherical
from tests.modules_from_elsewhere.parallel_rotary import PairedRotary, PartialRotary
from tests.modules_from_elsewhere.relative_bias import RelativeBuckets, RelativeKeys
from tests.modules_from_elsewhere.rolled_rotary import RolledRotary
from tests.modules_from_elsewhere.shared_keys import Borrowing, UpperHalf
from tests.modules_from_elsewhere.short_convolution import AlternatingConvolutions, ConvolvedQueries
from tests.modules_from_elsewhere.simple_recurrence import LogarithmicScan, LoopedAverages
from tests.modules_from_elsewhere.sparse_attention import SparseDecoder
from tests.modules_from_elsewhere.talking_heads import TalkingHeads
from tests.modules_from_elsewhere.token_shift import ShiftedLayers, TimeMixing
from tests.modules_from_elsewhere.torch_layers import TorchLayers
from tests.modules_from_elsewhere.tutorial_transformer import HeadByHead, TutorialTransformer
from tests.modules_from_elsewhere.unused_caches import ExtendedMask, UnusedCaches
from tests.modules_from_elsewhere.value_residual import ValueResidual
from tests.modules_from_elsewhere.windowed_pairs import WindowedPairs

_PRODUCT = "attention_scores.product"
_SCORES = {_PRODUCT, "attention_scores.scaled", "attention.written_out"}
_MASKED, _FILLED = "attention_scores.masked", "attention_scores.filled"
_BOTH = {_MASKED, "attention_scores.masked_and_filled"}
_UNSCALED = {_PRODUCT, "attention.written_out"}

PATTERNS_OF: dict[type[nn.Module], set[str]] = {
    NanoGPT: {"layer_norm.without_bias", "attention.native.causal"},
    EinsumDecoder: {"gelu_tanh", "layer_norm.written_out", _FILLED, *_SCORES},
    RolledRotary: {"rotary.rolled", "rotary.rolled.signs", "attention.native.causal"},
    ComplexRotary: {"rms_norm", "rotary.interleaved.halves", _MASKED, "gated_feed_forward.silu", *_SCORES},
    AlibiDecoder: {"layer_norm", _MASKED, *_SCORES},
    MultiQuery: {"rms_norm", _FILLED, *_SCORES},
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
    RelativeBuckets: {"rms_norm", "gated_feed_forward.gelu_tanh", _MASKED, *_UNSCALED},
    SparseDecoder: {"layer_norm", _FILLED, "attention_scores.masked_and_filled", *_SCORES},
    HyperDecoder: {"layer_norm", "attention.native.causal"},
    GatedDecoder: {"layer_norm", _PRODUCT, _MASKED},
    WindowDecoder: {
        "rms_norm",
        "rotary.half",
        "attention_scores.capped",
        _MASKED,
        "gated_feed_forward.gelu_tanh",
        *_SCORES,
    },
    NormedWindows: {
        "rms_norm",
        "rotary.half",
        "attention.native",
        "attention.native.causal",
        "gated_feed_forward.gelu_tanh",
    },
    FromTheBeginning: {"layer_norm", _FILLED, *_UNSCALED},
    LatentDecoder: {"rms_norm.native", "rotary.interleaved.halves", _MASKED, *_SCORES},
    Borrowing: {"layer_norm", "attention.native.grouped.causal"},
    UpperHalf: {"layer_norm", "attention.native"},
    ValueResidual: {"rms_norm.native.without_weight", "attention.native.causal"},
    DifferentialDecoder: {"rms_norm.native", _PRODUCT, "gated_feed_forward.silu"},
    CumulativeDecoder: {"layer_norm", _PRODUCT, _MASKED},
    HeadByHead: {"layer_norm", _FILLED, _PRODUCT, "attention_scores.scaled"},
    PartialRotary: {"layer_norm", "rotary.half", "attention_scores.with_heads_apart", *_BOTH, *_SCORES},
    PairedRotary: {"layer_norm", "rotary.interleaved", _FILLED, *_SCORES},
    ProductMask: {"layer_norm", _FILLED, *_SCORES},
    OffsetPositions: {"layer_norm", "attention_scores.with_heads_apart.before_the_mask", _PRODUCT, _MASKED},
    ColumnBias: {"layer_norm", "gelu_tanh.factored"},
    Forgetting: {"rms_norm.native", "gated_feed_forward.silu.fused", *_BOTH, *_SCORES},
    Spherical: {"rotary.interleaved_to_half", "attention.native.causal"},
    LengthAndDirection: {"layer_norm.without_weight", "attention.native"},
    UnusedCaches: {"rms_norm.native", "rotary.interleaved.halves", _MASKED, *_UNSCALED},
    ExtendedMask: {"layer_norm", _MASKED, *_SCORES},
    RelativeKeys: {*_BOTH, _PRODUCT, "attention_scores.scaled_with_mask", "attention.written_out"},
    TalkingHeads: {"layer_norm", _MASKED, _PRODUCT},
    SinkDecoder: {"rms_norm.native", "rotary.half.halves", _MASKED, _PRODUCT, "attention_scores.scaled"},
    RetentionDecoder: {"layer_norm", "layer_norm.without_weight", _PRODUCT},
    SpatialGating: {"layer_norm"},
    AttentionFreeDecoder: {"layer_norm"},
    MemoryKeys: {"rotary.half"},
    TimeMixing: {"layer_norm", "attention.native.causal"},
    ShiftedLayers: {"layer_norm", "attention.native"},
    LoopedExperts: {
        "rms_norm.native",
        "rotary.half",
        "attention.native.grouped.causal",
        "experts.rows.transposed",
    },
    ConvolvedQueries: {"rms_norm.native", "attention.native"},
    AlternatingConvolutions: {"layer_norm", "attention.native.causal"},
}

# What is said of those that are refused.
REFUSED: dict[type[nn.Module], str] = {
    Registers: "cat in decoder .* changes the length of the sequence",
    FromTheMiddle: "in rotary .* depends on how long the sequence is",
    LoopedAverages: "decides by the length of its text: length == 19",
    LogarithmicScan: "logcumsumexp in grus.0 .* no rule knows this operation",
    TutorialTransformer: "cannot be traced with a symbolic length: Could not guard on data-dependent expression",
}
