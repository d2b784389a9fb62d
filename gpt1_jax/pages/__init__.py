"""What a run directory looks like as a page that opens anywhere, and the picture of its model."""
