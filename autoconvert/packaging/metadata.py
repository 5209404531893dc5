"""The two messages in a bundle that tell LiteRT-LM how to run its graph.

Fields and meanings are those of `llm_metadata.proto` and `executor_metadata.proto` in litert-lm-builder 0.18.
"""

from collections.abc import Sequence

from litert_lm_builder.runtime.proto import executor_metadata_pb2
from litert_lm_builder.runtime.proto.executor_metadata_pb2 import ExecutorMetadata
from litert_lm_builder.runtime.proto.llm_metadata_pb2 import LlmMetadata

from autoconvert.ir.state import State
from autoconvert.ir.target import Target
from autoconvert.packaging.tokenizer import TokenizerSpec

# The runtime opens no session without a stop token: this one is in no vocabulary, so it never stops anything.
NO_TOKEN = (1 << 31) - 1


def build_llm_metadata(tokenizer: TokenizerSpec, context: int) -> LlmMetadata:
    """How to frame, prompt and stop: tokens by id, the chat template, and `context` as the most tokens."""
    metadata = LlmMetadata(max_num_tokens=context)
    if tokenizer.start is not None:
        metadata.start_token.token_ids.ids.append(tokenizer.start)
    for token in tokenizer.stops or (NO_TOKEN,):
        metadata.stop_tokens.add().token_ids.ids.append(token)
    if tokenizer.pad is not None:
        metadata.pad_token.token_ids.ids.append(tokenizer.pad)
    metadata.llm_model_type.generic_model.SetInParent()
    # The generic model type hands tool calls back as plain text, so calling is not supported as a feature.
    metadata.supports_function_calling = False
    metadata.supports_thinking = tokenizer.chat is not None and tokenizer.chat.takes_thinking
    if tokenizer.chat is not None and tokenizer.chat.jinja is not None:
        metadata.jinja_prompt_template = tokenizer.chat.jinja
    if tokenizer.chat is not None and tokenizer.chat.affixes is not None:
        affixes = tokenizer.chat.affixes
        for role, pair in (("user", affixes.user), ("model", affixes.model), ("system", affixes.system)):
            if pair is not None:
                field = getattr(metadata.prompt_templates, role)
                field.prefix, field.suffix = pair
    return metadata


def build_executor_metadata(states: Sequence[State], context: int, target: Target) -> ExecutorMetadata:
    """The states that live from call to call, each input and output of every signature under one name."""
    metadata = ExecutorMetadata()
    executor = metadata.llm_executor_metadata
    # Only states with a sequence axis can be rewound to an earlier position.
    executor.max_history_size = context if all(state.sequence_axis is not None for state in states) else 0
    for state in states:
        buffer = executor.state_buffers.add()
        buffer.prefill_input_name = buffer.prefill_output_name = state.name
        buffer.decode_input_name = buffer.decode_output_name = state.name
        buffer.policy = executor_metadata_pb2.StateBuffer.POLICY_DEFAULT
        buffer.type = executor_metadata_pb2.StateBuffer.Type.Value(target.state_types[state.kind])
        if state.sequence_axis is not None:
            buffer.sequence_axis = state.sequence_axis
            buffer.maximum_sequence_length = state.capacity
    executor.attention_mask_settings.attention_mask_type = executor_metadata_pb2.ATTENTION_MASK_TYPE_CAUSAL
    return metadata
