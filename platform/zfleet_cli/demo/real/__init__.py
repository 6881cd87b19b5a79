"""The demo on a pretrained instruction model: the paper's table on tasks that fit a laptop."""
