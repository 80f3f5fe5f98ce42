"""Words that options choose from and libraries look up: light, so that a command line is checked before torch is imported.

Tables that lie in heavier modules (masks, presets, statistics, data types) are listed here by name; a test compares them.
"""

# ----------------------------------------------------------------------------------------------------------------- data
LABEL_KINDS = ("class", "multi", "value")
MATCHES = ("check", "by_name", "by_index")  # how the classes of data and model meet
PREPARED_FORMATS = ("shards", "folder")
ERRORS = ("strict", "truncate")  # what a reader does with a video that is cut off or damaged
# Class numbers and classes beyond this are taken for mistakes unless the user names the count: a table by class would
# take memory for each. The largest public set has 710.
MAX_LABELS = 100_000

# --------------------------------------------------------------------------------------------------------------- models
PRESETS = ("small", "base", "large", "huge", "giant")
MASKS = ("tube", "random", "frame", "running_cell")
DTYPES = ("float32", "bfloat16", "float16")
MAX_GIGABYTES = 32  # a giant's checkpoint with its optimizer state is 12; more is not a VideoMAE
ALLOWED_MISSING = ("license", "labels")  # what `publish --allow_missing` can let pass

# ------------------------------------------------------------------------------------------------------------- features
PROBES = ("knn", "linear", "attentive")
LEVELS = ("window", "video", "token")
# Frames between the starts of two windows in extract_tad_feature.py of VideoMAE V2.
REFERENCE_STRIDES = {"thumos14": 4, "fineaction": 16}

AVA_PROTOCOLS = ("ava", "mmaction2")  # whose evaluation of detections

# ------------------------------------------------------------------------------------------------------------- pictures
MEAN = "mean"  # of all heads
STATISTICS = ("nearby", "visible", "patch", "none")  # where brightness and contrast of rebuilt patches come from
PICTURES = ("reconstruction", "attention")
PICTURE_FORMATS = ("png", "gif", "mp4")
