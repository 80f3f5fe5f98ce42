"""From released weight files to model folders, with proof."""
