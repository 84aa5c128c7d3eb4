//! Rows of a file, as the bodies of messages.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde_json::{Map, Value};

use crate::core::job::{NoField, check_field};

/// A line longer than this is no row.
const LINE_BYTES_MAX: u64 = 1024 * 1024;
const BOM: &[u8] = b"\xef\xbb\xbf";

/// One row, and where it stands.
#[derive(Debug, PartialEq)]
pub struct Row {
    /// From 1, the heading included; in CSV that of an empty line just before it, where there is one.
    pub line: u64,
    /// Bytes of the file read so far.
    pub read: u64,
    /// The body, or why there is none.
    pub body: Result<Vec<u8>, String>,
}

/// Hands rows on; false: nobody wants more.
pub type Hand<'a> = &'a mut dyn FnMut(Row) -> bool;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Ndjson,
    Csv,
}

impl Format {
    pub fn of(file: &Path) -> Option<Self> {
        match file.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "ndjson" | "jsonl" => Some(Self::Ndjson),
            "csv" => Some(Self::Csv),
            _ => None,
        }
    }
}

/// Reads the file to its end. `check`: a heading that no job has is a fault.
///
/// # Errors
/// What makes the whole file unreadable, for people.
pub fn read(file: File, format: Format, check: bool, hand: Hand) -> Result<(), String> {
    match format {
        Format::Ndjson => read_ndjson(BufReader::new(file), hand),
        Format::Csv => read_csv(file, check, hand),
    }
}

/// A row a line, sent as it stands. Empty lines are none.
fn read_ndjson(mut file: impl BufRead, hand: Hand) -> Result<(), String> {
    let (mut line, mut read) = (0, 0);
    loop {
        let mut text = Vec::new();
        let got =
            file.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut text).map_err(|e| e.to_string())?;
        if got == 0 {
            return Ok(());
        }
        (line, read) = (line + 1, read + got as u64);
        if got as u64 == LINE_BYTES_MAX {
            return Err(format!("line {line} is longer than {LINE_BYTES_MAX} bytes; is it NDJSON?"));
        }
        let body = text.strip_prefix(BOM).unwrap_or(&text).trim_ascii();
        if !body.is_empty() && !hand(Row { line, read, body: Ok(body.to_vec()) }) {
            return Ok(());
        }
    }
}

fn read_csv(mut file: impl Read, check: bool, hand: Hand) -> Result<(), String> {
    let mut start = Vec::new();
    file.by_ref().take(BOM.len() as u64).read_to_end(&mut start).map_err(|e| e.to_string())?;
    let skipped = if start == BOM { std::mem::take(&mut start).len() } else { 0 };
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(start.as_slice().chain(file));
    let columns = Column::all(reader.headers().map_err(|e| e.to_string())?, check)?;
    let mut record = csv::StringRecord::new();
    loop {
        let read = reader.read_record(&mut record);
        let body = match read {
            Ok(false) => return Ok(()),
            Ok(true) => body(&columns, &record),
            Err(error) if error.is_io_error() => return Err(error.to_string()),
            Err(error) => Err(match error.kind() {
                csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                    format!("has {len} cells, the heading has {expected_len}")
                }
                csv::ErrorKind::Utf8 { .. } => "is not UTF-8".to_owned(),
                _ => "is not CSV".to_owned(),
            }),
        };
        let line = record.position().map_or(0, csv::Position::line);
        let read = skipped as u64 + reader.position().byte();
        if !hand(Row { line, read, body }) {
            return Ok(());
        }
    }
}

/// What a column is of a job.
#[derive(Debug, PartialEq)]
enum Column {
    Field(String),
    /// `custom_variables.X`, `metadata.X`, `consent.X`
    Part(String, String),
}

const OBJECTS: [&str; 3] = ["custom_variables", "metadata", "consent"];

impl Column {
    fn all(headings: &csv::StringRecord, check: bool) -> Result<Vec<Self>, String> {
        let mut faults = Vec::new();
        let columns: Vec<Self> = headings
            .iter()
            .map(|heading| match heading.split_once('.') {
                Some((object, part)) if OBJECTS.contains(&object) && !part.is_empty() => {
                    Self::Part(object.to_owned(), part.to_owned())
                }
                _ => {
                    match check_field(heading) {
                        Ok(()) => {}
                        Err(NoField { meant: Some(meant) }) => {
                            faults.push(format!("{heading:?} (did you mean {meant}?)"));
                        }
                        Err(NoField { meant: None }) => faults.push(format!("{heading:?}")),
                    }
                    Self::Field(heading.to_owned())
                }
            })
            .collect();
        let twice =
            (1..headings.len()).find(|&i| headings.iter().take(i).any(|h| Some(h) == headings.get(i)));
        if let Some(heading) = twice.and_then(|i| headings.get(i)) {
            return Err(format!("column {heading:?} stands there twice"));
        }
        if check && !faults.is_empty() {
            return Err(format!(
                "no field of a job: column {}; the columns are the job's fields, custom_variables.X and metadata.X",
                faults.join(", ")
            ));
        }
        Ok(columns)
    }
}

/// A job of a record; an empty cell is an absent field.
fn body(columns: &[Column], record: &csv::StringRecord) -> Result<Vec<u8>, String> {
    let mut job = Map::new();
    for (column, cell) in columns.iter().zip(record).filter(|(_, cell)| !cell.is_empty()) {
        match column {
            Column::Field(name) => {
                job.insert(name.clone(), field(name, cell)?);
            }
            Column::Part(object, part) => {
                let entry = job.entry(object.as_str()).or_insert_with(|| Value::Object(Map::new()));
                let Value::Object(parts) = entry else {
                    return Err(format!("column {object} and column {object}.{part} can't both be filled"));
                };
                parts.insert(part.clone(), Value::from(cell));
            }
        }
    }
    serde_json::to_vec(&job).map_err(|e| e.to_string())
}

/// Cells are texts; where a job has a number or an object they are read as such.
fn field(name: &str, cell: &str) -> Result<Value, String> {
    if name == "priority" {
        return Ok(cell.parse::<u64>().map_or_else(|_| Value::from(cell), Value::from));
    }
    if OBJECTS.contains(&name) {
        return serde_json::from_str(cell).map_err(|_| format!("{name} must be JSON in a column of its own"));
    }
    Ok(Value::from(cell))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use serde_json::json;

    use super::*;

    fn rows(read: impl FnOnce(Hand) -> Result<(), String>) -> Result<Vec<Row>, String> {
        let mut rows = Vec::new();
        read(&mut |row| {
            rows.push(row);
            true
        })?;
        Ok(rows)
    }

    fn csv(text: &str) -> Result<Vec<Row>, String> {
        rows(|hand| read_csv(text.as_bytes(), true, hand))
    }

    fn json_of(row: &Row) -> Value {
        serde_json::from_slice(row.body.as_ref().unwrap()).unwrap()
    }

    #[test]
    fn lines_are_sent_as_they_stand() {
        let text = b"\xef\xbb\xbf{\"a\": 1}\r\n\n  not json \n{}";
        let rows = rows(|hand| read_ndjson(&text[..], hand)).unwrap();
        let bodies: Vec<_> = rows.iter().map(|r| (r.line, r.body.as_deref().unwrap())).collect();
        assert_eq!(bodies, [(1, &b"{\"a\": 1}"[..]), (3, b"not json"), (4, b"{}")]);
        assert_eq!(rows[2].read, text.len() as u64);
    }

    #[test]
    fn columns_become_fields_and_empty_cells_none() {
        let text = "\u{feff}campaign_id,phone,name,priority,custom_variables.plan,metadata.crm,brand\n\
                    c,+1 415 555 2671,\"Ada, Countess\",7,gold,42,\nc,+44,Bob,high,,,acme\n";
        let rows = csv(text).unwrap();
        assert_eq!(
            json_of(&rows[0]),
            json!({"campaign_id": "c", "phone": "+1 415 555 2671", "name": "Ada, Countess", "priority": 7,
                   "custom_variables": {"plan": "gold"}, "metadata": {"crm": "42"}})
        );
        assert_eq!(json_of(&rows[1])["priority"], "high");
        assert_eq!((rows[0].line, rows[1].line), (2, 3));
    }

    #[test]
    fn a_wrong_heading_is_told_before_anything_is_sent() {
        let error = csv("campaign_id,form_phone_number\nc,1\n").unwrap_err();
        assert!(error.contains("\"form_phone_number\" (did you mean from_phone_number?)"), "{error}");
        assert!(csv("name,name\na,b\n").unwrap_err().contains("twice"));
    }

    #[test]
    fn a_row_of_another_length_is_bad_and_the_rest_goes_on() {
        let rows = csv("name,brand\na\nb,c\n").unwrap();
        assert_eq!(rows[0].body.as_ref().unwrap_err(), "has 1 cells, the heading has 2");
        assert_eq!(json_of(&rows[1]), json!({"name": "b", "brand": "c"}));
    }

    #[test]
    fn the_format_is_told_by_the_name() {
        assert_eq!(Format::of(Path::new("a.NDJSON")), Some(Format::Ndjson));
        assert_eq!(Format::of(Path::new("a.csv")), Some(Format::Csv));
        assert_eq!(Format::of(Path::new("a.xlsx")), None);
    }
}
