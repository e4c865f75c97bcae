# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""What is known as harmless in a bundle's configs, whatever else is in them: a table. What is not on it is code.

Harmless is what neither runs code of the bundle or of a download, nor unpickles, writes or deletes a file, as MONAI 1.6
has it. What a harmless thing calls is in the config too, and looked at by itself, so that it may be an argument.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = [
    "ARGUMENTS", "ATTRIBUTES", "BUILTINS", "CLASSES", "CONSTANTS", "FUNCTIONS", "IMPORTS", "METHODS", "VALUES",
]  # fmt: skip


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: Classes by the module that offers them; those of ``monai.transforms`` stand for their dictionary transforms as well.
CLASSES: Mapping[str, str] = {
    "monai.transforms": """
        Activations AddCoordinateChannels AdjustContrast Affine AsChannelLast AsDiscrete BorderPad BoundingRect
        CastToType CenterScaleCrop CenterSpatialCrop ClassesToIndices ClipIntensityPercentiles Compose ComputeHoVerMaps
        ConcatItemsd ConvertToMultiChannelBasedOnBratsClasses CopyItemsd CropForeground CutMix CutOut Decollated
        DeleteItemsd DistanceTransformEDT DivisiblePad EnsureChannelFirst EnsureType FgBgToIndices FillHoles
        FlattenSubKeysd Flip ForegroundMask FromMetaTensord GaussianSharpen GaussianSmooth GibbsNoise GridDistortion
        GridPatch GridSplit HistogramNormalize Identity Invertd KeepLargestConnectedComponent LabelFilter LabelToContour
        LabelToMask Lambda LoadImage MapLabelValue MaskIntensity MeanEnsemble MedianSmooth MixUp NormalizeIntensity
        OneOf Orientation Rand2DElastic Rand3DElastic RandAdjustContrast RandAffine RandAxisFlip RandBiasField
        RandCoarseDropout RandCoarseShuffle RandCropByLabelClasses RandCropByPosNegLabel RandFlip RandGaussianNoise
        RandGaussianSharpen RandGaussianSmooth RandGibbsNoise RandGridDistortion RandGridPatch RandHistogramShift
        RandKSpaceSpikeNoise RandLambda RandRicianNoise RandRotate RandRotate90 RandScaleCrop RandScaleIntensity
        RandScaleIntensityFixedMean RandShiftIntensity RandSimulateLowResolution RandSmoothDeform
        RandSmoothFieldAdjustContrast RandSmoothFieldAdjustIntensity RandSpatialCrop RandSpatialCropSamples
        RandStdShiftIntensity RandTorchVision RandWeightedCrop RandZoom RandomOrder RemoveRepeatedChannel
        RemoveSmallObjects RepeatChannel ResampleToMatch Resize ResizeWithPadOrCrop Rotate Rotate90 SavitzkyGolaySmooth
        ScaleIntensity ScaleIntensityFixedMean ScaleIntensityRange ScaleIntensityRangePercentiles SelectItemsd
        ShiftIntensity SobelGradients SomeOf Spacing SpatialCrop SpatialPad SpatialResample SplitDim SqueezeDim
        StdShiftIntensity ThresholdIntensity ToDevice ToMetaTensord ToNumpy ToTensor TorchVision Transpose VoteEnsemble
        Zoom
    """,
    "monai.networks.nets": """
        AHNet AttentionUnet AutoEncoder AutoencoderKL BasicUNet BasicUNetPlusPlus Classifier ControlNet Critic DAF3D
        DenseNet DenseNet121 DenseNet169 DenseNet201 DenseNet264 DiNTS DiffusionModelUNet Discriminator DynUNet
        FlexibleUNet Generator GlobalNet HighResNet HoVerNet LocalNet MedNeXt PatchDiscriminator Quicknat RegUNet
        Regressor ResNet SEResNet50 SegResNet SegResNetDS SegResNetDS2 SegResNetVAE SwinUNETR TopologyInstance
        TopologySearch UNETR UNet VNet VQVAE VarAutoEncoder ViT VoxelMorph
    """,
    "monai.networks.schedulers": "DDIMScheduler DDPMScheduler PNDMScheduler",
    "monai.losses": """
        AsymmetricUnifiedFocalLoss BendingEnergyLoss BoundaryLoss ContrastiveLoss DeepSupervisionLoss DiceCELoss
        DiceFocalLoss DiceLoss DiffusionLoss FocalLoss GeneralizedDiceFocalLoss GeneralizedDiceLoss
        GeneralizedWassersteinDiceLoss GlobalMutualInformationLoss HausdorffDTLoss LocalNormalizedCrossCorrelationLoss
        LogHausdorffDTLoss MCCLoss MaskedDiceLoss MaskedLoss MultiScaleLoss NACLLoss PatchAdversarialLoss SSIMLoss
        SURELoss SoftDiceclDiceLoss SoftclDiceLoss TverskyLoss
    """,
    "monai.inferers": """
        DiffusionInferer LatentDiffusionInferer SimpleInferer SliceInferer SlidingWindowInferer
        SlidingWindowInfererAdapt
    """,
    "monai.data": """
        CacheDataset DataLoader Dataset DistributedSampler IterableDataset NibabelReader NumpyReader PILReader
        ShuffleBuffer SmartCacheDataset ThreadDataLoader ZipDataset
    """,
    "monai.engines": "SupervisedEvaluator SupervisedTrainer",
    "monai.handlers": """
        CheckpointLoader ConfusionMatrix EarlyStopHandler HausdorffDistance LrScheduleHandler MeanAbsoluteError MeanDice
        MeanIoUHandler MeanSquaredError MetricLogger StatsHandler SurfaceDistance ValidationHandler
    """,
    "monai.metrics": """
        ConfusionMatrixMetric DiceMetric HausdorffDistanceMetric LossMetric MAEMetric MSEMetric MeanIoU
        SurfaceDiceMetric SurfaceDistanceMetric
    """,
    "monai.optimizers": "ExponentialLR LinearLR Novograd WarmupCosineSchedule",
    "monai.apps.deepedit.interaction": "Interaction",
    "monai.apps.deepedit.transforms": """
        AddGuidanceFromPointsDeepEditd AddGuidanceSignalDeepEditd AddInitialSeedPointMissingLabelsd
        AddRandomGuidanceDeepEditd FindAllValidSlicesMissingLabelsd FindDiscrepancyRegionsDeepEditd
        NormalizeLabelsInDatasetd ResizeGuidanceMultipleLabelDeepEditd
    """,
    "monai.apps.nuclick.transforms": """
        AddClickSignalsd AddLabelAsGuidanced AddPointGuidanceSignald SetLabelClassd SplitLabeld
    """,
    "monai.apps.pathology.inferers": "SlidingWindowHoVerNetInferer",
    "monai.apps.pathology.losses": "HoVerNetLoss",
    "torch.optim": "Adam AdamW Adamax NAdam RAdam RMSprop SGD",
    "torch.optim.lr_scheduler": """
        ConstantLR CosineAnnealingLR CosineAnnealingWarmRestarts CyclicLR ExponentialLR LambdaLR LinearLR MultiStepLR
        OneCycleLR PolynomialLR ReduceLROnPlateau SequentialLR StepLR
    """,
    "torch.nn": """
        BCELoss BCEWithLogitsLoss Conv2d Conv3d CrossEntropyLoss Identity L1Loss MSELoss NLLLoss Sigmoid SmoothL1Loss
        Softmax
    """,
    "torch.nn.parallel": "DistributedDataParallel",
    "torch.utils.data": "ConcatDataset DataLoader Subset WeightedRandomSampler",
    "ignite.handlers": "TerminateOnNan",
    "ignite.metrics": "Accuracy MeanPairwiseDistance",
}

#: Arguments of these classes that may have any value that is harmless itself.
ARGUMENTS = _words(
    """
    T_0 T_max T_mult a_max a_min above accumulation_steps act act_name acti_type activation adapt_standard_resnet
    add_exclusion_map additional_metrics affine affine_lps_to_ras align_corners allow_missing_keys allow_smaller alpha
    amp amsgrad angle anneal_strategy anti_aliasing anti_aliasing_sigma applied_labels approx arch_code argmax
    as_closest_canonical as_contiguous attention_levels attn_drop_rate autoencoder_latent_shape axcodes axis b_max b_min
    backbone base_lr base_momentum batch batch_sampler batch_size bb_size bbox_key_postfix beta beta_end beta_start
    betas bg_indices bg_indices_key bg_postfix bias bias_downsample block_config block_inplanes blocks_bottleneck
    blocks_down blocks_up bn_size bottleneck_expansion_ratio brightness buffer_dim buffer_size buffer_steps by_measure
    cache_grid cache_num cache_rate cache_roi_weight_map capturable centered channel_dim channel_indices channel_mul
    channel_wise channels class_thresholds classes classification click_probability_key clip clip_sample clip_sample_max
    clip_sample_min coeff_range collate_fn commitment_cost compute_sample concat_skip conditioning_embedding_in_channels
    conditioning_embedding_num_channels connected_regions connectivity constant_values contrast conv1_t_size
    conv1_t_stride converter cooldown copy_cache cpu_thresh criterion cross_attention_dim cumulative_delta cval
    cycle_momentum cycles dampening data data_range data_type dataset datasets ddp_sync decay decoder_bias
    decoder_channels decoder_expansion_ratio decoder_padding decollate decoupled_weight_decay deep_supervision
    deep_supr_num deepgrow_probability def_range degree delete_keys delta depth depths detach device device_ids diagonal
    differentiable dilation dim dints_space directed discrepancy dist_matrix distance_metric distance_type distort_limit
    distort_steps div_factor divisor downsample downsample_kernel_size downsample_mode downsample_parameters drop_last
    drop_out drop_rate dropout dropout_cattn dropout_dim dropout_holes dropout_path_rate dropout_prob dropout_prob_down
    dropout_prob_up dropout_rate dsdepth dst_keys dtype embedding_dim encode_kernel_sizes encoder_expansion_ratio
    end_coord_key end_factor end_lr ensure_channel_first ensure_same_shape epoch_length epoch_level epoch_log
    epoch_print_logger epochs eps epsilon et_label eta_min evaluator even_divisible exec_at_start extra_input_padding
    extract_levels factor factor_key factors feature_size features feed_forward fg_indices fg_indices_key fg_postfix
    field_mode filters final_div_factor find_unused_parameters fixed_mean foreach foreground forward_sync_buffers
    freeze_encoder func fused gamma gaussian generator get_not_nans global_epoch_transform global_resp_norm
    grad_averaging gradient_as_bucket_view grid grid_align_corners grid_dtype grid_mode grid_padding_mode groups
    growth_rate guidance half_res hash_as_key hidden_size holes hsv_threshold hue hyena_fft_padding hyena_grid_type
    hyena_kernel_layers hyena_kernel_mlp_dim hyena_kernel_size hyena_l_cache hyena_mask_max_attenuation hyena_omega_0
    hyena_short_conv_fft_chunks hyena_stages hyena_use_chunked_fft hyena_use_fft_short_conv ignore_empty ignore_index
    image image_key image_only image_size image_threshold img_size in_channels in_order in_shape include_background
    include_fc independent independent_channels indices indices_key indices_postfix inferer init_features init_filters
    inplanes input_3x3 input_image_size integration_steps intensity_range inter_channels inter_dilations interp_mode
    interval inv_func invert invert_image is_multilabel is_onehot is_pad iter_ iteration_log iteration_print_logger
    iteration_update jaccard jitter_range k k1 k2 k_divisible keep_size keepdim kernel kernel_c kernel_sigma kernel_size
    kernel_type key_dst key_train_metric key_val_metric keys label label_key label_keys label_names label_smoothing
    labels lambda_ce lambda_dice lambda_focal lambda_gdl lambda_hv_mse lambda_hv_mse_grad lambda_nc_ce lambda_nc_dice
    lambda_np_ce lambda_np_dice last_act last_conv_kernel_size last_epoch latent_channels latent_shape latent_size
    layers lazy ldm_latent_shape list_output load_dict load_path loss loss_fn loss_function loss_transform lower lr
    lr_lambda lr_scheduler magnitude_range map_items map_location margin mask mask_data mask_key mask_value max
    max_epochs max_holes max_interactions max_k max_lr max_momentum max_offset max_pixdim max_roi_scale max_roi_size
    max_samples_per_class max_spatial_size max_zoom maximize maxv mean merge_channels meta_key_postfix meta_keys method
    metric_cmp_fn metric_name metric_transform milestones min min_area min_delta min_lr min_offset min_pixdim min_size
    min_zoom minv mlp_dim mlp_ratio mode module momentum momentum_decay n_input_channels name names nearest_interp neg
    nesterov network new_key_prefix no_activation_leastsq no_max_pool node_a non_blocking nonzero norm norm_eps
    norm_name norm_num_groups norm_type normalize normalize_gradients normalize_kernels normalized np_out_channels
    npz_keys num_bins num_blocks num_cells num_channel_initial num_channels num_class_embeds num_classes num_components
    num_control_points num_depths num_embeddings num_filters num_groups num_head_channels num_heads num_init_workers
    num_inter_units num_iter num_layers num_layers_d num_patches num_replace_workers num_replicas num_res_blocks
    num_res_channels num_res_layers num_res_units num_samples num_train_timesteps num_transforms num_workers
    number_intensity_ch offset offsets optim_set_to_none optimizer order orig_keys orig_labels orig_meta_keys other
    other_act others others_value out_activation out_channels out_classes out_shape output_act output_key
    output_postfixes output_shape output_transform overlap overrides overwrite overwriting p pad pad_batch pad_mode
    padding padding_mode params patch_norm patch_size patience pct_start per_component percentile persistent_workers
    perturb_noise pin_memory pixdim pool pooling pos pos_embed_type pos_weight post_activation post_func postprocessing
    power pre_conv pred prediction_type prefetch_factor prefix prepare_batch preprocess preserve_range print_lr prob
    probability progress proj_type prune_meta_pattern prune_meta_sep psp_block_num qkv_bias radius rand_size
    random_center random_size range_x range_y range_z rank ratios recompute_affine reduce reduction ref_image relative
    repeats replace replace_rate replacement res_block resblock_updown resolution retain_stats return_clipping_values
    return_coords return_with_label reverse_indexing roi_center roi_end roi_scale roi_size roi_slices roi_start
    rotate_order rotate_params rotate_range rounding runtime_cache safe sample_std sampler sampling saturation save_attn
    save_details save_theta scale_extent scale_factor scale_fn scale_mode scale_params scale_range scales schedule
    scheduler schedulers score_function se_block seed select_fn select_labels sep set_alpha_to_one sharpness_factor
    shear_params shear_range shortcut_type shuffle sid sids sigma sigma1 sigma1_x sigma1_y sigma1_z sigma2 sigma2_x
    sigma2_y sigma2_z sigma_range sigma_ratio sigma_scale sigma_x sigma_y sigma_z sigmoid simple_keys size size_average
    size_mode skip_prk_steps skip_unrolling smooth smooth_dr smooth_nr soft_label softmax sort_fn source source_key
    spacing spatial_axes spatial_axis spatial_border spatial_dim spatial_dims spatial_size squared_pred
    squeeze_non_spatial_dims start_coord_key start_factor start_shape std step_size step_size_down step_size_up
    step_transform steps_offset steps_per_epoch strict strict_check strict_shape stride stride_conv stride_pool strides
    sub_keys subtrahend sw_batch_size sw_device symmetric t_total tag_name target_labels temperature three_phase
    threshold threshold_mode times to_binary_mask to_gpu to_onehot to_onehot_y to_tensor total_iters total_steps
    track_meta train train_data_loader train_handlers trainer trans_bias transform transformer_num_layers transforms
    translate_params translate_range truncated unpack_items up_kernel_size upcast_attention update_meta upper upsample
    upsample_kernel_size upsample_mode upsample_parameters use_additive_sampling use_checkpoint use_checkpointing
    use_combined_linear use_conv_final use_convtranspose use_distance use_downsample use_flash_attention use_hyena
    use_mean_at_inference use_re use_residual_connection use_sigmoid use_softmax use_subvoxels use_thread_workers use_v2
    vae_default_std vae_estimate_std vae_nz val_data_loader val_handlers validator value variance_type visual_output
    w_key w_type warmup_multiplier warmup_steps warn weight weight_decay weight_map weight_mode weighting_mode weights
    widen_factor win_size window_length window_size with_conditioning with_coord with_decoder_nonlocal_attn
    with_encoder_nonlocal_attn worker_init_fn wrap_sequence zoom zoom_range
    """
)

_READERS = ("ITKReader", "NibabelReader", "NrrdReader", "PILReader", "PydicomReader")
_TORCHVISION = ("ColorJitter", "GaussianBlur", "RandomErasing")

#: Arguments that are harmless with these values alone, or with a component; of every class, or of the one named.
VALUES: Mapping[str, tuple[Any, ...]] = {
    "allow_pickle": (False,),
    "pretrained": (False, None),
    "pretrained_url": (None,),
    "_mode_": ("default",),
    **{f"{kind}._mode_": ("default", "callable") for kind in ("SupervisedTrainer", "Adam", "AdamW", "SGD")},
    "reader": (None, "NumpyReader", *_READERS, *map(str.lower, _READERS), *(f"$monai.data.{one}" for one in _READERS)),
    **{f"{kind}.name": _TORCHVISION for kind in ("TorchVision", "TorchVisiond", "RandTorchVision", "RandTorchVisiond")},
}

#: Import statements. What they bind is what the names below stand for.
IMPORTS = {
    "import numpy as np",
    "import pandas as pd",
    "import matplotlib.pyplot as plt",
    "import torch.distributed as dist",
    "from PIL import Image",
    "from datetime import datetime",
    "from functools import partial",
    "from ignite.engine import Events",
    "from monai.data.utils import list_data_collate",
    "from pathlib import Path",
    "from scipy import ndimage",
    "import monai.apps.deepedit.transforms",
}
IMPORTS |= {
    f"import {name}"
    for name in _words(
        """
        copy datetime functools glob ignite itertools json logging math monai numpy os os.path pandas pathlib random re
        scipy skimage sys time torch torchvision
        """
    )
}

#: Functions that an expression may call, with whatever is harmless itself; those of Python have no module.
BUILTINS = _words(
    """
    abs all any bool chr dict enumerate filter float int isinstance len list map max min ord range reversed round
    set sorted str sum tuple zip
    """
)
FUNCTIONS = _words(
    """
    copy.copy copy.deepcopy datetime.datetime.now datetime.now dist.get_rank dist.get_world_size dist.is_initialized
    glob.glob math.ceil math.floor math.log math.sqrt monai.data.load_decathlon_datalist
    monai.data.partition_dataset monai.handlers.from_engine monai.utils.first monai.utils.misc.first
    monai.utils.set_determinism numpy.abs numpy.arange numpy.array numpy.concatenate numpy.round os.path.abspath
    os.path.basename os.path.dirname os.path.exists os.path.isdir os.path.isfile os.path.join os.path.normpath
    os.path.realpath os.path.splitext torch.FloatTensor torch.arange torch.argmax torch.cat torch.cuda.device_count
    torch.cuda.is_available torch.device torch.distributed.get_rank torch.distributed.get_world_size
    torch.distributed.is_initialized torch.from_numpy torch.nan_to_num torch.ones torch.rand torch.randn
    torch.sigmoid torch.softmax torch.stack torch.tensor torch.where torch.zeros torch.utils.data.Subset
    monai.inferers.SimpleInferer ndimage.binary_dilation skimage.measure.label
    monai.apps.pathology.engines.utils.PrepareBatchHoVerNet monai.apps.pathology.handlers.utils.from_engine_hovernet
    """
)

#: What an expression may name without a call.
CONSTANTS = re.compile(
    r"monai\.utils\.(?:enums\.)?[A-Z]\w*\.[A-Z]\w*|(?:ignite\.engine\.)?Events\.[A-Z_]+|list_data_collate"
    r"|monai\.data\.(?:utils\.)?(?:decollate_batch|list_data_collate|no_collation|pad_list_data_collate)"
    rf"|monai\.data\.(?:{'|'.join(_READERS)})"
    r"|(?:torch|np|numpy)\.(?:bool|u?int(?:8|16|32|64)?|float(?:16|32|64)?|bfloat16|double|half|long|short|pi|inf|nan)"
    r"|math\.(?:pi|e|inf)"
)

#: Methods that an expression may call, and attributes that it may read, whatever of the config they are of.
METHODS = _words(
    """
    argmax astype bool clamp convert count cpu endswith float get index int item items join keys long lower lstrip
    max mean min numpy parameters replace reshape rsplit rstrip set_random_state size split squeeze startswith
    state_dict strftime strip sum to tolist unsqueeze upper values
    """
)
ATTRIBUTES = _words(
    """
    T batch dataset device dtype epoch epoch_length iteration max_epochs meta ndim network output requires_grad
    shape state
    """
)
