"""The flags of the official command lines, as their argument parsers had them on 2026-11-21; facts for the migration tables."""

_SHARED = """
    batch_size epochs save_ckpt_freq model input_size drop_path opt opt_eps opt_betas clip_grad momentum weight_decay
    weight_decay_end lr warmup_lr min_lr warmup_epochs warmup_steps color_jitter imagenet_default_mean_and_std num_frames
    sampling_rate output_dir log_dir device seed resume auto_resume no_auto_resume start_epoch num_workers pin_mem
    no_pin_mem world_size local_rank dist_on_itp dist_url
"""
_PRETRAINING = _SHARED + "decoder_depth mask_type mask_ratio normlize_target train_interpolation data_path "
_FINETUNING = (
    _SHARED
    + """
    tubelet_size update_freq drop attn_drop_rate disable_eval_during_finetuning model_ema model_ema_decay
    model_ema_force_cpu layer_decay finetune model_key model_prefix init_scale use_mean_pooling use_cls nb_classes
    num_segments data_set save_ckpt no_save_ckpt eval dist_eval enable_deepspeed
"""
)
_CLASSIFICATION = (
    _FINETUNING
    + """
    num_sample aa smoothing train_interpolation crop_pct short_side_size test_num_segment test_num_crop reprob remode
    recount resplit mixup cutmix cutmix_minmax mixup_prob mixup_switch_prob mixup_mode data_path eval_data_path
"""
)

# By the section of docs/migration.md in which a user of the script looks (besides the table of shared flags).
FLAGS = {
    ("MCG-NJU/VideoMAE", "run_mae_pretraining.py"): (
        "Pre-training: `run_mae_pretraining.py`",
        _PRETRAINING + "use_checkpoint",
    ),
    ("OpenGVLab/VideoMAEv2", "run_mae_pretraining.py"): (
        "Pre-training: `run_mae_pretraining.py`",
        _PRETRAINING
        + "tubelet_size with_checkpoint decoder_mask_type decoder_mask_ratio finetune data_root fname_tmpl num_sample",
    ),
    ("MCG-NJU/VideoMAE", "run_class_finetuning.py"): (
        "Fine-tuning and testing: `run_class_finetuning.py`",
        _CLASSIFICATION + "use_checkpoint fc_drop_rate",
    ),
    ("OpenGVLab/VideoMAEv2", "run_class_finetuning.py"): (
        "Fine-tuning and testing: `run_class_finetuning.py`",
        _CLASSIFICATION + "with_checkpoint head_drop_rate data_root sparse_sample fname_tmpl start_idx validation",
    ),
    ("MCG-NJU/VideoMAE-Action-Detection", "run_class_finetuning.py"): (
        "Action detection: `run_class_finetuning.py` of VideoMAE-Action-Detection",
        _FINETUNING + "val_freq use_checkpoint",
    ),
    ("MCG-NJU/VideoMAE", "run_videomae_vis.py"): (
        "Visualisation: `run_videomae_vis.py`",
        "mask_type num_frames sampling_rate decoder_depth input_size device imagenet_default_mean_and_std mask_ratio model "
        "drop_path",
    ),
    ("OpenGVLab/VideoMAEv2", "extract_tad_feature.py"): (
        "Features: `extract_tad_feature.py`",
        "data_set data_path save_path model ckpt_path",
    ),
    ("open-mmlab/mmaction2", "tools/train.py"): (
        "MMAction2",
        "work-dir resume amp no-validate auto-scale-lr seed diff-rank-seed deterministic cfg-options launcher local_rank",
    ),
    ("open-mmlab/mmaction2", "tools/test.py"): (
        "MMAction2",
        "work-dir dump cfg-options show show-dir interval wait-time launcher local_rank",
    ),
    ("open-mmlab/mmaction2", "demo/demo_spatiotemporal_det.py"): (
        "MMAction2",
        "config checkpoint det-config det-checkpoint det-score-thr action-score-thr video label-map device out-filename "
        "predict-stepsize output-stepsize output-fps",
    ),
}
