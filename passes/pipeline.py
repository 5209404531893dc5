"""The compiler in reading order: the tuple of passes."""

from autoconvert.passes.batch_to_sequence import batch_to_sequence
from autoconvert.passes.canonicalize import canonicalize
from autoconvert.passes.cumsum_to_scan import cumsum_to_scan
from autoconvert.passes.decompose import decompose
from autoconvert.passes.fold_weights import fold_weights
from autoconvert.passes.fuse import fuse
from autoconvert.passes.hoist_projections import hoist_projections
from autoconvert.passes.insert_kv_cache import insert_kv_cache
from autoconvert.passes.insert_scan_states import insert_scan_states
from autoconvert.passes.loops_to_pairs import loops_to_pairs
from autoconvert.passes.materialize_positions import materialize_positions
from autoconvert.rewrite.passes import Pass
from autoconvert.rewrite.pattern import operations_of

PASSES: tuple[Pass, ...] = (
    Pass(
        "canonicalize",
        lambda program, options: program.with_graph(canonicalize(program.graph, program.weights, options.on_rewrite)),
    ),
    Pass("loops-to-pairs", lambda program, options: loops_to_pairs(program, options.on_rewrite)),
    # Blocks are recognised while weights and positions are still inputs: patterns are written that way.
    Pass("fuse", lambda program, options: fuse(program, options.patterns, options.on_match, options.on_rewrite)),
    Pass("decompose", lambda program, options: decompose(program, operations_of(options.patterns), options.on_rewrite)),
    Pass("hoist-projections", lambda program, _: hoist_projections(program)),
    # What was traced as a step is a sequence from here on.
    Pass("batch-to-sequence", lambda program, options: batch_to_sequence(program, options.context)),
    Pass("fold-weights", lambda program, _: fold_weights(program)),
    # Masks become attributes of recognised attention, so this comes after recognition.
    Pass("materialize-positions", lambda program, options: materialize_positions(program, options.context)),
    # After positions: a sum over what tokens do not change is a table by now.
    Pass("cumsum-to-scan", lambda program, _: cumsum_to_scan(program)),
    Pass("insert-kv-cache", lambda program, _: insert_kv_cache(program)),
    Pass("insert-scan-states", lambda program, _: insert_scan_states(program)),
)
