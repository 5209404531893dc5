"""Running files: the interpreter, the engine, and how a prompt is split into chunks."""
