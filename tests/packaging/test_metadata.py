from autoconvert.lowering.cpu import CPU
from autoconvert.packaging.affixes import Affixes
from autoconvert.packaging.chat_template import ChatTemplate
from autoconvert.packaging.metadata import build_executor_metadata, build_llm_metadata
from autoconvert.packaging.tokenizer import TokenizerSpec
from autoconvert.packaging.tokenizer_section import TokenizerSection

SECTION = TokenizerSection("huggingface", b"{}", "")


def spec(start: int | None = 3, chat: ChatTemplate | None = None) -> TokenizerSpec:
    return TokenizerSpec(SECTION, start, (7, 9), 0, chat)


def test_tokens_are_written_by_id() -> None:
    metadata = build_llm_metadata(spec(), context=512)
    assert list(metadata.start_token.token_ids.ids) == [3]
    assert [list(token.token_ids.ids) for token in metadata.stop_tokens] == [[7], [9]]
    assert list(metadata.pad_token.token_ids.ids) == [0]
    assert metadata.max_num_tokens == 512
    assert metadata.llm_model_type.HasField("generic_model")


def test_no_start_token_is_written_where_there_is_none() -> None:
    assert not build_llm_metadata(spec(start=None), context=512).HasField("start_token")


def test_what_the_builder_demands_is_set_even_when_false() -> None:
    metadata = build_llm_metadata(spec(), context=512)
    assert metadata.HasField("supports_thinking") and not metadata.supports_thinking
    assert metadata.HasField("supports_function_calling") and not metadata.supports_function_calling


def test_a_jinja_template_is_written_as_it_is() -> None:
    chat = ChatTemplate("{{ messages }}", None, None, takes_thinking=True)
    metadata = build_llm_metadata(spec(chat=chat), context=512)
    assert metadata.jinja_prompt_template == "{{ messages }}"
    assert metadata.supports_thinking
    assert not metadata.HasField("prompt_templates")


def test_affixes_are_written_where_there_is_no_jinja_template() -> None:
    chat = ChatTemplate(None, Affixes(("<u>", "</u>"), ("<m>", "</m>"), None), None, takes_thinking=False)
    metadata = build_llm_metadata(spec(chat=chat), context=512)
    assert not metadata.HasField("jinja_prompt_template")
    assert (metadata.prompt_templates.user.prefix, metadata.prompt_templates.model.suffix) == ("<u>", "</m>")
    assert not metadata.prompt_templates.HasField("system")


def test_each_state_is_input_and_output_under_its_name() -> None:
    states = (CPU.key_cache(0, 2, 64, 16), CPU.value_cache(0, 2, 64, 16))
    executor = build_executor_metadata(states, 64, CPU).llm_executor_metadata
    assert executor.max_history_size == 64
    key, value = executor.state_buffers
    for buffer, state in ((key, states[0]), (value, states[1])):
        names = {buffer.prefill_input_name, buffer.prefill_output_name}
        assert names | {buffer.decode_input_name, buffer.decode_output_name} == {state.name}
        assert buffer.sequence_axis == state.sequence_axis
        assert buffer.maximum_sequence_length == 64
    assert key.Type.Name(key.type) == "TYPE_GLOBAL_KEY_CACHE"
    assert value.Type.Name(value.type) == "TYPE_GLOBAL_VALUE_CACHE"
