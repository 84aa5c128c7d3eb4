//! What was found, and how it is told.

use std::fmt::Write;

use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    Ok,
    /// It runs, but not as well or as safely as it could.
    Warning,
    /// A worker would not run, or dial nothing, or could break a promise.
    Problem,
}

impl Grade {
    fn as_str(self) -> &'static str {
        match self {
            Grade::Ok => "ok",
            Grade::Warning => "warning",
            Grade::Problem => "problem",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub grade: Grade,
    pub subject: String,
    pub what: String,
    /// What to do about it; of everything but what is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

impl Finding {
    pub fn ok(subject: impl Into<String>, what: impl Into<String>) -> Self {
        Self { grade: Grade::Ok, subject: subject.into(), what: what.into(), mend: None }
    }

    pub fn warning(subject: impl Into<String>, what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { grade: Grade::Warning, subject: subject.into(), what: what.into(), mend: Some(mend.into()) }
    }

    pub fn problem(subject: impl Into<String>, what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { grade: Grade::Problem, ..Self::warning(subject, what, mend) }
    }
}

pub fn problems(findings: &[Finding]) -> usize {
    findings.iter().filter(|finding| finding.grade == Grade::Problem).count()
}

/// A line each, and the mend below what isn't well.
pub fn told(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { grade, subject, what, mend } in findings {
        let _ = writeln!(text, "{:<7} {subject}: {}", grade.as_str(), on_one_line(what));
        if let Some(mend) = mend {
            let _ = writeln!(text, "        mend: {}", on_one_line(mend));
        }
    }
    text
}

/// What a server wrote must neither break the line nor steer the terminal.
fn on_one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_finding_is_a_line_and_its_mend() {
        let findings = [
            Finding::ok("schema", "up to date"),
            Finding::warning("clock", "off", "mend NTP"),
            Finding::problem("broker", "away\n\u{1b}[31m", "start it"),
        ];
        assert_eq!(
            told(&findings),
            "ok      schema: up to date\nwarning clock: off\n        mend: mend NTP\n\
             problem broker: away  [31m\n        mend: start it\n"
        );
        assert_eq!(problems(&findings), 1);
    }

    #[test]
    fn programs_read_the_same_words() {
        let json = serde_json::json!([Finding::ok("a", "b"), Finding::problem("c", "d", "e")]);
        let expected = serde_json::json!([
            { "grade": "ok", "subject": "a", "what": "b" },
            { "grade": "problem", "subject": "c", "what": "d", "mend": "e" },
        ]);
        assert_eq!(json, expected);
    }
}
