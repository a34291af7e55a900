"""The pages of the library: complete, true to the signatures, and written to docs/losses.md."""

import json
from pathlib import Path

import pytest

from slim_distill.common.errors import LossError
from slim_distill.losses import GROUPS, LOSSES
from slim_distill.losses.describe import describe, describe_all, main, page_text, to_json, to_markdown, to_text

DOCS = Path(__file__).resolve().parents[2] / "docs" / "losses.md"


def test_groups_name_every_loss_once():
    named = [name for names in GROUPS.values() for name in names]
    assert sorted(named) == sorted(LOSSES)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_page_is_complete_and_describes_exactly_the_arguments(name):
    page = describe(name)
    for heading in ("Formula", "Attaches", "Shapes", "Reduction", "Gradient", "Minimum", "Source", "Differences"):
        assert len(page.sections[heading].split()) >= 2, heading
    assert "L = " in page.sections["Formula"] or "L =\n" in page.sections["Formula"]
    assert page.summary.endswith(".")
    for argument in page.arguments:
        assert len(argument.text) >= 2, f"{argument.name} is not described"
    documented = LOSSES[name].__doc__.partition("    Args:\n")[2].partition("\n    Reduction:")[0]
    keys = [
        line.split(":")[0].strip() for line in documented.splitlines() if line.startswith(" " * 8 + line.strip()[:1])
    ]
    assert [key for key in keys if key.isidentifier()] == [argument.name for argument in page.arguments]


def test_documentation_is_up_to_date():
    """Else: python -m slim_distill.losses.describe --write docs/losses.md"""
    assert DOCS.read_text(encoding="utf-8") == to_markdown(describe_all())


def test_text_has_a_line_for_each_loss_and_json_every_page():
    pages = describe_all()
    assert [line.split()[0] for line in to_text(pages).splitlines()] == [page.name for page in pages]
    assert set(LOSSES) == {page.name for page in pages}
    assert [page["name"] for page in json.loads(to_json(pages))] == [page.name for page in pages]
    assert json.loads(to_json(pages))[0]["arguments"][0]["default"] == 4.0


def test_page_shows_signature_variables_and_defaults():
    page = describe("mgd")
    assert (page.student, page.teacher, page.owns_layers, page.group) == ("1", "1", True, "features")
    assert describe("yolo_objectness").student == "6"
    assert describe("reviewkd").student == "one or more"
    assert describe("tf_kd").teacher == "0"
    text = page_text(page)
    assert "mgd(student, teacher, *, mask_ratio: float = 0.65, masked: 'positions' | 'channels' = 'positions'" in text
    assert "  mask_ratio (float, default 0.65): share of the map that is hidden" in text
    assert "required" in page_text(describe("wsld"))
    assert "teacher variable" in page_text(describe("kd_bernoulli"))


def test_a_users_own_loss_has_a_page_too():
    def mine(student, teacher, *, power: float = 1.0):
        """My own distance.

        Formula: L = mean(|s - t|^p)
        Args:
            power: p.
        """

    page = describe("mine", {**LOSSES, "mine": mine})
    assert (page.group, page.summary, page.arguments[0].text) == ("custom", "My own distance.", "p.")


def test_unknown_loss_shows_the_nearest():
    with pytest.raises(LossError, match=r"loss 'cwdd' is not known; did you mean 'cwd'\?"):
        describe("cwdd")


def test_command_prints_or_writes(tmp_path, capsys):
    assert main([]) == 0
    assert capsys.readouterr().out == to_text(describe_all())
    assert main(["cwd"]) == 0
    assert capsys.readouterr().out == page_text(describe("cwd"))
    assert main(["--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    assert main(["--write", str(tmp_path / "losses.md")]) == 0
    assert (tmp_path / "losses.md").read_text() == to_markdown(describe_all())
