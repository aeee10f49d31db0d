"""The commands, one module per noun. Each function takes the context and returns an exit code."""
