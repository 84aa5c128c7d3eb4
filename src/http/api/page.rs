//! Pages of a list: how many rows, and where the last page ended.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa::ToSchema;

use super::problem::Problem;
use crate::store::pages;

const LIMIT: u32 = 50;
const LIMIT_MAX: u32 = 200;
/// The longest key is a campaign and a reason.
const CURSOR_CHARS_MAX: usize = 1_000;

/// One page, and the way to the next.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Listed<T> {
    items: Vec<T>,
    /// Null: this was the last page. A page may come out short, or empty, and still have a next one.
    next_cursor: Option<String>,
}

/// The page of a list that was asked for: at most `limit` rows after `cursor`.
pub(super) fn from<K: DeserializeOwned>(
    list: &str,
    limit: Option<u32>,
    cursor: Option<&str>,
) -> Result<pages::From<K>, Problem> {
    let limit = limit.unwrap_or(LIMIT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(Problem::bad(format!("limit must be 1 to {LIMIT_MAX}")));
    }
    let after = cursor.map(|cursor| key_of(list, cursor).ok_or_else(not_a_cursor)).transpose()?;
    Ok(pages::From { after, limit, scanned_max: pages::SCANNED_MAX })
}

pub(super) fn not_a_cursor() -> Problem {
    Problem::missing("there is no such page: cursor must be the next_cursor of the same list")
}

fn key_of<K: DeserializeOwned>(list: &str, cursor: &str) -> Option<K> {
    if cursor.len() > CURSOR_CHARS_MAX {
        return None;
    }
    let (of, key): (String, K) = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
    (of == list).then_some(key)
}

impl<T: DeserializeOwned> Listed<T> {
    /// # Errors
    /// A row that the view shows otherwise than this version knows.
    pub(super) fn of<K: Serialize>(list: &str, page: pages::Page<K>) -> Result<Self, Problem> {
        let rows = page.rows.into_iter().map(serde_json::from_value);
        let items = rows.collect::<Result<_, _>>().map_err(|error| Problem::of_rows(list, &error))?;
        let next = page.next.map(|key| serde_json::to_vec(&(list, key))).transpose();
        let next = next.map_err(|error| Problem::of_rows(list, &error))?;
        Ok(Self { items, next_cursor: next.map(|key| URL_SAFE_NO_PAD.encode(key)) })
    }
}

impl<T> Listed<T> {
    pub(super) fn each(mut self, change: impl FnMut(&mut T)) -> Self {
        self.items.iter_mut().for_each(change);
        self
    }
}
