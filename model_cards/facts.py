"""What cards say about data sets and papers: facts with one home, none of them measured here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DataSet:
    """A data set as cards name it. `hub_id` is its name on the Hub, or a plain one where no copy there is well known."""

    title: str
    about: str
    bias: str  # what a model trained on it inherits
    url: str
    hub_id: str


_YOUTUBE = (
    "Kinetics is cut from YouTube: sports, hobbies and the countries where people upload most are over-represented, and "
    "single objects or places give many labels away. Videos vanish from YouTube, so no two copies of the set are equal."
)
_FILMS = (
    "AVA is cut from films: acted scenes, well lit and framed, mostly adults; rare actions have very few examples, and "
    "20 of the 80 classes are too rare to be scored."
)
_DAILY = "few classes and short clips of a particular kind; scores near 100 % say little about other videos."

# By the keys of zoo.yaml. Sizes are those that the papers of the sets and of VideoMAE give.
DATA_SETS = {
    "kinetics400": DataSet(
        "Kinetics-400",
        "about 240,000 training and 20,000 validation clips of 10 seconds from YouTube, 400 human actions",
        _YOUTUBE,
        "https://arxiv.org/abs/1705.06950",
        "AlexFierro9/Kinetics400",
    ),
    "kinetics600": DataSet(
        "Kinetics-600",
        "clips of 10 seconds from YouTube, 600 human actions",
        _YOUTUBE,
        "https://arxiv.org/abs/1808.01340",
        "kinetics600",
    ),
    "kinetics700": DataSet(
        "Kinetics-700",
        "clips of 10 seconds from YouTube, 700 human actions",
        _YOUTUBE,
        "https://arxiv.org/abs/1907.06987",
        "kinetics700",
    ),
    "k710": DataSet(
        "Kinetics-710",
        "Kinetics-400, -600 and -700 merged by class name, without duplicates and without clips that are in a test set: "
        "710 human actions",
        _YOUTUBE,
        "https://arxiv.org/abs/2303.16727",
        "kinetics710",
    ),
    "something-something-v2": DataSet(
        "Something-Something V2",
        "about 169,000 training and 25,000 validation clips of people doing something with an object, filmed for the "
        "purpose; 174 actions, many of which differ only in direction or outcome",
        "Something-Something was filmed by crowd workers who followed a script: hands, household objects and rooms of "
        "theirs; the actions are templates and left is not right, so clips must not be mirrored.",
        "https://arxiv.org/abs/1706.04261",
        "HuggingFaceM4/something_something_v2",
    ),
    "ucf101": DataSet(
        "UCF101",
        "13,320 clips from YouTube, 101 human actions; split 1",
        f"UCF101 has {_DAILY}",
        "https://arxiv.org/abs/1212.0402",
        "ucf101",
    ),
    "hmdb51": DataSet(
        "HMDB51",
        "6,766 clips from films and the web, 51 human actions; split 1",
        f"HMDB51 has {_DAILY}",
        "https://doi.org/10.1109/ICCV.2011.6126543",
        "hmdb51",
    ),
    "ava": DataSet(
        "AVA 2.2",
        "430 film excerpts of 15 minutes; each person has a box and up to 80 actions, once a second",
        _FILMS,
        "https://arxiv.org/abs/1705.08421",
        "ava",
    ),
    "ava-kinetics": DataSet(
        "AVA-Kinetics",
        "AVA 2.2 and a key frame each of many Kinetics-700 clips; each person has a box and up to 80 actions",
        "AVA-Kinetics is cut from films and from YouTube: acted scenes next to sports and hobbies; rare actions have very few "
        "examples.",
        "https://arxiv.org/abs/2005.00214",
        "ava-kinetics",
    ),
    "unlabeledhybrid": DataSet(
        "UnlabeledHybrid",
        "about 1.35 million clips without labels, gathered for VideoMAE V2 from Kinetics, Something-Something V2, AVA, "
        "WebVid and Instagram",
        "UnlabeledHybrid is web video that nobody filtered for balance; what its people, places and subjects are was not "
        "documented, and it was not released.",
        "https://arxiv.org/abs/2303.16727",
        "unlabeledhybrid",
    ),
    "thumos14": DataSet(
        "THUMOS14",
        "untrimmed sports videos with the times of 20 actions",
        "",
        "https://arxiv.org/abs/1604.06182",
        "thumos14",
    ),
    "fineaction": DataSet(
        "FineAction",
        "untrimmed videos with the times of 106 actions",
        "",
        "https://arxiv.org/abs/2105.11107",
        "fineaction",
    ),
}

# By arXiv number, as zoo.yaml names them.
PAPERS = {
    "2203.12602": """@inproceedings{tong2022videomae,
  title = {{VideoMAE}: Masked Autoencoders are Data-Efficient Learners for Self-Supervised Video Pre-Training},
  author = {Tong, Zhan and Song, Yibing and Wang, Jue and Wang, Limin},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2022},
  url = {https://arxiv.org/abs/2203.12602}
}""",
    "2303.16727": """@inproceedings{wang2023videomaev2,
  title = {{VideoMAE V2}: Scaling Video Masked Autoencoders with Dual Masking},
  author = {Wang, Limin and Huang, Bingkun and Zhao, Zhiyu and Tong, Zhan and He, Yinan and Wang, Yi and Wang, Yali and Qiao, Yu},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2023},
  url = {https://arxiv.org/abs/2303.16727}
}""",
    "mmaction2": """@misc{mmaction2,
  title = {OpenMMLab's Next Generation Video Understanding Toolbox and Benchmark},
  author = {{MMAction2 Contributors}},
  year = {2020},
  url = {https://github.com/open-mmlab/mmaction2}
}""",
}
