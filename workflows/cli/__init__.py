"""The `everview` program: one verb, one small module; nothing heavy is imported before a verb runs."""
