"""Reports as self-contained pages, and what their pictures share."""
