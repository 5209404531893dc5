"""litert-torch's command line, with the one module of TensorFlow that it needs and does not require.

Its export imports `tensorflow.lite.python.schema_py_generated`, the schema of the file format, for adapters and for
image models. ai-edge-litert, which it does require, has the same module; where TensorFlow is installed it is used.
"""

import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec

SCHEMA = "tensorflow.lite.python.schema_py_generated"


def lend_schema() -> None:
    """Make the schema importable where TensorFlow is not installed."""
    if find_spec("tensorflow") is not None:
        return
    from ai_edge_litert import schema_py_generated

    *packages, last = SCHEMA.split(".")
    for depth in range(1, len(packages) + 1):
        name = ".".join(packages[:depth])
        # With a specification, which whoever asks whether the package is there looks for.
        sys.modules[name] = module_from_spec(ModuleSpec(name, None, is_package=True))
    sys.modules[SCHEMA] = schema_py_generated
    # `from package import module` reads an attribute.
    setattr(sys.modules[".".join(packages)], last, schema_py_generated)


if __name__ == "__main__":
    lend_schema()
    from litert_torch.cli import main

    main()
