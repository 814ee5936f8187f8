"""`summary`: what it says, in how many columns, and of which models."""

from __future__ import annotations

import copy
from html.parser import HTMLParser

import torch
from torch import nn

import qact


def deep() -> nn.Sequential:
    inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Sigmoid())
    for _ in range(3):
        inner = nn.ModuleDict({"a_name_of_some_length": inner})
    return inner


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = deep()

    def forward(self, x):
        body = self.body
        for _ in range(3):
            body = body["a_name_of_some_length"]
        return body(x)


def test_lines_fit_into_eighty_columns_and_no_name_is_cut():
    new = qact.convert(Deep(), example_inputs=torch.randn(3, 4))
    text = str(qact.summary(new))
    assert max(map(len, text.splitlines())) <= 80
    for row in qact.summary(new).rows:
        assert row.name in text


def test_rows_say_what_was_and_what_is():
    new = qact.convert(Deep(), example_inputs=torch.randn(3, 4))
    (done,), (left,) = qact.summary(new).converted, qact.summary(new).left
    assert (done.was, done.now, done.note) == ("ReLU", "QAct", "4 channels at dim -1")
    assert (left.was, left.now) == ("Sigmoid", None)
    assert qact.summary(copy.deepcopy(new)) == qact.summary(new)


def test_a_model_that_was_never_converted():
    model = nn.Sequential(qact.QAct(3), nn.ReLU(), qact.QAct.paper(3), nn.Linear(3, 3))
    found = qact.summary(model)
    assert [(row.name, row.now) for row in found.converted] == [("0", "QAct"), ("2", "PaperQAct")]
    assert [(row.name, row.note) for row in found.left] == [("1", "not asked for")]
    assert str(qact.summary(nn.Linear(2, 2))) == "Linear: 0 converted, 0 left"


def test_it_describes_the_model_as_it_is_now():
    new = qact.convert(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), example_inputs=torch.randn(3, 4))
    new[1] = nn.ReLU()
    assert not qact.summary(new).converted
    lazy = qact.convert(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    assert qact.summary(lazy).converted[0].note == "lazy at dim -1"
    lazy(torch.randn(3, 4))
    assert qact.summary(lazy).converted[0].note == "4 channels at dim -1"


def test_a_second_conversion_remembers_the_first():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.GELU())
    x = torch.randn(3, 4)
    qact.convert_(model, where=nn.ReLU, example_inputs=x)
    qact.convert_(model, "golu", where=nn.GELU, example_inputs=x)
    rows = {row.name: (row.was, row.now) for row in qact.summary(model).rows}
    assert rows == {"1": ("ReLU", "QAct"), "2": ("GELU", "GoLU")}


class _Cells(HTMLParser):
    """The texts of the cells of each row, as a browser reads them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: list[str] = []
        self.inside = False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        self.inside = tag in ("td", "th")

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data


def test_in_notebooks_it_is_a_table_with_every_text_escaped():
    sneaky = type("<script>alert(1)</script>", (nn.ReLU,), {})
    model = nn.ModuleDict({"<img src=x>": sneaky(), "b": nn.Sigmoid()})
    found = qact.summary(qact.convert(nn.Sequential(model["<img src=x>"], nn.Sigmoid()), "golu"))
    row = type(found.rows[0])("<img src=x>", "<script>alert(1)</script>", "GoLU", "")
    found = type(found)("<b>", (row, *found.left))
    assert found._repr_html_().startswith('<div style="overflow-x:auto">')  # a phone
    html = _Cells(found._repr_html_())
    assert not {"script", "img", "b"} & set(html.tags)
    assert html.rows[:2] == [["converted", "was", "is", ""], [row.name, row.was, "GoLU", ""]]
    assert html.rows[2][0] == "left"
    assert [r[0] for r in html.rows[3:]] == [r.name for r in found.left]
    assert "0 converted" in qact.summary(nn.Linear(2, 2))._repr_html_()


def test_a_drift_in_notebooks_has_the_numbers_that_are_printed():
    model = nn.Sequential(nn.Linear(3, 4), qact.QAct(4))
    model(torch.randn(64, 3))
    found = qact.drift(model.eval(), 3 * torch.randn(64, 3))
    html = _Cells(found._repr_html_())
    assert html.rows[0] == ["layer", "KS mean", "max", "p", "W1 mean", "max"]
    assert html.rows[1] == str(found).splitlines()[1].split()
    assert "color:" not in found._repr_html_().replace("currentColor", "")  # the page's own
