"""The paper's tasks, read from their authors' files or from the hub: a file for each kind of dataset."""
