"""The paper's tasks, read from their authors' files: one file a family."""
