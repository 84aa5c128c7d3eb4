//! The jobs of the demo: good ones and bad ones, as lines of a CSV, each with what must become of it.

use std::collections::BTreeMap;
use std::path::Path;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::plan::{self, Area, CAMPAIGNS, Campaign};
use crate::cli::Failure;

/// The custom variable by which a POST tells whose it is, whatever the worker's own records say.
pub const MARK: &str = "demo_job";

/// As many as the tables of the plan are made for.
pub const JOBS_MAX: usize = 2_000;

/// What must become of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// One call.
    Called,
    /// Nothing: another line is the same job.
    Dropped,
    /// One call or a dead letter, `conflict`: of two lines with one id the first that arrives is the job.
    CalledOrConflict,
    /// A dead letter with this reason.
    Dead(&'static str),
    /// A record in this state, with this reason.
    Recorded(&'static str, &'static str),
}

#[derive(Debug, Clone)]
pub struct Line {
    pub job_id: String,
    pub campaign: &'static Campaign,
    pub area: Area,
    /// E.164.
    pub phone: String,
    /// As the CSV has it.
    pub written: String,
    /// The publisher's own choice of a caller ID.
    pub from: Option<&'static str>,
    pub ends: Ends,
    nameless: bool,
    /// A cell of a column that no job has.
    unknown: &'static str,
    priority: &'static str,
    expired: bool,
}

static SPRING: &Campaign = &CAMPAIGNS[0];
static RENEWALS: &Campaign = &CAMPAIGNS[1];
static WINBACK: &Campaign = &CAMPAIGNS[2];

/// Lines that are not plain good ones, of 2,000.
const AGAIN: usize = 40;
const PINNED: usize = 25;
const INVALID_FIELD: usize = 10;
const OF_EACH_OTHER_KIND: usize = 15;

/// `count` lines (100 to [`JOBS_MAX`]) in an order that is always the same.
pub fn lines(count: usize) -> Vec<Line> {
    let share = |of_2000: usize| (of_2000 * count / 2_000).max(1);
    let mut maker = Maker { lines: Vec::with_capacity(count), taken: BTreeMap::new() };
    for campaign in &CAMPAIGNS {
        for callees in campaign.callees {
            (0..share(callees.of_2000)).for_each(|_| maker.good(campaign, callees.area));
        }
    }
    maker.bad(share(OF_EACH_OTHER_KIND), share(INVALID_FIELD));
    maker.same_callees(share(AGAIN));
    maker.same_ids(share(OF_EACH_OTHER_KIND));
    maker.pinned(share(PINNED));
    while maker.lines.len() < count {
        maker.good(SPRING, Area::States);
    }
    maker.lines.shuffle(&mut StdRng::seed_from_u64(1));
    maker.lines
}

struct Maker {
    lines: Vec<Line>,
    /// Callees used up, by campaign and place.
    taken: BTreeMap<(&'static str, Area), usize>,
}

impl Maker {
    fn good(&mut self, campaign: &'static Campaign, area: Area) {
        let phone = self.callee(campaign, area);
        self.push(campaign, area, phone, Ends::Called);
    }

    fn push(&mut self, campaign: &'static Campaign, area: Area, phone: String, ends: Ends) {
        let n = self.lines.len() + 1;
        let written = if n.is_multiple_of(5) { punctuated(&phone) } else { phone.clone() };
        self.lines.push(Line {
            job_id: format!("demo-{n:04}"),
            campaign,
            area,
            phone,
            written,
            from: None,
            ends,
            nameless: false,
            unknown: "",
            priority: if n.is_multiple_of(50) { "9" } else { "" },
            expired: false,
        });
    }

    /// A number that no other line has.
    fn callee(&mut self, campaign: &'static Campaign, area: Area) -> String {
        let used = self.taken.entry((campaign.id, area)).or_default();
        let callees = campaign.callees.iter().find(|callees| callees.area == area);
        let prefixes = callees.unwrap_or(&campaign.callees[0]).prefixes;
        let prefix = prefixes[*used % prefixes.len()];
        let phone = fictitious(prefix, *used / prefixes.len());
        *used += 1;
        phone
    }

    fn bad(&mut self, each: usize, invalid_fields: usize) {
        for i in 0..each {
            let campaign = &CAMPAIGNS[i % CAMPAIGNS.len()];
            self.good(campaign, campaign.callees[0].area);
            self.change(|line| (line.nameless, line.ends) = (true, Ends::Dead("missing_field")));
            self.good(SPRING, Area::Canada);
            self.change(|line| {
                line.written = line.phone.replacen("+1", "0", 1);
                line.ends = Ends::Dead("invalid_phone");
            });
            self.good(SPRING, Area::States);
            self.change(|line| (line.unknown, line.ends) = ("+12125550103", Ends::Dead("unknown_field")));
            self.good(RENEWALS, Area::Britain);
            self.change(|line| (line.expired, line.ends) = (true, Ends::Recorded("expired", "expired")));
            let refused = Ends::Recorded("refused", "destination_not_allowed");
            self.push(campaign, Area::States, fictitious(campaign.forbidden, i), refused);
        }
        for _ in 0..invalid_fields {
            self.good(WINBACK, Area::Britain);
            self.change(|line| (line.priority, line.ends) = ("12", Ends::Dead("invalid_field")));
        }
    }

    /// The same id with the same content, and with another.
    fn same_ids(&mut self, each: usize) {
        let step = (self.lines.len() / (2 * each + 1)).max(1);
        let good = (0..self.lines.len()).filter(|&at| self.lines[at].ends == Ends::Called).step_by(step);
        let (twins, rivals): (Vec<usize>, Vec<usize>) =
            good.take(2 * each).partition(|at| (at / step).is_multiple_of(2));
        for at in twins {
            let twin = self.lines[at].clone();
            let written =
                if twin.written == twin.phone { punctuated(&twin.phone) } else { twin.phone.clone() };
            self.lines.push(Line { written, ends: Ends::Dropped, ..twin });
        }
        for at in rivals {
            self.lines[at].ends = Ends::CalledOrConflict;
            let rival = self.lines[at].clone();
            let phone = self.callee(rival.campaign, rival.area);
            self.lines.push(Line { written: phone.clone(), phone, ..rival });
        }
    }

    /// The same callee with another id, where rules are sticky.
    fn same_callees(&mut self, count: usize) {
        let sticky = |line: &&Line| line.ends == Ends::Called && line.is_sticky();
        let found: Vec<Line> = self.lines.iter().filter(sticky).take(count).cloned().collect();
        found.into_iter().for_each(|line| self.push(line.campaign, line.area, line.phone, Ends::Called));
    }

    /// Jobs whose publisher chose a number that the rules wouldn't have.
    fn pinned(&mut self, count: usize) {
        for _ in 0..count {
            self.good(SPRING, Area::Canada);
            self.change(|line| line.from = Some("+12125550103"));
        }
    }

    fn change(&mut self, change: impl FnOnce(&mut Line)) {
        if let Some(line) = self.lines.last_mut() {
            change(line);
        }
    }
}

/// The `n`-th number of a range kept for fiction; the plan's own numbers are below these.
fn fictitious(prefix: &str, n: usize) -> String {
    let first = if prefix.starts_with("+1") { 120 } else { 200 };
    format!("{prefix}{:04}", first + n)
}

fn punctuated(phone: &str) -> String {
    let (country, rest) = phone.split_at(if phone.starts_with("+1") { 2 } else { 3 });
    let (head, tail) = rest.split_at(rest.len() - 4);
    format!("{country} {head}-{tail}")
}

impl Line {
    /// The numbers that its callee may see.
    pub fn caller_ids(&self) -> Vec<&'static str> {
        match self.from {
            Some(own) => vec![own],
            None => plan::caller_ids(self.campaign, self.area).collect(),
        }
    }

    /// Whether all calls of its callee must show one number.
    pub fn is_sticky(&self) -> bool {
        self.from.is_none() && self.campaign.sticky.contains(&self.area)
    }
}

/// Writes the CSV that is published.
pub fn write(lines: &[Line], now: DateTime<Utc>, file: &Path) -> Result<(), Failure> {
    let failed = |error: csv::Error| Failure::new(error).at(file.display());
    let mut csv = csv::Writer::from_path(file).map_err(failed)?;
    let mark = format!("custom_variables.{MARK}");
    csv.write_record([
        "job_id",
        "campaign_id",
        "phone",
        "name",
        "priority",
        "from_phone_number",
        "from_number",
        "expires_at",
        &mark,
    ])
    .map_err(failed)?;
    let past = (now - TimeDelta::hours(1)).to_rfc3339_opts(SecondsFormat::Secs, true);
    for line in lines {
        let name = if line.nameless { String::new() } else { format!("Callee of {}", line.job_id) };
        csv.write_record([
            line.job_id.as_str(),
            line.campaign.id,
            line.written.as_str(),
            name.as_str(),
            line.priority,
            line.from.unwrap_or_default(),
            line.unknown,
            if line.expired { past.as_str() } else { "" },
            line.job_id.as_str(),
        ])
        .map_err(failed)?;
    }
    csv.flush().map_err(|error| Failure::from(error).at(file.display()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::collections::BTreeSet;

    use super::*;
    use crate::core::phone::{self, PhoneCheck};

    fn count_of(lines: &[Line], ends: Ends) -> usize {
        lines.iter().filter(|line| line.ends == ends).count()
    }

    #[test]
    fn two_thousand_lines_of_every_kind() {
        let lines = lines(JOBS_MAX);
        assert_eq!(lines.len(), JOBS_MAX);
        for reason in ["missing_field", "invalid_phone", "unknown_field"] {
            assert_eq!(count_of(&lines, Ends::Dead(reason)), 15, "{reason}");
        }
        assert_eq!(count_of(&lines, Ends::Dead("invalid_field")), 10);
        assert_eq!(count_of(&lines, Ends::Dropped), 15);
        assert_eq!(count_of(&lines, Ends::CalledOrConflict), 30);
        assert_eq!(lines.iter().filter(|l| l.from.is_some()).count(), 25);
    }

    #[test]
    fn fewer_lines_keep_every_kind() {
        let lines = lines(100);
        assert_eq!(lines.len(), 100);
        let kinds: BTreeSet<String> = lines.iter().map(|l| format!("{:?}", l.ends)).collect();
        assert_eq!(kinds.len(), 9, "{kinds:?}");
    }

    #[test]
    fn phones_are_numbers_and_ids_are_shared_where_they_must_be() {
        let lines = lines(JOBS_MAX);
        let mut by_id: BTreeMap<&str, Vec<&Line>> = BTreeMap::new();
        for line in &lines {
            let valid = phone::parse(&line.written, PhoneCheck::Valid);
            assert_eq!(valid.is_ok(), line.ends != Ends::Dead("invalid_phone"), "{}", line.written);
            assert!(valid.is_err() || valid.unwrap().number.as_str() == line.phone);
            by_id.entry(&line.job_id).or_default().push(line);
        }
        for (id, lines) in by_id.into_iter().filter(|(_, lines)| lines.len() > 1) {
            let same = lines[0].phone == lines[1].phone;
            let ends: BTreeSet<_> = lines.iter().map(|l| format!("{:?}", l.ends)).collect();
            let wanted = if same { vec!["Called", "Dropped"] } else { vec!["CalledOrConflict"] };
            assert_eq!(
                (lines.len(), ends.into_iter().collect::<Vec<_>>()),
                (2, wanted.into_iter().map(str::to_owned).collect()),
                "{id}"
            );
        }
    }
}
