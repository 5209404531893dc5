"""The names of operations in a file: what they say of where an operation comes from.

The name of its first result is the module's path and the node, `model/layers/0/mlp;linear_3`, with a number behind it
where a node became several operations, `linear_3.1`. The model as a whole is `/`, and what the frame adds, as masks and
positions, is `autoconvert`. What the converter added has a number instead of a node.
"""

FRAME, ROOT = "autoconvert", "/"
END = ";"
# What stands before the node in the location that the converter is told, and so in the names of constants.
NODE = "#"


def origin(name: str) -> tuple[str, str]:
    """The module and the node that the name of an operation's first result tells; "" for what it does not."""
    module, _, node = name.partition(END)
    node = node.partition(".")[0]
    return module, "" if node.isdigit() else node
