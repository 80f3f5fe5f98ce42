"""The published lists of class names that commands know by name: how many classes, and where the list can be had.

No list is shipped: `hub_file` is fetched from the Hub on request, `own_file` is what the data set's own download holds.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class LabelSet:
    title: str
    count: int
    hub_file: str | None = None
    own_file: str | None = None


LABEL_SETS = {
    "kinetics400": LabelSet("Kinetics-400", 400, hub_file="kinetics400-id2label.json"),
    "kinetics600": LabelSet("Kinetics-600", 600, hub_file="kinetics600-id2label.json"),
    "k710": LabelSet("Kinetics-710", 710, own_file="misc/label_map_k710.txt of the VideoMAE V2 repository"),
    "something-something-v2": LabelSet("Something-Something V2", 174, hub_file="something-something-v2-id2label.json"),
    "ucf101": LabelSet("UCF101", 101, own_file="ucfTrainTestlist/classInd.txt"),
    "hmdb51": LabelSet("HMDB51", 51, own_file="a list of the 51 class folders, in the order of your training list"),
    "ava": LabelSet("AVA v2.2", 80, own_file="ava_action_list_v2.2.pbtxt"),
}
