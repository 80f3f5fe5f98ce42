"""Features of videos from a frozen model: clips, extraction, files, and distances between sets."""
