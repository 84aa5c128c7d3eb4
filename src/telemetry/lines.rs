//! The page of log lines and spans, written from the sources.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::path::Path;

const HEAD: &str = "# Log lines and spans

Written by a test of `src/telemetry/lines.rs`, from the code.

## Spans

A worker begins no trace. It continues that of a message's `traceparent` header, where its publisher records it (`sampled`), and sends spans by
OTLP over HTTP to `telemetry.otlp_endpoint` (`OTEL_EXPORTER_OTLP_ENDPOINT`; keys of a hosted collector in `OTEL_EXPORTER_OTLP_HEADERS`)
in builds with the feature `otlp`, which the release image is. The POST carries the `traceparent` of its own span, or, where nothing is
recorded, the publisher's as it came; events carry the publisher's. At most 4,096 spans wait for the collector: what comes beyond, and requests
that the collector doesn't take, are counted in `outdial_spans_lost_total`, and hold up nothing.

| span | kind | below | from, to | attributes |
|---|---|---|---|---|
| `receive` | consumer | the publisher's | its batch is taken up, written down | `messaging.system`, `messaging.operation.type`, `outdial.job.id`, `outdial.campaign.id` |
| `decide` | internal | the publisher's | a slot is asked for with the caller ID chosen, and given | `outdial.job.id`, `outdial.campaign.id`, `outdial.rule`, `outdial.routing.version`, `outdial.caller_id` (masked), `outdial.slot` |
| `dial` | internal | the publisher's | the slot is near, what became of the call is written down | `outdial.job.id`, `outdial.campaign.id`, `outdial.attempt.id`, `outdial.outcome`, `outdial.call.id` |
| `POST /v2/calls` | client | `dial` | handed to the HTTP client, answered | `http.request.method`, `url.template`, `http.response.status_code`, `outdial.attempt.id` |

A job that is dialed again has `decide`, `dial` and `POST` once for each attempt. Names are never in a span, phone numbers only masked.

## Log lines

One JSON object a line on standard error (`log.format`), with `timestamp`, `level`, `message` (below), `target` and the fields named here. Phone
numbers are masked, names never there.

| level | message | fields |
|---|---|---|
";

/// One call of a macro of `tracing`.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Line {
    level: String,
    message: String,
    fields: Vec<String>,
}

fn sources(folder: &Path, found: &mut Vec<String>) {
    let mut entries: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "sandbox" && name != "tests" {
            sources(&path, found);
        } else if name.ends_with(".rs") && !name.contains("tests") && name != "lines.rs" {
            let text = std::fs::read_to_string(path).unwrap();
            found.push(text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned());
        }
    }
}

/// The arguments between the parentheses that `text` begins in, cut at their commas.
fn arguments(text: &str) -> Vec<String> {
    let (mut depth, mut quoted, mut escaped) = (1, false, false);
    let mut found = vec![String::new()];
    for c in text.chars() {
        match c {
            _ if quoted => (quoted, escaped) = (escaped || c != '"', c == '\\' && !escaped),
            '"' => quoted = true,
            '(' | '{' | '[' => depth += 1,
            ')' | '}' | ']' => depth -= 1,
            ',' if depth == 1 => {
                found.push(String::new());
                continue;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
        found.last_mut().unwrap().push(c);
    }
    found.into_iter().map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

fn line(level: &str, text: &str) -> Line {
    let mut line = Line { level: level.to_owned(), message: String::new(), fields: Vec::new() };
    for part in arguments(text) {
        if let Some(message) = part.strip_prefix('"') {
            line.message = message.strip_suffix('"').unwrap_or(message).replace('|', "\\|");
        } else {
            let field = part.split('=').next().unwrap_or_default().trim();
            line.fields.push(format!("`{}`", field.trim_start_matches(['%', '?'])));
        }
    }
    line
}

/// `OUTDIAL_WRITE_DOCS=1` writes it.
#[test]
fn the_page_of_log_lines_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut texts = Vec::new();
    sources(&root.join("src"), &mut texts);
    let mut lines = Vec::new();
    for level in ["error", "warn", "info", "debug"] {
        let call = format!("tracing::{level}!(");
        let mut of_level: Vec<Line> =
            texts.iter().flat_map(|text| text.split(&call).skip(1)).map(|rest| line(level, rest)).collect();
        of_level.sort();
        lines.extend(of_level);
    }
    lines.dedup();
    assert!(lines.len() > 50, "the lines are found");
    let rows = lines
        .iter()
        .map(|line| format!("| {} | {} | {} |\n", line.level, line.message, line.fields.join(", ")));
    let page = format!("{HEAD}{}", rows.collect::<String>());
    let file = root.join("deploy/docs/telemetry.md");
    if std::env::var_os("OUTDIAL_WRITE_DOCS").is_some() {
        std::fs::write(&file, &page).unwrap();
    }
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(written == page, "OUTDIAL_WRITE_DOCS=1 cargo test --lib the_page_of_log_lines writes it anew");
}

#[test]
fn a_line_is_read_with_its_message_and_fields() {
    let read = line("warn", "error = %fault(a, b), %account, by.ms = 3, \"a, \\\"b\\\"\"); more(");
    assert_eq!(read.fields, ["`error`", "`account`", "`by.ms`"]);
    assert_eq!(read.message, "a, \\\"b\\\"");
}
