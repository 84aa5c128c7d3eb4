//! What reading commands print: a table for people, JSON for programs.

use std::io::{ErrorKind, Write};

use serde::Serialize;

use super::Failure;

/// For commands that read.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Output {
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Writes to standard output. A reader that has gone away (`| head`) is no failure.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::from(error).at("standard output"))
        }
        _ => Ok(()),
    }
}

/// One JSON document, indented.
pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(Failure::new)?;
    print(&format!("{text}\n"))
}

/// A JSON value as a cell of a table: nothing for null, texts without quotes, times to the second.
pub fn cell(value: &serde_json::Value) -> String {
    use serde_json::Value;
    match value {
        Value::Null => String::new(),
        Value::String(text) => match chrono::DateTime::parse_from_rfc3339(text) {
            Ok(time) => time.to_utc().to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
            // What the provider or a publisher wrote must not steer the terminal.
            Err(_) => text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect(),
        },
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

/// Columns as wide as their widest cell, the headings in capitals.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|heading| heading.to_uppercase()).collect()] }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width_of = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width_of).collect();
        let mut text = String::new();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
            text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_cell_is_plain_text() {
        assert_eq!(cell(&json!(null)), "");
        assert_eq!(cell(&json!(["a", "b"])), "a b");
        assert_eq!(cell(&json!("2026-11-23T14:00:00.123456+01:00")), "2026-11-23T13:00:00Z");
        assert_eq!(cell(&json!("red\u{1b}[31m\n")), "red [31m ");
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["name", "n"]);
        table.row(["spring-sale".to_owned(), "1".to_owned()]);
        table.row(["x".to_owned(), "22".to_owned()]);
        assert_eq!(table.render(), "NAME         N\nspring-sale  1\nx            22\n");
    }
}
