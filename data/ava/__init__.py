"""AVA's format: annotations, persons, movies, clips with boxes, result files."""
