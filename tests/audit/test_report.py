# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The report: complete, self-contained, the same every time, and silent about who is who."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_mia.attacks import DifficultyCalibration, EverySignal, GlobalLoss, Threshold
from monai_mia.audit.audit import Audit
from monai_mia.audit.criteria import percent
from monai_mia.audit.disclosure import Disclosure
from monai_mia.audit.report import as_json, figures, write_report
from monai_mia.audit.report.figures import NAMES, signal_label, vulnerability_bins
from monai_mia.audit.results import AuditResult
from monai_mia.errors import InputError
from monai_mia.records.table import SignalTable
from monai_mia.statistics import Estimate, Resampling

SIGNALS = ("log_likelihood", "log_odds_foreground", "dice")
ABOUT = {
    "versions": {"monai_mia": "0.1.0", "numpy": "2.4.6"},
    "design": {"kind": "randomised", "seed": 7, "n_shadow": 4, "n_member": 16, "n_nonmember": 16},
    "target": {"checkpoint_sha256": "ab" * 32, "bundle": "some_bundle", "bundle_version": "1.2.3", "epochs": 30},
    "settings": {
        "release": "logits",
        "train_files": ["configs/train.json", "/srv/hospital/overlay.json"],
        "train_overrides": {"dataset_dir": "/srv/hospital", "max_epochs": 3, "cases": ["PATIENT-0001"]},
        "training_config_sha256": "cd" * 32,
    },
    "cost": {"training_s": 351.8, "n_trained": 5, "query_s": 36.9, "wall_s": 7221.0},
}


def make_table(effect, n_patients=32, scans=2, constant=False, seed=0):
    """Five models that fit their members better by ``effect``; scans differ in difficulty."""
    rng = np.random.default_rng(seed)
    member = np.zeros((5, n_patients), dtype=bool)
    for row in member:
        row[rng.permutation(n_patients)[: n_patients // 2]] = True
    member[2], member[4] = ~member[1], ~member[3]
    member = np.repeat(member, scans, axis=1)
    n = n_patients * scans
    values = rng.normal(size=(5, n, len(SIGNALS))) + 2 * rng.normal(size=(n, 1)) + effect * member[:, :, None]
    if constant:
        values[:, :, 2] = 1.0
    return SignalTable(
        model_ids=("target", *(f"shadow_{k:02d}" for k in range(4))),
        case_ids=tuple(f"SCAN-{k:05d}" for k in range(n)),
        patient_ids=tuple(f"PATIENT-{k // scans:04d}" for k in range(n)),
        signals=SIGNALS,
        member=member,
        values=values,
        access={"log_likelihood": "probabilities+label", "log_odds_foreground": "probabilities", "dice": "mask+label"},
    )


def run(table, attacks=None, min_cell=1, **options):
    attacks = attacks or [GlobalLoss(), EverySignal(), DifficultyCalibration("log_likelihood")]
    options |= {"disclosure": Disclosure(min_cell)}
    return Audit(attacks, resampling=Resampling(n_resamples=50), n_permutations=200, **options).run(table)


@pytest.fixture(autouse=True, scope="module")
def coarse_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "_DPI", 40)  # drawing is what takes the time
        yield


@pytest.fixture
def no_pictures(monkeypatch):
    monkeypatch.setattr(figures, "png", lambda figure: b"")


@pytest.fixture(scope="module")
def strong(coarse_pictures):
    table = make_table(1.5)
    result = run(table)
    blind = dataclasses.replace(result.attacks[-1], name="blind baseline", access="none", signals=(), n_shadow=0)
    return dataclasses.replace(result, blind=blind, attack_minus_blind=Estimate(0.1, 0.02, 0.2)), table


@pytest.fixture(scope="module")
def folder(strong, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "report"
    write_report(*strong, folder, ABOUT)
    return folder


class Page(HTMLParser):
    """Collects tags, and refuses one that is closed out of order."""

    VOID = ("meta", "img", "br", "wbr", "hr", "link", "input")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        """Remember the tag."""
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        """Only the innermost one may end."""
        assert self.open.pop() == tag, f"{tag} at line {self.getpos()[0]}"

    def handle_data(self, data):
        """Keep what is read, not the style."""
        if not self.open or self.open[-1] != "style":
            self.text.append(data)

    def all(self, tag):
        """Attributes of every such tag."""
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def words(self):
        """All text, with single spaces."""
        return " ".join("".join(self.text).split())


def page_of(result, table, folder, about=ABOUT):
    write_report(result, table, folder, about)
    return Page((folder / "index.html").read_text(encoding="utf-8"))


def test_files(folder):
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    beside = {"summary.html", "privacy.json", "model_card.md"}
    assert found == {"index.html", "report.json", *beside, *(f"figures/{name}.png" for name in NAMES)}


def test_report_json_has_the_documented_fields(folder):
    content = json.loads((folder / "report.json").read_text(), parse_constant=pytest.fail)
    fields = "schema versions unit design target attacks controls utility exposure verdict cost"
    assert set(fields.split()) <= set(content)
    assert {"kind", "n_member", "n_nonmember", "n_shadow", "seed"} <= set(content["design"])
    assert {"checkpoint_sha256", "bundle", "bundle_version"} <= set(content["target"])
    per_attack = "name access signals n_shadow auc auc_ci tpr_at_fpr advantage balanced_accuracy epsilon_lower_bound"
    for attack in content["attacks"]:
        assert set(per_attack.split()) <= set(attack)
        for rate in attack["tpr_at_fpr"].values():
            assert rate is None or set(rate) == {"value", "ci"}
    assert {"auc", "auc_ci"} <= set(content["controls"]["blind_baseline"])
    assert set(content["utility"]) == {"members", "nonmembers", "gap"}
    assert set(content["verdict"]) == {"level", "reasons"}


def test_page_is_self_contained(folder):
    page = Page((folder / "index.html").read_text(encoding="utf-8"))
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "base"}
    for tag, attrs in page.tags:
        assert not [name for name in attrs if name.startswith("on")], tag
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            if name in attrs:
                assert attrs[name].startswith(("data:image/png;base64,", "#")), attrs[name][:80]
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert "://" not in text
    assert "@import" not in text
    assert "url(" not in text


def test_page_is_well_formed(folder):
    page = Page((folder / "index.html").read_text(encoding="utf-8"))
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == len(page.all("main")) == len(page.all("header")) == 1
    assert all(attrs.get("alt") for attrs in page.all("img"))
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = [attrs["href"][1:] for attrs in page.all("a")] + [a["aria-labelledby"] for a in page.all("section")]
    assert set(targets) <= set(ids)


def test_page_shows_the_pictures_of_the_folder(folder):
    page = Page((folder / "index.html").read_text(encoding="utf-8"))
    inlined = {base64.b64decode(attrs["src"].partition(",")[2]) for attrs in page.all("img")}
    assert inlined == {path.read_bytes() for path in (folder / "figures").glob("*.png")}


def test_nothing_shared_names_a_patient_a_scan_or_a_path(strong, folder):
    _, table = strong
    secrets = {*table.case_ids, *table.patient_ids, "/srv", "hospital", str(folder), str(Path.home()), str(Path.cwd())}
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [secret for secret in secrets if secret.encode() in content], path.name
            assert not [secret for secret in secrets if secret in path.name]


def test_pictures_hold_pixels_only(folder):
    for path in (folder / "figures").glob("*.png"):
        with Image.open(io.BytesIO(path.read_bytes())) as picture:
            picture.load()
            assert set(picture.info) <= {"dpi"}
            assert not getattr(picture, "text", {})
            assert picture.getpixel((0, 0))[:3] == (255, 255, 255)


def test_same_result_gives_the_same_bytes(strong, folder, tmp_path):
    write_report(*strong, tmp_path / "report", ABOUT)
    for path in folder.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "report" / path.relative_to(folder)).read_bytes(), path.name


@pytest.mark.parametrize("level", ["low", "moderate", "high", "inconclusive"])
def test_every_verdict_is_shown_with_its_reasons(strong, tmp_path, no_pictures, monkeypatch, level):
    result, table = strong
    verdict = dataclasses.replace(result.verdict, level=level, reasons=("First <reason>.", "Second reason."))
    monkeypatch.setattr(AuditResult, "judge", lambda self, about=None: verdict)
    page = page_of(result, table, tmp_path)
    (box,) = [attrs for attrs in page.all("div") if attrs.get("class", "").startswith("verdict")]
    assert box["class"] == f"verdict {level}"
    assert "First <reason>. Second reason." in page.words
    assert ("Inconclusive" if level == "inconclusive" else f"Risk found: {level}") in page.words


def test_numbers_on_the_page_are_those_of_the_json(strong, folder):
    words = Page((folder / "index.html").read_text(encoding="utf-8")).words
    content = as_json(strong[0], ABOUT)
    assert "16 patients (32 scans)" in words
    for attack in content["attacks"]:
        assert f"{attack['auc']:.3f} [{attack['auc_ci'][0]:.3f}, {attack['auc_ci'][1]:.3f}]" in words
    assert content["target"]["checkpoint_sha256"] in words
    assert "--seed 7 and --shadows 4" in words
    assert "max_epochs = 3" in words
    assert "dataset_dir = not shown" in words
    assert "2 h 00 min" in words


def test_rates_below_the_resolution_are_not_shown(tmp_path, no_pictures):
    table = make_table(1.0)
    page = page_of(run(table, fprs=(0.2, 0.001), min_cell=2), table, tmp_path)
    assert "TPR at 20 % FPR Advantage" in page.words  # and no column between
    assert "Below resolution: the TPR at 0.1 % FPR is not reported" in page.words
    page = page_of(run(table, fprs=(0.001,)), table, tmp_path)
    assert "TPR at 20 % FPR" not in page.words


def test_a_signal_needs_no_shadow(folder):
    rows = re.findall(
        r'<th scope="row">(.*?)</th>\n<td>.*?</td>\n<td class="n">(.*?)</td>', (folder / "index.html").read_text()
    )
    shadows = {name.replace("<wbr>", ""): count for name, count in rows}
    assert shadows["global loss"] == shadows["threshold: dice"] == "none"
    assert shadows["calibrated: log_likelihood"] == "4"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"effect": 40.0, "constant": True}, "Risk found: high"),
        ({"effect": 1.0, "n_patients": 6}, "there are too few patients"),
        ({"effect": 1.0, "unit": "case"}, "it is about patients and this audit is about cases"),
        ({"effect": 1.0, "attacks": [Threshold("dice")], "utility": ()}, "No utility metric"),
    ],
)
def test_edges(tmp_path, options, words):
    made = {key: options.pop(key) for key in ("effect", "constant", "n_patients") if key in options}
    table = make_table(**made)
    page = page_of(run(table, **options), table, tmp_path, {})
    assert words in page.words
    assert "Not examined" in page.words  # no image statistics, no blind baseline


def test_pictures_of_an_earlier_report_do_not_stay(strong, tmp_path, no_pictures):
    write_report(*strong, tmp_path, ABOUT)
    table = strong[1]
    write_report(run(table, attacks=[Threshold("dice")]), table, tmp_path, ABOUT)
    names = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert names == {"roc", "vulnerability", "score_best_attack", "signal_loss"}


def test_what_is_withheld_is_said(tmp_path):
    """Three attacks with numbers, one curve and no histogram; the names of the others; pages say why."""
    table = make_table(0.7)
    page_of(run(table), table, tmp_path)
    page = page_of(run(table, min_cell=2), table, tmp_path)
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {"roc", "vulnerability"}
    assert "nothing is told of fewer than 2 patients of a side" in page.words
    assert "2 attacks of which no number is told" in page.words
    assert "Between two points lie at least 2 patients of each side." in page.words
    page = page_of(run(table, min_cell=8), table, tmp_path)
    assert not (tmp_path / "figures" / "roc.png").exists()
    assert "No curve is shown" in page.words
    page = page_of(run(table, min_cell=17), table, tmp_path)
    assert "no number is told of fewer than 17 of a side" in page.words
    assert not page.all("img")


def test_a_table_of_another_audit_is_refused(strong, tmp_path):
    with pytest.raises(InputError, match="table must be the one that was audited"):
        write_report(strong[0], make_table(1.0, seed=5), tmp_path, ABOUT)


def test_observational_design_is_named_with_its_caveat(strong, tmp_path, no_pictures):
    about = {**ABOUT, "design": {**ABOUT["design"], "kind": "observational", "n_shadow": 0}}
    words = page_of(*strong, tmp_path, about).words
    assert "The design is observational" in words
    assert "Membership was not decided by a coin" in words
    assert "No shadows." in words
    assert "The recipe, not a released file" not in words


@pytest.mark.parametrize("min_cell", [1, 2])
def test_exposure_adds_up_and_agrees_with_the_tpr(min_cell):
    result = run(make_table(0.5), min_cell=min_cell)
    bins = vulnerability_bins(result.shared)
    assert len(bins) > 2
    assert sum(b.share for b in bins) == pytest.approx(1.0)
    assert sum(b.expected for b in bins) == pytest.approx(1.0)
    shares = as_json(result, ABOUT)["exposure"]["share_exposed_at_fpr"]
    for fpr, value in result.shared.best.tpr_at_fpr.items():
        if value is not None:
            assert shares[f"{fpr:g}"] == pytest.approx(value.value)


@pytest.mark.parametrize(("rate", "words"), [(0.025, "2.5"), (1.0, "100"), (0.001, "0.1"), (1 / 3, "33.3"), (0.0, "0")])
def test_percent(rate, words):
    assert percent(rate) == f"{words}\N{NO-BREAK SPACE}%"


@pytest.mark.parametrize(
    ("signal", "words"),
    [
        ("dice", "Dice of the predicted mask"),
        ("soft_dice_class_2", "Dice of the predicted probabilities, class 2"),
        ("my_signal", "my signal"),
    ],
)
def test_signal_label(signal, words):
    assert signal_label(signal) == words
