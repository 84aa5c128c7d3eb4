//! Pieces of pages: the frame, figures, bars, times, and forms that tell something.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value;

use super::session::Session;

/// A whole page. `at`: the part of the navigation where it stands.
pub(super) fn frame(
    title: &str,
    at: &str,
    session: Option<&Session>,
    standing: &Value,
    body: &Markup,
) -> Markup {
    let stopped = standing["kill_switch"] == Value::Bool(true);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) " · outdial" }
                link rel="stylesheet" href="/page/style.css";
                script src="/page/page.js" defer {}
            }
            body {
                a.skip href="#main" { "To the content" }
                @if let Some(session) = session {
                    header {
                        strong { "outdial" }
                        nav aria-label="Pages" {
                            @for (path, name) in [("/", "Overview"), ("/numbers", "Numbers"), ("/review", "Review"), ("/explain", "Explain")] {
                                a href=(path) aria-current=[(name == at).then_some("page")] {
                                    (name)
                                    @if name == "Review" { @if let Some(n) = standing["review"].as_i64().filter(|n| *n > 0) { " (" (n) ")" } }
                                }
                            }
                        }
                        form action="/jobs" method="get" role="search" {
                            label { span.dim { "Job " } input name="id" required maxlength="128" placeholder="job id" aria-label="Job id"; }
                            " " button { "Show" }
                        }
                        (told("/logout", session, html! { button { "Log out" } }))
                    }
                }
                main id="main" {
                    p.note.bad id="stale" role="status" hidden { "These figures are not current: the worker doesn't answer." }
                    div id="standing" data-live {
                        @if stopped {
                            p.note.bad role="status" { strong { "The kill switch is on." } " Nothing is dialed, in any campaign." }
                        }
                    }
                    h1 { (title) }
                    (body)
                }
                footer {
                    "outdial " (env!("CARGO_PKG_VERSION"))
                    @if session.is_some() { " · times are UTC · " a href="/openapi.json" { "API" } }
                }
            }
        }
    }
}

/// A form that tells something: what stands in it, and the proof that it comes from a page of ours.
pub(super) fn told(action: &str, session: &Session, inner: Markup) -> Markup {
    html! {
        form.one method="post" action=(action) {
            input type="hidden" name="csrf" value=(session.csrf);
            (inner)
        }
    }
}

/// The same behind a disclosure, for what can't be taken back.
pub(super) fn told_twice(action: &str, session: &Session, name: &str, sure: &str) -> Markup {
    html! {
        details {
            summary { (name) }
            p { (sure) }
            (told(action, session, html! { button.danger { (name) } }))
        }
    }
}

pub(super) fn figure(name: &str, value: &str) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}

/// 1234567 as 1,234,567.
pub(super) fn grouped(n: i64) -> String {
    let digits = n.unsigned_abs().to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if n < 0 { format!("-{text}") } else { text }
}

pub(super) fn count(row: &Value, field: &str) -> i64 {
    row[field].as_i64().unwrap_or(0)
}

pub(super) fn text<'a>(row: &'a Value, field: &str) -> &'a str {
    row[field].as_str().unwrap_or("")
}

/// A moment, as far from now as it is; the whole of it for whoever points at it.
pub(super) fn moment(value: &Value, now: DateTime<Utc>) -> Markup {
    let Some(at) = value.as_str().and_then(|text| text.parse::<DateTime<Utc>>().ok()) else {
        return html! { span.dim { "–" } };
    };
    let seconds = (at - now).num_seconds();
    let size = seconds.unsigned_abs();
    let far = match size {
        0..60 => format!("{size} s"),
        60..3_600 => format!("{} min", size / 60),
        3_600..172_800 => format!("{} h", size / 3_600),
        _ => format!("{} days", size / 86_400),
    };
    let far = if seconds <= 0 { format!("{far} ago") } else { format!("in {far}") };
    html! { time datetime=(at.to_rfc3339()) title=(at.format("%Y-%m-%d %H:%M:%S UTC")) { (far) } }
}

/// When it was counted what a page shows. What is only looked up is of now.
pub(super) fn as_of(now: DateTime<Utc>, age: Duration) -> Markup {
    let at = now - TimeDelta::from_std(age).unwrap_or_default();
    html! {
        p.dim id="as-of" data-live {
            "Counted as of " time datetime=(at.to_rfc3339()) { (at.format("%H:%M:%S")) }
        }
    }
}

/// How full a limit is.
pub(super) fn meter(name: &str, used: i64, limit: Option<i64>) -> Markup {
    let Some(limit) = limit.filter(|limit| *limit > 0) else {
        return html! { (grouped(used)) span.dim { " · no limit" } };
    };
    let share = share(used, limit);
    html! {
        (grouped(used)) "/" (grouped(limit))
        svg.meter viewBox="0 0 100 10" preserveAspectRatio="none" role="img" aria-label={ (name) ": " (used) " of " (limit) } {
            rect width="100" height="10" {}
            rect class=(shade(share)) width=(share) height="10" {}
        }
    }
}

/// Of a limit, in percent; what is used may be more than a limit that was lowered.
pub(super) fn share(used: i64, limit: i64) -> i64 {
    (100 * used / limit.max(1)).clamp(0, 100)
}

pub(super) fn shade(percent: i64) -> &'static str {
    match percent {
        100.. => "bad",
        80.. => "warn",
        _ => "good",
    }
}

/// Parts of a whole, side by side, each (class, name, size).
pub(super) fn stack(parts: &[(&str, &str, i64)]) -> Markup {
    let whole: i64 = parts.iter().map(|(_, _, size)| size).sum();
    let said: Vec<String> = parts
        .iter()
        .filter(|(_, _, size)| *size > 0)
        .map(|(_, name, size)| format!("{name} {size}"))
        .collect();
    let width = |size: i64| 1_000.0 * size as f64 / whole as f64;
    let shown = parts.iter().filter(|(_, _, size)| *size > 0).scan(0, |before, (class, _, size)| {
        let from = *before;
        *before += size;
        Some((class, width(from), width(*size)))
    });
    html! {
        svg.stack viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" aria-label=(said.join(", ")) {
            rect width="1000" height="10" {}
            @for (class, x, width) in shown {
                rect class=(class) x=(format!("{x:.1}")) width=(format!("{width:.1}")) height="10" {}
            }
        }
    }
}

pub(super) fn key(parts: &[(&str, &str)]) -> Markup {
    html! {
        ul.key aria-label="Key" {
            @for (class, name) in parts {
                li { svg.key-mark viewBox="0 0 10 10" aria-hidden="true" { rect class=(class) width="10" height="10" {} } (name) }
            }
        }
    }
}

pub(super) fn state(word: &str) -> Markup {
    let class = match word {
        "active" | "done" | "placed" | "ended" | "answered" => "tag good",
        "paused" | "warming" | "resting" | "waiting" | "dialing" | "submitting" => "tag warn",
        "canceled" | "refused" | "expired" | "quarantined" | "review" | "unknown" => "tag bad",
        _ => "tag",
    };
    html! { span class=(class) { (word) } }
}

/// What a record says, field by field, without those that say nothing.
pub(super) fn facts(row: &Value, without: &[&str]) -> Markup {
    let fields = row.as_object().into_iter().flatten();
    let shown = fields.filter(|(name, value)| !value.is_null() && !without.contains(&name.as_str()));
    html! {
        dl.facts {
            @for (name, value) in shown {
                dt { (name.replace('_', " ")) }
                dd { (told_value(value)) }
            }
        }
    }
}

fn told_value(value: &Value) -> Markup {
    match value {
        Value::String(text) => match text.parse::<DateTime<Utc>>() {
            Ok(at) => html! { time datetime=(text) { (at.format("%Y-%m-%d %H:%M:%S")) } },
            Err(_) => html! { (text) },
        },
        Value::Object(fields) if fields.is_empty() => html! { "none" },
        Value::Object(_) => facts(value, &[]),
        Value::Array(items) if items.iter().any(|item| item.is_object()) => {
            html! { @for item in items { (facts(item, &[])) } }
        }
        Value::Array(items) => {
            let words: Vec<String> = items
                .iter()
                .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
                .collect();
            html! { (words.join(", ")) }
        }
        other => html! { (other.to_string()) },
    }
}

/// For what stands still and is ours alone.
pub(super) const STYLE: &str = include_str!("style.css");
pub(super) const SCRIPT: &str = include_str!("page.js");

pub(super) fn nothing() -> Markup {
    PreEscaped(String::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_grouped() {
        let shown: Vec<String> = [0, 7, 999, 1_000, 1_234_567, -1_234].into_iter().map(grouped).collect();
        assert_eq!(shown, ["0", "7", "999", "1,000", "1,234,567", "-1,234"]);
    }

    #[test]
    fn what_others_wrote_stays_text() {
        let row = serde_json::json!({ "phone": "<script>alert(1)</script>", "nested": { "x": "<b>" }, "none": null });
        let page = facts(&row, &[]).into_string();
        assert!(
            page.contains("&lt;script&gt;") && page.contains("&lt;b&gt;") && !page.contains("<script>"),
            "{page}"
        );
        assert!(!page.contains("none"), "{page}");
        let row = serde_json::json!({ "at": "2026-11-29T11:23:13.408903+00:00", "job_id": "2026" });
        let page = facts(&row, &[]).into_string();
        assert!(page.contains(">2026-11-29 11:23:13<") && page.contains("<dd>2026</dd>"), "{page}");
    }

    #[test]
    fn a_page_says_when_it_was_counted() {
        let now: DateTime<Utc> = "2026-11-29T12:00:02Z".parse().unwrap_or_default();
        let said = as_of(now, Duration::from_secs(5)).into_string();
        assert!(said.contains("as of <time") && said.contains(">11:59:57</time>"), "{said}");
    }

    #[test]
    fn bars_are_as_long_as_what_they_show() {
        let half = meter("day", 50, Some(100)).into_string();
        assert!(half.contains("width=\"50\"") && half.contains("aria-label=\"day: 50 of 100\""), "{half}");
        let above = meter("day", 150, Some(100)).into_string();
        assert!(above.contains("class=\"bad\" width=\"100\""), "{above}");
        let parts = stack(&[("done", "done", 1), ("waiting", "waiting", 3)]).into_string();
        assert!(
            parts.contains("x=\"0.0\" width=\"250.0\"") && parts.contains("x=\"250.0\" width=\"750.0\""),
            "{parts}"
        );
    }
}
