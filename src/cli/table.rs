//! Tables for people: columns that line up, without lines around them.

use comfy_table::{Table, presets};

/// Rows below what their columns are called.
pub fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = bare();
    table.set_header(header);
    table.add_rows(rows);
    table.trim_fmt()
}

/// Rows that explain themselves.
pub fn columns<const N: usize>(rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = bare();
    table.add_rows(rows);
    table.trim_fmt()
}

fn bare() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table
}
