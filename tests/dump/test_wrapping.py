"""Lines of a dump fit a screen, and still say the same."""

import ast

from autoconvert.dump.wrapping import WIDTH, wrapped


def test_a_short_statement_stays_one_line_with_its_comment() -> None:
    assert wrapped("x = f(a, b)", "# f32[3]", "  ") == "  x = f(a, b)  # f32[3]"


def test_a_comment_that_does_not_fit_has_a_line_of_its_own() -> None:
    statement = f"x = {'y' * 100}"
    assert wrapped(statement, "# model/layers/0/self_attn", "  ") == f"  {statement}\n      # model/layers/0/self_attn"


def test_a_long_statement_goes_on_behind_commas_in_brackets() -> None:
    arguments = ", ".join(f"argument_{index}=[{index}, 'a, b']" for index in range(20))
    lines = wrapped(f"result = function({arguments})", "# told", "    ").splitlines()
    assert len(lines) > 2 and all(len(line) <= WIDTH for line in lines)
    assert all(line.startswith(" " * 8) for line in lines[1:])
    # Nothing in quotes is broken, and what runs is the same.
    assert ast.dump(ast.parse("\n".join(lines).strip())) == ast.dump(ast.parse(f"result = function({arguments})"))
