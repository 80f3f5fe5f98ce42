"""The command line of train_detection.py, which `torchrun` and `accelerate launch` start by its path."""

from videomae.training.options import TRAIN_DETECTION, read_arguments


def main(argv: list[str] | None = None) -> int:
    read_arguments(TRAIN_DETECTION, argv)  # help and mistakes are answered before torch is imported
    from videomae.train_detection import main as train

    return train(argv)
