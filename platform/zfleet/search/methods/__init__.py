"""The methods of searching: one file each."""
