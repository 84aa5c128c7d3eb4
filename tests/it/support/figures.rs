//! What a worker serves at `/metrics`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Outdial;

/// The page itself, with its head.
pub async fn page(worker: &Outdial) -> String {
    let serving = worker.line(Duration::from_secs(10), "serving health and metrics").await;
    let line: serde_json::Value = serde_json::from_str(&serving).unwrap();
    let address = line["http.listen"].as_str().unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    assert!(page.starts_with("HTTP/1.0 200"), "{page}");
    page
}

/// The samples of one look, by name and labels as they stand on the page, without the prefix `outdial_`.
#[derive(Debug)]
pub struct Figures(BTreeMap<String, f64>);

impl Figures {
    /// Looks once.
    pub async fn of(worker: &Outdial) -> Self {
        let page = page(worker).await;
        let sample = |line: &str| {
            let (name, value) = line.strip_prefix("outdial_")?.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().unwrap()))
        };
        Self(page.lines().filter_map(sample).collect())
    }

    /// One sample, such as `answers_total{account="default",answer="2xx"}`; 0 where there is none.
    pub fn get(&self, sample: &str) -> f64 {
        self.0.get(sample).copied().unwrap_or(0.0)
    }

    /// All samples of a name, whatever their labels.
    pub fn sum(&self, name: &str) -> f64 {
        self.labeled(name).map(|(_, value)| value).sum()
    }

    /// The samples of a name by the value of a label.
    pub fn by(&self, name: &str, label: &str) -> BTreeMap<String, f64> {
        let value =
            |labels: &str| labels.split(&format!("{label}=\"")).nth(1)?.split('"').next().map(str::to_owned);
        self.labeled(name).filter_map(|(labels, n)| Some((value(labels)?, n))).collect()
    }

    /// Which of the names have a sample that isn't 0.
    pub fn moved(&self, names: &[&'static str]) -> BTreeSet<&'static str> {
        let moved = |name: &&&str| {
            ["", "_total", "_count"]
                .iter()
                .any(|end| self.labeled(&format!("{name}{end}")).any(|(_, value)| value != 0.0))
        };
        names.iter().filter(moved).copied().collect()
    }

    fn labeled(&self, name: &str) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().filter_map(move |(sample, value)| {
            let labels = sample.strip_prefix(name)?;
            (labels.is_empty() || labels.starts_with('{')).then_some((labels, *value))
        })
    }
}
