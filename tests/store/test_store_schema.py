"""The schemas are derived from the records, and the committed page from the schemas."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pyarrow as pa
import pytest

from harness.records import SCHEMA_VERSION, Manifest, RequestRecord
from harness.store.schema import MANIFEST_DOCS, TABLES, parquet_options, schema_of, schema_page

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("table", TABLES)
def test_every_record_field_is_a_column_with_unit_and_doc(table):
    """Columns are the record's fields in order, each with the unit and doc that records.py gives."""
    schema = schema_of(table)
    assert schema.names == [f.name for f in fields(TABLES[table])]
    for f in fields(TABLES[table]):
        assert schema.field(f.name).metadata == {
            b"unit": f.metadata["unit"].encode(),
            b"doc": f.metadata["doc"].encode(),
        }
    assert schema.metadata[b"schema_version"] == str(SCHEMA_VERSION).encode()


@pytest.mark.parametrize(
    ("column", "kind", "nullable"),
    [
        ("seq", pa.int64(), False),
        ("sent_ns", pa.int64(), True),
        ("outcome", pa.string(), False),
        ("error", pa.string(), True),
        ("connection_reused", pa.bool_(), True),
        ("chunk_ns", pa.list_(pa.field("element", pa.int64(), nullable=False)), False),
        ("chunk_tokens", pa.list_(pa.field("element", pa.int64(), nullable=False)), True),
    ],
)
def test_annotations_become_arrow_types(column, kind, nullable):
    """int, str, bool, tuple[int, ...] and `| None` map to the promised Arrow types."""
    field = schema_of("requests").field(column)
    assert (field.type, field.nullable) == (kind, nullable)


def test_floats_are_float64():
    """float maps to float64, `| None` to nullable."""
    assert schema_of("server").field("value") == pa.field("value", pa.float64(), nullable=False)
    assert schema_of("host").field("load1").nullable


def test_every_integer_column_is_stored_as_deltas():
    """int64 and list<int64> columns are delta encoded, strings dictionary encoded."""
    options = parquet_options("requests")
    assert (
        options["column_encoding"]["sent_ns"]
        == options["column_encoding"]["chunk_ns.list.element"]
        == "DELTA_BINARY_PACKED"
    )
    assert "outcome" in options["use_dictionary"]


def test_committed_page_is_current():
    """results/README.md is what schema_page() gives now; make it again with python -m harness.store.schema."""
    assert (ROOT / "results" / "README.md").read_text(encoding="utf-8") == schema_page()


def test_page_describes_every_column_and_manifest_key():
    """Each column, with its doc, and each manifest key stand on the page."""
    page = schema_page()
    for record in TABLES.values():
        for f in fields(record):
            assert f"| `{f.name}` |" in page
            assert f.metadata["doc"] in page
    assert list(MANIFEST_DOCS) == [f.name for f in fields(Manifest)]
    assert all(f"| `{key}` |" in page for key in MANIFEST_DOCS)
    assert "| `sent_ns` | int64 | ns | yes |" in page
    assert len(fields(RequestRecord)) == 41
