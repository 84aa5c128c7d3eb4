//! What becomes slower with size: jobs a second with much of one thing, beside little of all, in turns; choosing a number
//! among many; and what dashboards ask of many records.

use anyhow::{Context, Result};
use outdial::clock;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::ground::Ground;
use super::report::{Findings, spread};
use super::speed;
use super::stage::{NEVER, Size, Stage};

/// How often each size is measured.
const TURNS: usize = 3;

struct Case {
    name: &'static str,
    size: Size,
}

/// `percent` of the sizes that are asked for: less for a look.
fn cases(percent: u64) -> [Case; 6] {
    let part = |whole: u64| (whole * percent / 100).max(1);
    let some = |whole: u64| usize::try_from(part(whole)).unwrap_or(usize::MAX);
    let small = Size::SMALL;
    [
        Case { name: "numbers", size: Size { numbers: some(10_000), ..small } },
        Case { name: "rules", size: Size { rules: some(5_000), ..small } },
        Case { name: "campaigns", size: Size { campaigns: some(1_000), ..small } },
        Case { name: "waiting over full numbers", size: Size { waiting: part(1_000_000), ..small } },
        Case { name: "suppressions", size: Size { suppressed: part(10_000_000), ..small } },
        Case { name: "past records", size: Size { past: part(10_000_000), ..small } },
    ]
}

pub async fn findings(ground: &Ground, jobs: usize, percent: u64) -> Result<Findings> {
    let mut found = Findings::default();
    for Case { name, size } in cases(percent) {
        let small = Stage::new(ground, "small", Size::SMALL, NEVER, false, &[]).await?;
        let large = Stage::new(ground, "large", size, NEVER, false, &[]).await?;
        let mut ratios = Vec::new();
        let mut memory = 0;
        for turn in 0..TURNS {
            let one = speed::run(&small, turn * jobs, jobs, 1).await?;
            let other = speed::run(&large, turn * jobs, jobs, 1).await?;
            println!("  {name}: {:.0}/s beside {:.0}/s", other.per_second, one.per_second);
            ratios.push(other.per_second / one.per_second);
            memory = memory.max(other.peak_memory);
        }
        let (median, ..) = spread(ratios);
        let count = count(&size);
        found.at_least(format!("{count} {name}: of the small case's jobs/s, %"), 100.0 * median, 85.0);
        found.at_most(format!("{count} {name}: most memory, MiB"), memory as f64 / 1_048_576.0, 100.0);
        let asked = match () {
            () if size.past > 0 => QUESTIONS,
            () if size.waiting > 0 => &[("waiting: all", "select * from reporting.waiting")],
            () => &[],
        };
        ask(&large.database, &format!("{count} {name}"), asked, &mut found).await?;
    }
    Ok(found)
}

/// What there is much of.
fn count(size: &Size) -> u64 {
    let small = Size::SMALL;
    let of = |many: usize, few: usize| if many == few { 0 } else { many as u64 };
    let suppressed = if size.suppressed == small.suppressed { 0 } else { size.suppressed };
    [
        of(size.numbers, small.numbers),
        of(size.rules, small.rules),
        of(size.campaigns, small.campaigns),
        suppressed,
        size.past,
        size.waiting,
    ]
    .into_iter()
    .sum()
}

/// The usual query of each view, as a dashboard asks it, by a login that is set up as the README says.
const QUESTIONS: &[(&str, &str)] = &[
    ("jobs: one", "select * from reporting.jobs where job_id = 'past-777'"),
    (
        "jobs: the last of a campaign",
        "select * from reporting.jobs where campaign_id = 'past-7' order by received_at desc limit 50",
    ),
    ("calls: of one job", "select * from reporting.calls where job_id = 'past-777'"),
    (
        "calls: an hour's by disposition",
        "select disposition, count(*) from reporting.calls
         where submitted_at between now() - interval '2 hours' and now() - interval '1 hour' group by 1",
    ),
    // With all that the turns before have dialed.
    (
        "calls: this hour's by disposition",
        "select disposition, count(*) from reporting.calls where submitted_at > now() - interval '1 hour' group by 1",
    ),
    (
        "calls: the last of six hours",
        "select * from reporting.calls where submitted_at > now() - interval '6 hours' order by submitted_at desc limit 100",
    ),
    ("campaigns: all", "select * from reporting.campaigns"),
    ("numbers: all", "select * from reporting.numbers"),
    ("waiting: all", "select * from reporting.waiting"),
];

async fn ask(database: &str, of: &str, questions: &[(&str, &str)], found: &mut Findings) -> Result<()> {
    let mut db = PgConnection::connect(database).await?;
    db.execute("set jit = off; set random_page_cost = 1.1").await?;
    if !questions.is_empty() {
        db.execute("analyze").await?;
    }
    for (name, question) in questions {
        let mut took = Vec::new();
        for _ in 0..TURNS {
            let began = clock::monotonic();
            db.execute(AssertSqlSafe((*question).to_owned())).await.with_context(|| (*name).to_owned())?;
            took.push(began.elapsed().as_secs_f64() * 1_000.0);
        }
        let (median, ..) = spread(took);
        found.at_most(format!("{of}: reporting.{name}, ms"), median, 200.0);
    }
    Ok(())
}
