# Copyright 2026 The monai_mia contributors
# SPDX-License-Identifier: Apache-2.0
"""The summary for whoever decides, the model card, the schema of the report, and small cells: with known answers."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from test_report import ABOUT, make_table, run

from monai_mia.__main__ import main
from monai_mia.audit.criteria import Criteria
from monai_mia.audit.disclosure.card import write_card
from monai_mia.audit.report import SCHEMA, as_json, check_report, report_schema, write_summary
from monai_mia.audit.verdict import judge
from monai_mia.errors import InputError
from monai_mia.records.identifiers import Identifiers

Content = dict[str, Any]


def content(effect: float, n_patients: int, kind: str = "randomised") -> Content:
    """The content of a report about a table with a known leak, as it is read from its file."""
    half = n_patients // 2
    design = {**ABOUT["design"], "kind": kind, "n_member": half, "n_nonmember": half}
    result = run(make_table(effect, n_patients, scans=1))
    read: Content = json.loads(json.dumps(as_json(result, {**ABOUT, "design": design})))
    return read


@pytest.fixture(scope="module")
def low() -> Content:
    """400 patients and no leak."""
    return content(0.0, 400)


@pytest.fixture(scope="module")
def high() -> Content:
    """400 patients and a strong leak."""
    return content(3.0, 400)


@pytest.fixture(scope="module")
def inconclusive() -> Content:
    """12 patients and no leak."""
    return content(0.0, 12)


def test_too_few_patients_to_be_told_of() -> None:
    """Nothing of them is told, and nothing is concluded."""
    table = make_table(3.0, 38, scans=1)
    told = json.loads(json.dumps(as_json(run(table, min_cell=20), ABOUT)))
    check_report(told)
    assert told["attacks"] == []
    assert told["utility"] == {"members": {}, "nonmembers": {}, "gap": {}}
    assert told["controls"]["shifts"] == told["controls"]["halves"] == []
    assert len(told["withheld"]) == told["disclosure"]["n_attacks"]
    found = judge(told)
    assert (found.level, found.recommendation) == ("inconclusive", "undetermined")
    assert "no number is told of fewer than 20" in found.reasons[0]


def outcomes(report: Content, **options: Any) -> dict[str, str]:
    return {one.name: one.outcome for one in judge(report, Criteria(**options)).statements}


def but(report: Content, **changes: Any) -> Content:
    """A copy with some places (``a__b``, numbers for places in lists) changed."""
    changed = copy.deepcopy(report)
    for place, value in changes.items():
        *way, last = [int(part) if part.isdigit() else part for part in place.split("__")]
        node: Any = changed
        for part in way:
            node = node[part]
        node[last] = value
    return changed


NO_LEAD = {"value": 0.01, "ci": [-0.1, 0.1]}


def significant(report: Content) -> Content:
    """The same, where chance hardly gives the best attack its AUC."""
    return but(report, attacks__0__p_value=0.001)


class TestCriteria:
    """Support, reject, undetermined."""

    def test_no_leak_is_supported(self, low: Content) -> None:
        found = judge(low)
        assert found.level == low["verdict"]["level"] == "low"
        assert found.recommendation == "support"
        assert {one.outcome for one in found.statements} == {"pass"}
        assert found.open == ()

    def test_a_leak_is_rejected(self, high: Content) -> None:
        found = judge(high)
        assert found.level == high["verdict"]["level"] == "high"
        assert found.recommendation == "reject"
        model = {one.name: one.outcome for one in found.statements if one.about == "model"}
        assert model.pop("chance") == "undetermined"
        assert set(model.values()) == {"fail"}
        assert {one.outcome for one in found.statements if one.about != "model"} == {"pass"}

    def test_few_patients_support_nothing_and_reject_nothing(self, inconclusive: Content) -> None:
        found = judge(inconclusive)
        assert found.level == inconclusive["verdict"]["level"] == "inconclusive"
        assert found.recommendation == "undetermined"
        model = {one.name: one.outcome for one in found.statements if one.about == "model"}
        assert model.pop("chance") == "pass"
        assert set(model.values()) == {"undetermined"}

    def test_what_is_not_valid_rejects_nothing(self, high: Content) -> None:
        blind = {**high["attacks"][0], "p_value": 0.01}
        for changed in (
            but(high, design__n_nonmember=9),
            but(high, controls__blind_baseline=blind, controls__attack_minus_blind=NO_LEAD),
            but(high, design__kind="observational", controls__shifts=[{"feature": "size", "p_adjusted": 0.01}]),
        ):
            assert judge(changed).recommendation == "undetermined"
            assert judge(changed).level == "inconclusive"

    @pytest.mark.parametrize(("value", "outcome"), [(0.3, "fail"), (0.06, "undetermined")])
    def test_a_tail_that_the_verdict_counts_counts(self, low: Content, value: float, outcome: str) -> None:
        """However few false alarms it rests on, and whichever attack has it: else a model were high and supported."""
        rates = {**low["attacks"][1]["tpr_at_fpr"], "0.01": {"value": value, "ci": [value / 1.5, value * 1.5]}}
        sharp = but(low, attacks__1__tail_p_value=0.003, attacks__1__tpr_at_fpr=rates)
        assert outcomes(sharp)["rate"] == outcome
        assert outcomes(but(sharp, attacks__1__tail_p_value=0.2))["rate"] == "pass"
        assert outcomes(sharp, tail_significance=0.001)["rate"] == "pass"

    def test_a_weak_adversary_rejects_but_does_not_support(self, low: Content, high: Content) -> None:
        assert judge(low, Criteria(min_shadows=5)).recommendation == "undetermined"
        assert judge(high, Criteria(min_shadows=5)).recommendation == "reject"
        assert judge(low, Criteria(min_shadows=0)).recommendation == "support"

    @pytest.mark.parametrize(
        ("ci", "expected"),
        [([0.5, 0.65], "pass"), ([0.5, 0.651], "undetermined"), ([0.65, 0.8], "undetermined"), ([0.651, 0.8], "fail")],
    )
    def test_the_whole_interval_decides(self, low: Content, ci: list[float], expected: str) -> None:
        changed = but(low, attacks__0__auc_ci=ci)
        assert outcomes(significant(changed))["auc"] == expected
        assert outcomes(changed)["auc"] == ("undetermined" if expected == "fail" else expected), "chance gives as much"
        assert judge(changed).recommendation == ("support" if expected == "pass" else "undetermined")
        assert judge(significant(changed)).recommendation == ("reject" if expected == "fail" else "undetermined")

    @pytest.mark.parametrize(
        ("rates", "expected"),
        [
            ({"0.1": [0.05, 0.4]}, "pass"),
            ({"0.1": [0.05, 0.41]}, "undetermined"),
            ({"0.1": [0.41, 0.6]}, "fail"),
            # 200 non-members: 1 % are two false alarms, which can fail and cannot pass.
            ({"0.1": [0.05, 0.2], "0.05": [0.01, 0.19], "0.01": [0.0, 0.06]}, "pass"),
            ({"0.1": [0.05, 0.2], "0.05": [0.01, 0.21], "0.01": [0.0, 0.03]}, "undetermined"),
            ({"0.1": [0.05, 0.2], "0.05": [0.01, 0.19], "0.01": [0.05, 0.1]}, "fail"),
            ({"0.01": [0.0, 0.03]}, "undetermined"),
            ({"0.01": None}, "undetermined"),
        ],
    )
    def test_rates(self, low: Content, rates: dict[str, list[float] | None], expected: str) -> None:
        found = {fpr: None if ci is None else {"value": sum(ci) / 2, "ci": ci} for fpr, ci in rates.items()}
        changed = but(low, attacks__0__tpr_at_fpr=found)
        assert outcomes(significant(changed))["rate"] == expected
        assert outcomes(changed)["rate"] == ("undetermined" if expected == "fail" else expected)

    @pytest.mark.parametrize(
        ("shown", "ceiling", "accounted", "expected"),
        [
            (0.0, 3.0, None, "pass"),
            (0.0, 1.0, None, "undetermined"),  # the audit could not have shown it
            (1.5, 3.0, None, "fail"),
            (None, None, None, "undetermined"),
            (0.0, 1.0, 1.0, "pass"),  # an accountant bounds it
            (0.0, 1.0, 8.0, "undetermined"),
            (1.2, 3.0, 1.0, "fail"),  # refutes the accountant
        ],
    )
    def test_epsilon(
        self, low: Content, shown: float | None, ceiling: float | None, accounted: float | None, expected: str
    ) -> None:
        bound = None if shown is None else {**low["attacks"][0]["epsilon"], "ceiling": ceiling}
        changed = but(low, attacks__0__epsilon_lower_bound=shown, attacks__0__epsilon=bound)
        changed["attacks"][1:] = [
            {**row, "epsilon_lower_bound": shown, "epsilon": bound} for row in changed["attacks"][1:]
        ]
        if accounted is not None:
            changed["target"]["privacy"] = {
                "epsilon": accounted,
                "delta": 1e-5,
                "unit": "patient",
                "secure_noise": True,
            }
        assert outcomes(significant(changed))["epsilon"] == expected
        assert outcomes(changed)["epsilon"] == ("undetermined" if expected == "fail" else expected)

    def test_images_that_tell(self, low: Content) -> None:
        told = but(low, controls__blind_baseline={**low["attacks"][0], "p_value": 0.01})
        told = but(told, controls__attack_minus_blind=NO_LEAD)
        led = but(told, controls__attack_minus_blind={"value": 0.2, "ci": [0.11, 0.3]})
        assert outcomes(told)["blind"] == "fail"
        assert outcomes(led)["blind"] == "pass"
        assert outcomes(but(led, design__kind="observational"))["blind"] == "fail"
        assert outcomes(but(low, design__kind="observational"))["blind"] == "undetermined"  # nobody looked
        assert outcomes(told, significance=0.005)["blind"] == "pass"

    def test_a_sharper_attack_than_the_best_counts(self, low: Content) -> None:
        """By its AUC an attack may be no better than others, and find a few patients almost surely."""
        assert outcomes(low)["rate"] == "pass"
        for value, ci, tail, outcome in (
            (0.7, [0.6, 0.8], 0.001, "fail"),
            (0.7, [0.6, 0.8], 0.2, "undetermined"),
            (0.22, [0.15, 0.3], 0.2, "undetermined"),
            (0.15, [0.1, 0.2], 0.2, "pass"),
        ):
            changed = copy.deepcopy(low)
            for attack in changed["attacks"]:
                attack["tpr_at_fpr"]["0.05"] = {"value": 0.05, "ci": [0.01, 0.1]}
            changed["attacks"][3] |= {"tail_p_value": tail}
            changed["attacks"][3]["tpr_at_fpr"]["0.05"] = {"value": value, "ci": ci}
            assert outcomes(changed)["rate"] == outcome

    def test_claims_that_could_not_have_been_made_prove_nothing(self, low: Content) -> None:
        assert outcomes(but(low, claims__fewest=2))["claims"] == "pass"
        assert outcomes(but(low, claims__fewest=40))["claims"] == "pass"
        assert outcomes(but(low, claims__fewest=41))["claims"] == "undetermined"
        claimed = but(low, claims__fewest=41, claims__tpr=0.3, claims__tpr_ci=[0.25, 0.35])
        assert outcomes(significant(claimed))["claims"] == "fail"
        assert outcomes(claimed)["claims"] == "undetermined"

    def test_thresholds_are_the_users(self, low: Content) -> None:
        for options, name in (
            ({"min_patients": 201}, "patients"),
            ({"max_detectable": 0.501}, "detectable"),
            ({"min_shadows": 9}, "shadows"),
        ):
            assert outcomes(low, **options) == {**outcomes(low), name: "fail"}
        assert outcomes(low, max_auc=0.51)["auc"] == "undetermined"
        assert outcomes(low, max_lift=1)["rate"] == "undetermined"
        assert outcomes(low, max_claimed=0.001)["claims"] == "undetermined"
        assert outcomes(low, max_epsilon=9)["epsilon"] == "undetermined"

    @pytest.mark.parametrize(
        "option",
        [
            {"high_auc": 0.5},
            {"max_auc": 0.5}, {"max_auc": 1.0}, {"max_detectable": 0.4}, {"max_lift": 0.5}, {"max_claimed": 0.0},
            {"significance": 1.0}, {"min_patients": 0}, {"min_shadows": -1}, {"max_epsilon": -1.0},
        ],
    )  # fmt: skip
    def test_thresholds_must_be_sound(self, option: dict[str, float]) -> None:
        with pytest.raises(InputError, match=f"{next(iter(option))} must be"):
            Criteria(**option)  # type: ignore[arg-type]


def written(report: Content, folder: Path) -> Path:
    """A report folder with the summary of that content."""
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps(report))
    write_summary(report, folder)
    return folder


class Text(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember it."""
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Remember it."""
        self.words.append(data)


class TestPage:
    """One page, printable, without anything from elsewhere."""

    @pytest.mark.parametrize(
        ("name", "word"), [("low", "support"), ("high", "reject"), ("inconclusive", "undetermined")]
    )
    def test_says_what_the_statements_come_to(
        self, name: str, word: str, tmp_path: Path, request: pytest.FixtureRequest
    ) -> None:
        report = request.getfixturevalue(name)
        folder = written(report, tmp_path / "report")
        page = (folder / "summary.html").read_text()
        text = " ".join(" ".join(Text(page).words).split())
        assert f"<strong>{word}</strong>" in page
        for one in judge(report).statements:
            row = f"{one.text} {one.measured} {one.threshold} {one.outcome}"
            assert " ".join(row.split()) in text
        assert hashlib.sha256((folder / "report.json").read_bytes()).hexdigest() in text
        assert report["target"]["checkpoint_sha256"] in text

    def test_prints_alone_on_one_page(self, high: Content, tmp_path: Path) -> None:
        """The longest page, by its length, and in a browser where there is one."""
        blind = {**high["attacks"][0], "p_value": 0.01}
        longest = but(
            high,
            target__bundle="a_long_name_" * 8,
            target__privacy={"epsilon": 8.0, "delta": 1e-5, "unit": "patient", "secure_noise": True},
            controls__blind_baseline=blind,
            attacks__0__name="a long name of an attack " * 4,
        )
        folder = written(longest, tmp_path / "report")
        write_summary(longest, folder, dataclasses.replace(judge(longest), reasons=("word " * 100,) * 6))
        page = (folder / "summary.html").read_text()
        found = Text(page)
        assert "@page { size: A4" in page
        assert {tag for tag, _ in found.tags} & {"img", "link", "script", "iframe", "object"} == set()
        assert not re.search(r"url\(|@import|https?:", page)
        assert not [attrs for _, attrs in found.tags if "src" in attrs or "href" in attrs]
        assert len(" ".join("".join(found.words).split())) < 5000  # style included
        browser = shutil.which("chromium") or shutil.which("google-chrome")
        if browser is not None:
            pdf = tmp_path / "page.pdf"
            command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer"]
            command += [f"--user-data-dir={tmp_path / 'browser'}", f"--print-to-pdf={pdf}"]
            subprocess.run([*command, (folder / "summary.html").as_uri()], check=True, capture_output=True, timeout=300)
            assert len(re.findall(rb"/Type\s*/Page\b", pdf.read_bytes())) == 1

    def test_the_same_content_gives_the_same_bytes(self, low: Content, tmp_path: Path) -> None:
        one, two = written(low, tmp_path / "a"), written(low, tmp_path / "b")
        for name in ("summary.html", "privacy.json", "model_card.md"):
            assert (one / name).read_bytes() == (two / name).read_bytes()

    def test_names_are_escaped(self, low: Content, tmp_path: Path) -> None:
        page = (written(but(low, target__bundle="<b>x"), tmp_path / "report") / "summary.html").read_text()
        assert "&lt;b&gt;x" in page
        assert "<b>x" not in page


@pytest.fixture
def output(high: Content, tmp_path: Path) -> Path:
    """The folder of a study, as far as a card is concerned."""
    written(high, tmp_path / "out/report")
    Identifiers({"patient id": frozenset({"PATIENT-0001"})}).write(tmp_path / "out/private/identifiers.json")
    return tmp_path / "out"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle to be released."""
    root = tmp_path / "bundle"
    for name, text in (
        ("configs/metadata.json", '{"version": "1.2.3", "name": "Somé bundle", "network_data_format": {}}'),
        ("docs/README.md", "# Some bundle\n\nWords.\n\n## Licence\n\nNone.\n"),
        ("models/model.pt", "weights"),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


class TestCard:
    """The section of a model card."""

    def test_says_what_the_report_says(self, output: Path, high: Content) -> None:
        privacy = json.loads((output / "report/privacy.json").read_text())
        assert privacy["verdict"] == "high"
        assert privacy["recommendation"] == "reject"
        assert privacy["best_attack"]["auc"] == high["attacks"][0]["auc"]
        assert privacy["audited_epsilon"] == max(row["epsilon_lower_bound"] for row in high["attacks"])
        assert privacy["accounted_epsilon"] is None
        assert privacy["report_sha256"] == hashlib.sha256((output / "report/report.json").read_bytes()).hexdigest()
        text = (output / "report/model_card.md").read_text()
        assert f"| its AUC (0.5: chance) | {high['attacks'][0]['auc']:.3f} [" in text
        assert "| verdict | **high** |" in text

    def test_prints(self, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
        main(["card", "--output", str(output)])
        printed = capsys.readouterr().out
        head, section = printed.split("\n\n## Privacy")
        assert json.loads(head)["privacy"]["verdict"] == "high"
        assert "| verdict | **high** |" in section

    def test_a_bundle_is_changed_only_if_asked(
        self, output: Path, bundle: Path, hashes: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = hashes(bundle)
        main(["card", "--output", str(output), "--bundle", str(bundle)])
        assert "with --write" in capsys.readouterr().out
        assert hashes(bundle) == before
        main(["card", "--output", str(output), "--bundle", str(bundle), "--write"])
        after = hashes(bundle)
        assert {name for name in after if after[name] != before.get(name)} == {
            "configs/metadata.json",
            "docs/README.md",
        }
        metadata = json.loads((bundle / "configs/metadata.json").read_text(encoding="utf-8"))
        assert list(metadata) == ["version", "name", "network_data_format", "privacy"]
        assert metadata["name"] == "Somé bundle"
        assert metadata["privacy"] == json.loads((output / "report/privacy.json").read_text())
        readme = (bundle / "docs/README.md").read_text()
        assert readme.startswith("# Some bundle\n\nWords.\n\n## Licence\n\nNone.\n\n")
        assert readme.count("## Privacy") == 1
        write_card(output, bundle)  # again: the section is replaced
        assert hashes(bundle) == after

    def test_what_is_refused(self, output: Path, bundle: Path, tmp_path: Path) -> None:
        with pytest.raises(SystemExit, match="--bundle DIR"):
            main(["card", "--output", str(output), "--write"])
        with pytest.raises(InputError, match=r"configs/metadata\.json"):
            write_card(output, tmp_path)
        with pytest.raises(InputError, match=r"privacy\.json, model_card\.md"):
            write_card(tmp_path, bundle)
        readme = bundle / "docs/README.md"
        readme.write_text(readme.read_text() + "\n## Privacy\n\nOur own.\n")
        with pytest.raises(InputError, match="no section 'Privacy' of its own"):
            write_card(output, bundle)

    def test_other_weights_are_refused(self, output: Path, bundle: Path, high: Content) -> None:
        released = but(high, design__kind="observational")
        write_summary(released, output / "report")
        with pytest.raises(InputError, match="the weights that were audited"):
            write_card(output, bundle)
        digest = hashlib.sha256(b"weights").hexdigest()
        write_summary(but(released, target__checkpoint_sha256=digest), output / "report")
        assert len(write_card(output, bundle)) == 2

    def test_a_leak_is_refused(self, output: Path, bundle: Path) -> None:
        with (output / "report/model_card.md").open("a") as stream:
            stream.write("PATIENT-0001")
        with pytest.raises(InputError, match=r"got one in model_card\.md") as refused:
            write_card(output, bundle)
        assert "PATIENT" not in str(refused.value)


def places(schema: dict[str, Any], way: str = "$") -> list[tuple[str, dict[str, Any]]]:
    """Every property of a schema."""
    found = []
    for name, part in schema.get("properties", {}).items():
        found += [(f"{way}.{name}", part), *places(part, f"{way}.{name}")]
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            found += places(schema[key], f"{way}[]")
    for part in schema.get("anyOf", []):
        found += places(part, way)
    for name, part in schema.get("$defs", {}).items():
        found += places(part, name)
    return found


class TestSchema:
    """The published schema."""

    def test_is_a_schema_that_describes_every_key(self) -> None:
        schema = report_schema()
        Draft202012Validator.check_schema(schema)
        assert len(places(schema)) > 100
        assert [way for way, part in places(schema) if not part.get("description")] == []
        assert re.match(schema["properties"]["schema"]["pattern"], SCHEMA)

    def test_reports_follow_it(self, low: Content, high: Content, inconclusive: Content) -> None:
        for report in (low, high, inconclusive):
            check_report(report)
            assert set(report) <= set(report_schema()["properties"])

    @pytest.mark.parametrize(
        ("change", "place"),
        [
            ({"attacks__0__auc": 1.2}, r"\$\.attacks\[0\]\.auc"),
            ({"attacks__0__auc_ci": [0.5]}, r"\$\.attacks\[0\]\.auc_ci"),
            ({"attacks": {}}, r"\$\.attacks"),
            ({"verdict__level": "fine"}, r"\$\.verdict\.level"),
            ({"exposure__patients": ["p1"]}, r"\$\.exposure"),
            ({"settings__train_overrides__dataset_dir": "/srv"}, r"\$\.settings"),
            ({"individuals": {"patients": ["p1"]}}, r"\$\.individuals"),
            ({"attacks__0__tail_p_value": 2}, r"\$\.attacks\[0\]\.tail_p_value"),
            ({"schema": "3.0"}, r"\$\.schema"),
        ],
    )
    def test_departures_are_named(self, low: Content, change: Content, place: str) -> None:
        with pytest.raises(InputError, match=f"first at {place}"):
            check_report(but(low, **change))

    def test_keys_may_be_added_at_the_top(self, low: Content) -> None:
        check_report({**low, "further": {"anything": 1}})
        missing = {key: value for key, value in low.items() if key != "verdict"}
        with pytest.raises(InputError, match="'verdict' is a required property"):
            check_report(missing)
