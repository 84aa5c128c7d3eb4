//! Inputs as large as they may come, of the kinds that cost a careless reader time, memory or its stack.

use super::checks;

/// Its name, the check, the input.
type Input = (&'static str, fn(&[u8]), Vec<u8>);

const JOB_BYTES: usize = 64 << 10;
const WEBHOOK_BYTES: usize = 2 << 20;
/// An answer may be of 8 MiB; every status reads it anew.
const ANSWER_BYTES: usize = 1 << 20;
const ROUTING_BYTES: usize = 1 << 20;

type Check = fn(&[u8]);

pub fn inputs() -> Vec<Input> {
    let mut inputs: Vec<Input> = Vec::new();
    let readers: [(Check, usize); 4] = [
        (checks::job, JOB_BYTES),
        (checks::webhook, WEBHOOK_BYTES),
        (checks::answer, ANSWER_BYTES),
        (checks::routing, ROUTING_BYTES),
    ];
    for (check, bytes) in readers {
        for (name, piece) in [
            ("brackets", "["),
            ("objects", "{\"a\":"),
            ("zeroes", "0,"),
            ("backslashes", "\\"),
            ("halves of pairs", "\\ud800"),
            ("digits", "9"),
            ("tags", "<"),
        ] {
            inputs.push((name, check, piece.repeat(bytes / piece.len()).into_bytes()));
        }
        inputs.push(("zeroes in a list", check, filled("{\"calls\":[", "0,", "0]}", bytes)));
        inputs.push(("text", check, filled("{\"call_id\":\"", "é", "\"}", bytes)));
        inputs.push(("lone halves in a text", check, filled("{\"name\":\"", "\\udfff", "\"}", bytes)));
    }
    inputs.push(("many keys", checks::job, numbered("{", "\"k", "\":1,", "\"z\":1}", JOB_BYTES)));
    inputs.push(("long number", checks::phone, filled("+1", "4", "", JOB_BYTES)));
    inputs.push(("punctuation", checks::phone, filled("+1", "(-) ", "4155550123", JOB_BYTES)));
    inputs.push(("marks", checks::phone, "+".repeat(JOB_BYTES).into_bytes()));
    inputs.push(("prompt variables", checks::answer, {
        let head = "{\"calls\":[{\"call_id\":\"call-1\",\"prompt_variables\":{";
        numbered(head, "\"", "\":0,", "\"z\":1}}]}", ANSWER_BYTES)
    }));
    inputs.push(("long variable", checks::answer, {
        let head = "{\"calls\":[{\"call_id\":\"call-1\",\"prompt_variables\":{\"";
        filled(head, "k", "\":1}}]}", ANSWER_BYTES)
    }));
    for (name, piece) in [
        ("dotted key", "a."),
        ("dotted table", "[a."),
        ("rules without end", "[[rule]]\n"),
        ("tables", "[rule.match]\n"),
        ("faults", "=\n"),
        ("quotes", "'"),
        ("inline tables", "a={"),
    ] {
        inputs.push((name, checks::routing, piece.repeat(ROUTING_BYTES / piece.len()).into_bytes()));
    }
    inputs.push(("deep dotted key", checks::routing, filled("", "a.", "a = 1", ROUTING_BYTES)));
    inputs.push(("deep dotted table", checks::routing, filled("[", "a.", "a]", ROUTING_BYTES)));
    inputs.push(("unknown keys", checks::routing, numbered("", "k", "=1\n", "", ROUTING_BYTES)));
    inputs.push(("long unknown key", checks::routing, filled("", "k", "=1", ROUTING_BYTES)));
    inputs.push((
        "numbers",
        checks::routing,
        numbered("", "[[number]]\nnumber=\"+1415555", "\"\n", "", ROUTING_BYTES / 4),
    ));
    inputs.push((
        "the same number",
        checks::routing,
        filled("", "[[number]]\nnumber=\"+14155550123\"\n", "", ROUTING_BYTES / 4),
    ));
    inputs
}

fn filled(head: &str, piece: &str, tail: &str, bytes: usize) -> Vec<u8> {
    let times = (bytes - head.len() - tail.len()) / piece.len();
    format!("{head}{}{tail}", piece.repeat(times)).into_bytes()
}

/// As [`filled`], each piece with a number of its own in its midst.
fn numbered(head: &str, before: &str, after: &str, tail: &str, bytes: usize) -> Vec<u8> {
    let mut text = head.to_owned();
    for n in 0.. {
        let piece = format!("{before}{n:04}{after}");
        if text.len() + piece.len() + tail.len() > bytes {
            break;
        }
        text.push_str(&piece);
    }
    (text + tail).into_bytes()
}
