"""Words that options choose from and libraries look up: light, so that a command line is checked before torch is imported.

Tables that lie in heavier modules (masks, presets, statistics, data types) are listed here by name; a test compares them.
"""

# ----------------------------------------------------------------------------------------------------------------- data
LABEL_KINDS = ("class", "multi", "value")
MATCHES = ("check", "by_name", "by_index")  # how the classes of data and model meet
PREPARED_FORMATS = ("shards", "folder")
ERRORS = ("strict", "truncate")  # what a reader does with a video that is cut off or damaged
# Class numbers and numbers of classes beyond this are taken for mistakes unless the user names the count: a table by class would
# take memory for each. The largest public set has 710.
MAX_LABELS = 100_000

# --------------------------------------------------------------------------------------------------------------- models
PRESETS = ("small", "base", "large", "huge", "giant")
MASKS = ("tube", "random", "frame", "running_cell", "short_blocks", "long_blocks")
DTYPES = ("float32", "bfloat16", "float16")
MAX_GIGABYTES = 32  # a giant's checkpoint with its optimizer state is 12; more is not a VideoMAE
ALLOWED_MISSING = ("license", "labels")  # what `publish --allow_missing` can let pass

# What a config.json or a recipe can say of a video transformer; the released ones reach 40 layers, width 1408 and 16
# frames. A number beyond these would take memory or time before anything else could refuse it.
CONFIG_BOUNDS = {
    **dict.fromkeys(("num_hidden_layers", "decoder_num_hidden_layers"), (0, 256)),
    **dict.fromkeys(("hidden_size", "decoder_hidden_size"), (1, 16384)),
    **dict.fromkeys(("intermediate_size", "decoder_intermediate_size"), (1, 65536)),
    **dict.fromkeys(("num_attention_heads", "decoder_num_attention_heads"), (1, 1024)),
    **dict.fromkeys(("image_size", "detection_short_side"), (1, 8192)),
    **dict.fromkeys(("patch_size", "tubelet_size", "num_channels", "detection_stride_frames"), (1, 1024)),
    "num_frames": (1, 4096),
    "num_labels": (0, MAX_LABELS),
    "roi_output_size": (1, 64),
    "roi_sampling_ratio": (0, 64),
}

# ------------------------------------------------------------------------------------------------------------- features
PROBES = ("knn", "linear", "attentive")
PROBE_PROTOCOLS = ("vjepa2",)
PROBE_RECIPES = ("ssv2", "k400", "diving48")
DISTANCES = ("frechet", "kernel")  # between two sets of features
LEVELS = ("window", "video", "token")
# Frames between the starts of two windows in extract_tad_feature.py of VideoMAE V2.
REFERENCE_STRIDES = {"thumos14": 4, "fineaction": 16}

AVA_PROTOCOLS = ("ava", "mmaction2")  # whose evaluation of detections

# ------------------------------------------------------------------------------------------------------------- pictures
MEAN = "mean"  # of all heads
STATISTICS = ("nearby", "visible", "patch", "none")  # where brightness and contrast of rebuilt patches come from
PICTURES = ("reconstruction", "attention")
PICTURE_FORMATS = ("png", "gif", "mp4")

LABEL_FORMATS = ("csv", "srt", "vtt", "png")  # what `videomae label` writes beside JSON
