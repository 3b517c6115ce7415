"""The printed table."""

from cdc_jax import report


def test_the_table_shows_every_column_of_every_method(capsys):
    summary = {key: 10.0 + i for i, key in enumerate(report.COLUMNS) if "test" not in key}
    result = {"summary": summary, "note": "", "skipped": {"count": 0}}
    report.print_table({"coop": result, "cdc": result})
    lines = capsys.readouterr().out.splitlines()
    for title in ("CoOp", "CDC"):
        row = next(line.strip() for line in lines if line.strip().startswith(title))
        assert row.split()[1:] == [f"{value:.1f}" for value in summary.values()]
