# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""Small bundles in the styles of MONAI's Model Zoo, and cohorts of phantoms for them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import yaml

from monai_mia.data.phantoms import phantom
from monai_mia.records.volumes import write_volume

DEVICE = "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')"
Config = dict[str, Any]


def of(target: str, **options: Any) -> Config:
    return {"_target_": target, **options}


def chain(*transforms: Config) -> Config:
    return of("Compose", transforms=list(transforms))


def unet(channels: int, in_channels: int = 1) -> Config:
    return of(
        "UNet",
        spatial_dims=3,
        in_channels=in_channels,
        out_channels=channels,
        channels=[4, 8],
        strides=[2],
        norm="batch",
    )


def windows() -> Config:
    return of("SlidingWindowInferer", roi_size=[16, 16, 16], sw_batch_size=4, overlap=0.5)


def metadata(channels: int) -> Config:
    outputs = {"pred": {"type": "image", "format": "segmentation", "num_channels": channels}}
    return {"name": "a user's bundle", "version": "0.1.0", "network_data_format": {"outputs": outputs}}


def inference(network: Config, reading: list[Config], after: list[Config]) -> Config:
    """A flat inference config, of the zoo's usual ids, whose data and checkpoint are on another machine."""
    return {
        "imports": ["$import glob", "$import os"],
        "bundle_root": ".",
        "output_dir": "$@bundle_root + '/eval'",
        "dataset_dir": "a_folder_elsewhere",
        "datalist": "$list(sorted(glob.glob(@dataset_dir + '/imagesTs/*.nii.gz')))[-9:]",
        "device": DEVICE,
        "network_def": network,
        "network": "$@network_def.to(@device)",
        "preprocessing": chain(*reading),
        "dataset": of("Dataset", data="$[{'image': i} for i in @datalist]", transform="@preprocessing"),
        "dataloader": of("DataLoader", dataset="@dataset", batch_size=1, shuffle=False, num_workers=4),
        "inferer": windows(),
        "postprocessing": chain(
            *after,
            of("Invertd", keys="pred", transform="@preprocessing", orig_keys="image", nearest_interp=False),
            of("SaveImaged", keys="pred", output_dir="@output_dir"),
        ),
        "handlers": [of("StatsHandler", iteration_log=False)],
        "evaluator": of(
            "SupervisedEvaluator",
            device="@device",
            val_data_loader="@dataloader",
            network="@network",
            inferer="@inferer",
            postprocessing="@postprocessing",
            val_handlers="@handlers",
            amp=True,
        ),
        "checkpointloader": of(
            "CheckpointLoader", load_path="$@bundle_root + '/models/model.pt'", load_dict={"model": "@network"}
        ),
        "initialize": ["$monai.utils.set_determinism(seed=123)", "$@checkpointloader(@evaluator)"],
        "run": ["$@evaluator.run()"],
    }


def training(network: Config, loss: Config, reading: list[Config], random: list[Config], after: list[Config]) -> Config:
    """A training config of the zoo's usual ids, with all that writes: a saver, TensorBoard, validation."""
    return {
        "imports": ["$import glob", "$import os", "$import ignite"],
        "bundle_root": ".",
        "ckpt_dir": "$@bundle_root + '/models'",
        "output_dir": "$@bundle_root + '/eval'",
        "dataset_dir": "a_folder_elsewhere",
        "images": "$list(sorted(glob.glob(@dataset_dir + '/imagesTr/*.nii.gz')))",
        "labels": "$list(sorted(glob.glob(@dataset_dir + '/labelsTr/*.nii.gz')))",
        "device": DEVICE,
        "network_def": network,
        "network": "$@network_def.to(@device)",
        "loss": loss,
        "optimizer": of("torch.optim.Adam", params="$@network.parameters()", lr=0.01),
        "train": {
            "deterministic_transforms": reading,
            "random_transforms": random,
            "preprocessing": of("Compose", transforms="$@train#deterministic_transforms + @train#random_transforms"),
            "dataset": of(
                "CacheDataset",
                data="$[{'image': i, 'label': l} for i, l in zip(@images[:-9], @labels[:-9])]",
                transform="@train#preprocessing",
                cache_rate=1.0,
                num_workers=4,
            ),
            "dataloader": of("DataLoader", dataset="@train#dataset", batch_size=2, shuffle=True, num_workers=4),
            "inferer": of("SimpleInferer"),
            "postprocessing": chain(*after),
            "handlers": [
                of("ValidationHandler", validator="@validate#evaluator", epoch_level=True, interval=1),
                of(
                    "StatsHandler",
                    tag_name="loss",
                    output_transform="$monai.handlers.from_engine(['loss'], first=True)",
                ),
                of("TensorBoardStatsHandler", log_dir="@output_dir", tag_name="loss"),
            ],
            "key_metric": {
                "train_dice": of("MeanDice", output_transform="$monai.handlers.from_engine(['pred', 'label'])")
            },
            "trainer": of(
                "SupervisedTrainer",
                max_epochs=1,
                device="@device",
                train_data_loader="@train#dataloader",
                network="@network",
                loss_function="@loss",
                optimizer="@optimizer",
                inferer="@train#inferer",
                postprocessing="@train#postprocessing",
                key_train_metric="@train#key_metric",
                train_handlers="@train#handlers",
                amp=True,
            ),
        },
        "validate": {
            "preprocessing": of("Compose", transforms="%train#deterministic_transforms"),
            "dataset": of(
                "CacheDataset",
                data="$[{'image': i, 'label': l} for i, l in zip(@images[-9:], @labels[-9:])]",
                transform="@validate#preprocessing",
            ),
            "dataloader": of("DataLoader", dataset="@validate#dataset", batch_size=1, num_workers=4),
            "inferer": windows(),
            "postprocessing": "%train#postprocessing",
            "handlers": [
                of("TensorBoardStatsHandler", log_dir="@output_dir", iteration_log=False),
                of("CheckpointSaver", save_dir="@ckpt_dir", save_dict={"model": "@network"}, save_key_metric=True),
            ],
            "key_metric": {
                "val_dice": of("MeanDice", output_transform="$monai.handlers.from_engine(['pred', 'label'])")
            },
            "evaluator": of(
                "SupervisedEvaluator",
                device="@device",
                val_data_loader="@validate#dataloader",
                network="@network",
                inferer="@validate#inferer",
                postprocessing="@validate#postprocessing",
                key_val_metric="@validate#key_metric",
                val_handlers="@validate#handlers",
                amp=True,
            ),
        },
        "initialize": ["$monai.utils.set_determinism(seed=123)"],
        "run": ["$@train#trainer.run()"],
    }


def loading(keys: Any, intensity: Config, spacing: list[float] | None = None) -> list[Config]:
    both = isinstance(keys, list)
    placed = [of("Orientationd", keys=keys, axcodes="RAS")]
    if spacing is not None:
        placed.append(of("Spacingd", keys=keys, pixdim=spacing, mode=["bilinear", "nearest"] if both else "bilinear"))
    return [
        of("LoadImaged", keys=keys),
        of("EnsureChannelFirstd", keys=keys),
        *placed,
        intensity,
        of("EnsureTyped", keys=keys),
    ]


BOTH = ["image", "label"]
SOFTMAX = [of("Activationsd", keys="pred", softmax=True), of("AsDiscreted", keys="pred", argmax=True)]
SIGMOID = [of("Activationsd", keys="pred", sigmoid=True), of("AsDiscreted", keys="pred", threshold=0.5)]


def crops(size: int = 8) -> Config:
    return of(
        "RandCropByPosNegLabeld", keys=BOTH, label_key="label", spatial_size=[size] * 3, num_samples=2, pos=1, neg=1
    )


def onehot(n: int) -> list[Config]:
    return [SOFTMAX[0], of("AsDiscreted", keys=["pred", "label"], argmax=[True, False], to_onehot=n)]


def spleen(folder: Path) -> Path:
    """In the style of ``spleen_ct_segmentation``: flat, softmax, windows, spacing, a fixed window of intensities."""
    scale = of("ScaleIntensityRanged", keys="image", a_min=0, a_max=900, b_min=0, b_max=1, clip=True)
    loss = of("DiceCELoss", include_background=False, to_onehot_y=True, softmax=True, batch=True)
    return bundle(
        folder,
        metadata=metadata(3),
        inference=inference(unet(3), loading("image", scale, [1.5, 1.5, 2.0]), SOFTMAX),
        train=training(unet(3), loss, loading(BOTH, scale, [1.5, 1.5, 2.0]), [crops()], onehot(3)),
    )


def evaluated(folder: Path) -> Path:
    """In the style of a bundle without an inference config: ``evaluate.json`` is laid upon ``train.json``."""
    scale = of("ScaleIntensityd", keys="image")
    train = training(
        unet(3), of("DiceLoss", to_onehot_y=True, softmax=True), loading(BOTH, scale), [crops()], onehot(3)
    )
    evaluate = {
        "validate#postprocessing": chain(*SOFTMAX, of("SaveImaged", keys="pred", output_dir="@output_dir")),
        "validate#handlers": [
            of("CheckpointLoader", load_path="$@ckpt_dir + '/model.pt'", load_dict={"model": "@network"}),
            of("MetricsSaver", save_dir="@output_dir", metrics=["val_dice"], metric_details=["val_dice"]),
        ],
        "run": ["$@validate#evaluator.run()"],
    }
    return bundle(folder, metadata=metadata(3), train=train, evaluate=evaluate)


def brats(folder: Path) -> Path:
    """In the style of ``brats_mri_segmentation``: four channels, three labels that overlap, made of one label map."""
    network = of(
        "SegResNet",
        blocks_down=[1, 1],
        blocks_up=[1],
        init_filters=8,
        in_channels=4,
        out_channels=3,
        dropout_prob=0.2,
    )
    normal = of("NormalizeIntensityd", keys="image", nonzero=True, channel_wise=True)
    load = of("LoadImaged", keys="image", ensure_channel_first=True)
    reading = [
        of("LoadImaged", keys=BOTH),
        of("EnsureChannelFirstd", keys="image"),
        of("ConvertToMultiChannelBasedOnBratsClassesd", keys="label"),
        normal,
    ]
    random = [of("RandSpatialCropd", keys=BOTH, roi_size=[8, 8, 8], random_size=False)]
    loss = of("DiceLoss", smooth_nr=0, smooth_dr=1e-5, squared_pred=True, to_onehot_y=False, sigmoid=True)
    train = training(network, loss, reading, random, SIGMOID)
    train["train"]["dataset"] = of("Dataset", data="@train_datalist", transform="@train#preprocessing")
    train["train_datalist"] = "$monai.data.load_decathlon_datalist(@dataset_dir, data_list_key='training')"
    return bundle(folder, metadata=metadata(3), inference=inference(network, [load, normal], SIGMOID), train=train)


def prostate(folder: Path) -> Path:
    """In the style of ``prostate_mri_anatomy``: argmax without an activation, a dataset that caches into the bundle."""
    network = {**unet(3), "num_res_units": 1, "act": "prelu", "dropout": 0.15}
    intensity = of("ScaleIntensityd", keys="image", minv=0, maxv=1)
    after = [of("AsDiscreted", keys="pred", argmax=True), of("KeepLargestConnectedComponentd", keys="pred")]
    loss = of("DiceFocalLoss", to_onehot_y=True, softmax=True, include_background=False)
    random = [of("RandGaussianNoised", keys="image", prob=0.15), crops()]
    train = training(network, loss, loading(BOTH, intensity, [1.0, 1.0, 1.0]), random, onehot(3))
    train["optimizer"] = of("monai.optimizers.Novograd", params="$@network.parameters()", lr=0.001, amsgrad=True)
    train["train"]["dataset"] = of(
        "PersistentDataset",
        data="$[{'image': i, 'label': l} for i, l in zip(@images[:-9], @labels[:-9])]",
        transform="@train#preprocessing",
        cache_dir="$@bundle_root + '/cache'",
    )
    return bundle(
        folder,
        metadata=metadata(3),
        inference=inference(network, loading("image", intensity, [1.0, 1.0, 1.0]), after),
        train=train,
    )


def btcv(folder: Path) -> Path:
    """In the style of ``swin_unetr_btcv_segmentation``: 14 classes, a transformer."""
    network = of(
        "SwinUNETR",
        in_channels=1,
        out_channels=14,
        feature_size=12,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        norm_name=["group", {"num_groups": 4}],  # windows of 32 leave one voxel at the bottom
    )
    scale = of("ScaleIntensityRanged", keys="image", a_min=-175, a_max=900, b_min=0.0, b_max=1.0, clip=True)
    loss = of("DiceCELoss", to_onehot_y=True, softmax=True, squared_pred=True, batch=True)
    random = [
        of("SpatialPadd", keys=BOTH, spatial_size=[32, 32, 32]),
        of("RandFlipd", keys=BOTH, spatial_axis=[0], prob=0.1),
        of("RandShiftIntensityd", keys="image", offsets=0.1, prob=0.5),
    ]
    asked = inference(network, loading("image", scale, [1.5, 1.5, 2.0]), SOFTMAX)
    asked["inferer"] = of("SlidingWindowInferer", roi_size=[32, 32, 32], sw_batch_size=2, overlap=0.25)
    train = training(network, loss, loading(BOTH, scale, [1.5, 1.5, 2.0]), random, onehot(14))
    return bundle(folder, metadata=metadata(14), inference=asked, train=train)


def template(folder: Path) -> Path:
    """In the style of the zoo's template: YAML, ids of the author's own, keys by reference, a handler by reference."""
    keys = {
        "image": "$monai.utils.CommonKeys.IMAGE",
        "label": "$monai.utils.CommonKeys.LABEL",
        "pred": "$monai.utils.CommonKeys.PRED",
        "both": ["@image", "@label"],
        "num_classes": 3,
        "bundle_root": ".",
        "ckpt_path": "$@bundle_root + '/models/model.pt'",
        "device": DEVICE,
        "net": {**unet(3), "out_channels": "@num_classes"},
        "network": "$@net.to(@device)",
        "activate": [
            of("Activationsd", keys="@pred", softmax=True),
            of("AsDiscreted", keys="@pred", argmax=True),
        ],
    }
    asked = {
        "imports": ["$import glob", "$import os"],
        **copy.deepcopy(keys),
        "files": "$[{@image: i} for i in glob.glob(os.path.join(@bundle_root, '*.nii'))]",
        "reading": [
            of("LoadImaged", keys="@image"),
            of("EnsureChannelFirstd", keys="@image"),
            of("ScaleIntensityd", keys="@image"),
        ],
        "chain": of("Compose", transforms="$@reading"),
        "test_dataset": of("Dataset", data="@files", transform="@chain"),
        "test_loader": of("ThreadDataLoader", dataset="@test_dataset", batch_size=1, num_workers=0),
        "windows": windows(),
        "after": of("Compose", transforms="$@activate"),
        "engine": of(
            "SupervisedEvaluator",
            device="@device",
            val_data_loader="@test_loader",
            network="@network",
            inferer="@windows",
            postprocessing="@after",
            val_handlers=[of("CheckpointLoader", load_path="@ckpt_path", load_dict={"model": "@network"})],
        ),
        "run": ["$@engine.run()"],
    }
    trained = {
        "imports": ["$import glob", "$import os", "$import datetime"],
        **copy.deepcopy(keys),
        "output_dir": "$datetime.datetime.now().strftime(@bundle_root + '/results_%H%M%S')",
        "num_epochs": 1,
        "workers": 4,
        "pairs": "$[{@image: i, @label: i.replace('img', 'lbl')} for i in sorted(glob.glob('img*.nii.gz'))]",
        "partitions": "$monai.data.partition_dataset(@pairs, (4, 1), shuffle=True, seed=0)",
        "base_transforms": [of("LoadImaged", keys="@both"), of("EnsureChannelFirstd", keys="@both")],
        "train_transforms": [of("RandAxisFlipd", keys="@both", prob=0.5), of("ScaleIntensityd", keys="@image")],
        "train_chain": of("Compose", transforms="$@base_transforms + @train_transforms"),
        "train_dataset": of("Dataset", data="$@partitions[0]", transform="@train_chain"),
        "train_loader": of(
            "ThreadDataLoader", dataset="@train_dataset", batch_size=2, repeats=1, num_workers="@workers"
        ),
        "val_dataset": of("Dataset", data="$@partitions[1]", transform="@train_chain"),
        "lossfn": of("DiceLoss", to_onehot_y=True, softmax=True),
        "optimizer": of("torch.optim.Adam", params="$@network.parameters()", lr=0.01),
        "evaluator": of(
            "SupervisedEvaluator",
            device="@device",
            val_data_loader=of("DataLoader", dataset="@val_dataset"),
            network="@network",
        ),
        "metriclogger": of("MetricLogger", evaluator="@evaluator"),
        "handlers": [
            "@metriclogger",
            of("CheckpointLoader", load_path="@ckpt_path", load_dict={"model": "@network"}),
            of("ValidationHandler", validator="@evaluator", interval=1),
            of("CheckpointSaver", save_dir="@output_dir", save_dict={"model": "@network"}, save_final=True),
            of("LogfileHandler", output_dir="@output_dir"),
        ],
        "trainer": of(
            "SupervisedTrainer",
            max_epochs="@num_epochs",
            device="@device",
            train_data_loader="@train_loader",
            network="@network",
            loss_function="@lossfn",
            optimizer="@optimizer",
            key_train_metric=None,
            train_handlers="@handlers",
        ),
        "run": ["$@trainer.run()"],
    }
    return bundle(folder, metadata=metadata(3), ending="yaml", inference=asked, train=trained)


STYLES: dict[str, Callable[[Path], Path]] = {
    "spleen": spleen,
    "evaluated": evaluated,
    "brats": brats,
    "prostate": prostate,
    "btcv": btcv,
    "template": template,
}


def bundle(folder: Path, metadata: Config | None = None, ending: str = "json", **configs: Config) -> Path:
    """Write a bundle."""
    (folder / "configs").mkdir(parents=True, exist_ok=True)
    if metadata is not None:
        (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    for name, config in configs.items():
        text = json.dumps(config, indent=4) if ending == "json" else yaml.safe_dump(config, sort_keys=False)
        (folder / "configs" / f"{name}.{ending}").write_text(text)
    return folder


def config_of(bundle: Path, name: str = "inference") -> Config:
    content: Config = json.loads((bundle / "configs" / f"{name}.json").read_text())
    return content


def change(bundle: Path, name: str = "inference", **changes: Any) -> Path:
    """Change top-level ids of a JSON config; None takes one out."""
    config = {**config_of(bundle, name), **changes}
    kept = {key: value for key, value in config.items() if value is not None}
    (bundle / "configs" / f"{name}.json").write_text(json.dumps(kept, indent=4))
    return bundle


def cohort(
    folder: Path,
    n: int = 8,
    size: int = 16,
    channels: int = 1,
    affine: Any = None,
    label_affine: Any = None,
    relabel: Callable[[Any], Any] = lambda label: label,
) -> Path:
    """A cohort of phantoms as a Decathlon ``dataset.json``; several channels are several files a case."""
    affine = np.eye(4) if affine is None else np.asarray(affine, dtype=float)
    cases = []
    for patient in range(n):
        image, label = phantom(size, 0, patient)
        label = relabel(label)
        names = [f"images/case_{patient}_{channel}.nii.gz" for channel in range(channels)]
        for channel, name in enumerate(names):
            write_volume(folder / name, (image * (1 + channel)).astype(np.float32), affine)
        if label_affine is not None:  # the same place, voxels in another order
            placed = nib.Nifti1Image(label.astype(np.uint8), affine)
            (folder / "labels").mkdir(exist_ok=True)
            nib.save(placed.as_reoriented(label_affine), folder / f"labels/case_{patient}.nii.gz")
        else:
            write_volume(folder / f"labels/case_{patient}.nii.gz", label.astype(np.uint8), affine)
        cases.append(
            {
                "image": names if channels > 1 else names[0],
                "label": f"labels/case_{patient}.nii.gz",
                "case_id": f"case_{patient}",
                "patient_id": f"patient_{patient}",
            }
        )
    path = folder / "dataset.json"
    path.write_text(json.dumps({"training": cases}))
    return path
