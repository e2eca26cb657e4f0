"""FILES -> PIXELS."""
