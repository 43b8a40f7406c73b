"""The `everview` program: one verb, one small module; nothing heavy is imported before it runs."""
