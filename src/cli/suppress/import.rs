//! Lists of millions of phones, read line by line and written in batches.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;

use crate::cli::progress::Progress;
use crate::cli::{Failure, output};
use crate::core::ids::{Brand, CampaignId};
use crate::core::phone::E164;
use crate::core::suppression::{Scope, listed_phone};
use crate::store::{Pool, suppressions};

/// Phones in one statement.
const BATCH: usize = 10_000;
/// Statements under way at once.
const AT_ONCE: usize = 3;
/// Bad lines that are told one by one.
const TOLD_MAX: u64 = 20;
/// A file without an end of line is no list.
const CELL_BYTES_MAX: usize = 4_096;

pub(super) struct Terms {
    /// Of lines that name neither brand nor campaign.
    pub(super) scope: Scope,
    pub(super) calling_code: Option<String>,
    pub(super) source: String,
}

/// What the reader hands on.
#[derive(Debug, PartialEq)]
enum Piece {
    /// So many bytes of the file are read with these.
    Phones {
        phones: Vec<(E164, Scope)>,
        read: u64,
    },
    Bad {
        line: u64,
        why: String,
    },
}

#[derive(Debug, Default)]
struct Tally {
    lines: u64,
    new: u64,
    bad: u64,
}

/// Takes all good lines in, tells the bad ones, and fails at the end where there were some: a list must not be kept out
/// for a line of it. A second run changes nothing.
pub(super) async fn run(pool: &Pool, path: &Path, terms: Terms) -> Result<(), Failure> {
    let shown = path.display().to_string();
    let file = File::open(path).map_err(|error| Failure::from(error).at(&shown))?;
    let size = file.metadata().map_or(0, |meta| meta.len());
    let (hand, mut pieces) = mpsc::channel(AT_ONCE);
    let source = terms.source.clone();
    let reading = tokio::task::spawn_blocking(move || {
        read(file, &terms, &mut |piece| hand.blocking_send(piece).is_ok())
    });
    let mut progress = Progress::new(size);
    let mut tally = Tally::default();
    let mut under_way = FuturesUnordered::new();
    let mut open = true;
    let mut failed = None;
    while open || !under_way.is_empty() {
        tokio::select! {
            piece = pieces.recv(), if open && under_way.len() < AT_ONCE => match piece {
                None => open = false,
                Some(Piece::Phones { phones, read }) => {
                    let source = &source;
                    under_way.push(async move {
                        (phones.len() as u64, read, suppressions::add_phones(pool, &phones, source).await)
                    });
                }
                Some(Piece::Bad { line, why }) => {
                    tally.bad += 1;
                    match tally.bad {
                        ..=TOLD_MAX => progress.tell(&format!("{shown}:{line}: {why}")),
                        n if n == TOLD_MAX + 1 => progress.tell("further bad lines are only counted"),
                        _ => {}
                    }
                }
            },
            Some((lines, read, added)) = under_way.next() => match added {
                Ok(new) => {
                    tally.lines += lines;
                    tally.new += new as u64;
                    progress.at(read, || format!("{} phones, {} new, {} bad", tally.lines, tally.new, tally.bad));
                }
                Err(error) => {
                    failed = Some(error);
                    open = false;
                    pieces.close();
                }
            },
        }
    }
    // Ends the reading too, where writing gave up.
    drop(pieces);
    progress.end();
    let Tally { lines, new, bad } = tally;
    output::print(&format!("{shown}: {lines} phones, {new} new, {bad} bad lines\n"))?;
    let again = "mend it and run the command again: what stands on the list already stays there once";
    if let Some(error) = failed {
        return Err(Failure::from(error).at(&shown).mend(again));
    }
    let read = reading.await.map_err(Failure::new)?;
    read.map_err(|fault| Failure::new(fault).at(&shown).mend(again))?;
    match bad {
        0 => Ok(()),
        _ => Err(Failure::new(format!("{bad} lines are no phones; all others were taken in"))
            .at(&shown)
            .mend(again)),
    }
}

/// Which columns say what.
#[derive(Debug, Clone, Copy)]
struct Columns {
    phone: usize,
    brand: Option<usize>,
    campaign: Option<usize>,
}

fn read(file: impl Read, terms: &Terms, hand: &mut dyn FnMut(Piece) -> bool) -> Result<(), String> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(csv::Trim::All)
        .buffer_capacity(1 << 16)
        .from_reader(file);
    let mut columns = None;
    let mut phones = Vec::with_capacity(BATCH);
    let mut record = csv::StringRecord::new();
    loop {
        let got = reader.read_record(&mut record);
        let line = record.position().map_or(0, csv::Position::line);
        let judged = match got {
            Ok(false) => break,
            Err(error) if error.is_io_error() => return Err(error.to_string()),
            Err(_) => Err("is not CSV in UTF-8".to_owned()),
            // Nobody knows which of the lines after it were meant as its cell.
            Ok(true) if record.iter().any(|cell| cell.contains('\n')) => {
                return Err(format!(
                    "line {line}: a quoted cell goes on over the end of the line: close the quote"
                ));
            }
            Ok(true) => {
                if columns.is_none() {
                    let (read, heading) = headings(&record)?;
                    columns = Some(read);
                    if heading {
                        continue;
                    }
                }
                columns.map_or(Err(String::new()), |columns| entry(&record, columns, terms))
            }
        };
        let go_on = match judged {
            Err(why) => hand(Piece::Bad { line, why }),
            Ok(phone) => {
                phones.push(phone);
                phones.len() < BATCH || {
                    let phones = std::mem::replace(&mut phones, Vec::with_capacity(BATCH));
                    hand(Piece::Phones { phones, read: reader.position().byte() })
                }
            }
        };
        if !go_on {
            return Ok(());
        }
    }
    if !phones.is_empty() {
        hand(Piece::Phones { phones, read: reader.position().byte() });
    }
    Ok(())
}

/// The columns by the first line; false: it is no heading but a phone already.
fn headings(record: &csv::StringRecord) -> Result<(Columns, bool), String> {
    let place = |name: &str| {
        record.iter().position(|cell| cell.trim_start_matches('\u{feff}').eq_ignore_ascii_case(name))
    };
    if let Some(phone) = place("phone") {
        return Ok((Columns { phone, brand: place("brand"), campaign: place("campaign_id") }, true));
    }
    let first = record.get(0).unwrap_or_default();
    if first.bytes().any(|b| b.is_ascii_digit()) {
        return Ok((Columns { phone: 0, brand: None, campaign: None }, false));
    }
    Err("the first line is neither a phone nor a heading with a column named phone".to_owned())
}

fn entry(record: &csv::StringRecord, columns: Columns, terms: &Terms) -> Result<(E164, Scope), String> {
    let cell = |at: Option<usize>| at.and_then(|at| record.get(at)).filter(|text| !text.is_empty());
    let text = cell(Some(columns.phone)).unwrap_or_default().trim_start_matches('\u{feff}');
    if text.len() > CELL_BYTES_MAX {
        return Err("is far too long".to_owned());
    }
    let phone =
        listed_phone(text, terms.calling_code.as_deref()).map_err(|fault| format!("the phone {fault}"))?;
    let scope = match (cell(columns.brand), cell(columns.campaign)) {
        (None, None) => terms.scope.clone(),
        (Some(brand), None) => Scope::Brand(Brand::parse(brand).map_err(|fault| format!("brand {fault}"))?),
        (None, Some(id)) => {
            Scope::Campaign(CampaignId::parse(id).map_err(|fault| format!("campaign_id {fault}"))?)
        }
        (Some(_), Some(_)) => return Err("names a brand and a campaign; write two lines".to_owned()),
    };
    Ok((phone, scope))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn pieces(text: &str, calling_code: Option<&str>) -> Result<Vec<Piece>, String> {
        let terms = Terms {
            scope: Scope::Everywhere,
            calling_code: calling_code.map(str::to_owned),
            source: "test".to_owned(),
        };
        let mut all = Vec::new();
        read(text.as_bytes(), &terms, &mut |piece| {
            all.push(piece);
            true
        })?;
        Ok(all)
    }

    fn phones(piece: &Piece) -> Vec<(&str, &Scope)> {
        match piece {
            Piece::Phones { phones, .. } => {
                phones.iter().map(|(phone, scope)| (phone.as_str(), scope)).collect()
            }
            Piece::Bad { .. } => Vec::new(),
        }
    }

    #[test]
    fn a_list_without_heading_is_phones() {
        let read = pieces("\u{feff}4155552671\n\n+44 20 7946 0000,x\n", Some("1")).unwrap();
        assert_eq!(read.len(), 1);
        let all = Scope::Everywhere;
        assert_eq!(phones(&read[0]), [("+14155552671", &all), ("+442079460000", &all)]);
    }

    #[test]
    fn columns_say_for_whom_it_holds_and_bad_lines_are_told() {
        let text = "brand,Phone,campaign_id\nacme,+14155552671,\n,4155552672,\n,+14155552673,spring\na,+14155552674,b\n";
        let read = pieces(text, None).unwrap();
        let bad: Vec<u64> = read
            .iter()
            .filter_map(|piece| match piece {
                Piece::Bad { line, .. } => Some(*line),
                Piece::Phones { .. } => None,
            })
            .collect();
        assert_eq!(bad, [3, 5]);
        let (acme, spring) = (
            Scope::Brand(Brand::parse("acme").unwrap()),
            Scope::Campaign(CampaignId::parse("spring").unwrap()),
        );
        assert_eq!(phones(read.last().unwrap()), [("+14155552671", &acme), ("+14155552673", &spring)]);
    }

    #[test]
    fn a_quote_that_is_not_closed_is_no_end_of_the_list() {
        let read = pieces("phone,name\n+14155552671,Ada\n+14155552672,\"Bud\n+14155552673,Cid\n", None);
        assert!(read.unwrap_err().starts_with("line 3: a quoted cell"));
    }

    #[test]
    fn what_is_no_list_is_told_at_once() {
        assert!(pieces("name,number\nAda,1\n", None).unwrap_err().contains("a column named phone"));
    }
}
