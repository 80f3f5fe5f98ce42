"""Fine-tune with transformers' Trainer: our model (or transformers' own), our data, layer decay and mixup.

    python examples/finetune_with_trainer.py --model PRETRAINED --train train.csv --validation val.csv --output runs/hf

The same recipe with this project's trainer: `videomae finetune --recipe small-data ...`, which adds exact resume, EMA,
distillation and the multi-view test. Any other argument of TrainingArguments can be set in `arguments` below.
"""

import argparse

import transformers
from transformers import Trainer, TrainingArguments

from videomae import VideoMAEConfig, VideoMAEVideoProcessor
from videomae.data.lists.layouts import open_manifest
from videomae.data.mixing import Mixing
from videomae.data.transforms import EvalTransform, TrainTransform
from videomae.data.video_dataset import VideoDataset
from videomae.evaluation.hf_trainer import (
    EpochOfClips,
    TrainerDataset,
    layer_decay_optimizer,
    soft_label_loss,
    trainer_collator,
    video_metrics,
)
from videomae.sampling_videomae import ClipSampling
from videomae.training.classifiers import build_classifier, name_classes


def main(argv: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="pre-trained folder or Hub name")
    parser.add_argument("--train", required=True, help="labelled videos: a folder per class, or a list")
    parser.add_argument("--validation", required=True, help="the same for validation")
    parser.add_argument("--output", required=True)
    parser.add_argument("--stock", action="store_true", help="use transformers' own model class")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--lr", type=float, default=2.5e-4, help="peak, for this batch")
    parser.add_argument("--layer_decay", type=float, default=0.75)
    parser.add_argument("--stride_frames", type=int, default=4)
    parser.add_argument("--flip", type=float, default=0.5, help="0 where left and right are classes")
    parser.add_argument("--mixup", type=float, default=0.8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num_workers", type=int, default=2)
    parser.add_argument("--push_to_hub", metavar="NAME", help="upload the result as NAME")
    options = parser.parse_args(argv)

    # Data: one decoded clip an item, augmented, and the centre clip for validation.
    config = VideoMAEConfig.from_pretrained(options.model)
    mean, std = config.pixel_statistics
    train_list = open_manifest(options.train)
    names = train_list.class_names or [str(label) for label in range(train_list.num_labels)]
    sampling = ClipSampling(num_frames=config.num_frames, stride_frames=options.stride_frames)
    augment = TrainTransform(size=config.image_size, flip=options.flip, mean=tuple(mean), std=tuple(std))
    train = TrainerDataset(VideoDataset(train_list, sampling=sampling, transform=augment, seed=options.seed))
    validation = TrainerDataset(
        VideoDataset(
            open_manifest(options.validation, class_names=train_list.class_names),
            mode="validation",
            sampling=sampling,
            transform=EvalTransform(config.image_size),
        )
    )

    # Model: from a pre-trained folder the final norm is dropped and the head reads the mean of all tokens.
    transformers.set_seed(options.seed)
    if options.stock:
        stock = transformers.VideoMAEConfig.from_pretrained(
            options.model, num_labels=len(names), use_mean_pooling=True, problem_type="single_label_classification"
        )
        name_classes(stock, names)
        model = transformers.VideoMAEForVideoClassification.from_pretrained(options.model, config=stock)
    else:
        model = build_classifier(options.model, num_labels=len(names), class_names=names)

    processor = VideoMAEVideoProcessor(
        size={"shortest_edge": config.image_size},
        crop_size={"height": config.image_size, "width": config.image_size},
        image_mean=mean,
        image_std=std,
        sampling=sampling,
    )
    arguments = TrainingArguments(
        output_dir=options.output,
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=options.batch_size,
        dataloader_num_workers=options.num_workers,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,  # a share of all steps
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="top1",
        remove_unused_columns=False,  # the data set gives just what the collator needs
        report_to="none",
        seed=options.seed,
        push_to_hub=bool(options.push_to_hub),
        hub_model_id=options.push_to_hub,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=validation,
        data_collator=trainer_collator(Mixing(len(names), mixup_alpha=options.mixup, cutmix_alpha=0.0), mean, std),
        compute_loss_func=soft_label_loss(label_smoothing=0.1),
        compute_metrics=video_metrics,
        processing_class=processor,
        optimizers=(layer_decay_optimizer(model, lr=options.lr, layer_decay=options.layer_decay), None),
        callbacks=[EpochOfClips(train)],
    )
    trainer.train()
    metrics = trainer.evaluate()
    trainer.save_model(options.output)
    if options.push_to_hub:
        trainer.push_to_hub(dataset_tags=[], tags=["videomae", "video-classification"])
    print({name: round(value, 4) for name, value in metrics.items()})
    return metrics


if __name__ == "__main__":
    main()
