"""Tasks that are generated from plain templates and vocabularies, for any instruction model: one family a file."""
