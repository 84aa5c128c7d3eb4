//! Text from outside, made fit to be kept: bounded, without control characters, without whole phone numbers.

/// `text` without control characters (a NUL can't be stored in PostgreSQL), at most `bytes_max` bytes long,
/// cut at a character's edge.
pub fn tidy(text: &str, bytes_max: usize) -> String {
    let mut kept = String::with_capacity(text.len().min(bytes_max));
    for c in text.chars() {
        let c = if c.is_control() { ' ' } else { c };
        if kept.len() + c.len_utf8() > bytes_max {
            break;
        }
        kept.push(c);
    }
    kept
}

/// Fewer digits than these ring nobody.
const DIGITS_MIN: usize = 7;

/// `text` with every run of seven or more digits shown by its last two only; after a `+`, as an international number
/// is written, with punctuation among them. Providers quote the callee's number in their errors, and those are read
/// by people who may not see it.
pub fn mask_digits(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c == '+' || c.is_ascii_digit()) {
        masked.push_str(&rest[..start]);
        let length = number_length(&rest[start..]);
        let (number, after) = rest[start..].split_at(length);
        push_masked(&mut masked, number);
        rest = after;
    }
    masked.push_str(rest);
    masked
}

/// How much of `text`, which begins with a digit or a `+`, is one number: up to its last digit.
fn number_length(text: &str) -> usize {
    let international = text.starts_with('+');
    let mut end = 1;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '0'..='9' => end = at + 1,
            _ if international && is_punctuation(c) => {}
            _ => break,
        }
    }
    end
}

/// What may stand among the digits of a number. A control character will be a blank.
fn is_punctuation(c: char) -> bool {
    matches!(c, '.' | '-' | '(' | ')' | '/' | '\u{2010}'..='\u{2015}') || c.is_whitespace() || c.is_control()
}

fn push_masked(masked: &mut String, number: &str) {
    let digits = number.bytes().filter(u8::is_ascii_digit).count();
    let mut hidden = if digits >= DIGITS_MIN { digits - 2 } else { 0 };
    masked.extend(number.chars().map(|c| {
        if hidden > 0 && c.is_ascii_digit() {
            hidden -= 1;
            '*'
        } else {
            c
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tidied_text_is_bounded_and_printable() {
        assert_eq!(tidy("a\0b\nc", 99), "a b c");
        assert_eq!(tidy("ééé", 5), "éé");
        assert_eq!(tidy("", 5), "");
    }

    #[test]
    fn long_runs_of_digits_are_hidden_short_ones_stay() {
        assert_eq!(mask_digits("400 - bad number +14155550123."), "400 - bad number +*********23.");
        assert_eq!(mask_digits("Limit must be between 1 and 100."), "Limit must be between 1 and 100.");
        assert_eq!(mask_digits("1234567"), "*****67");
    }

    #[test]
    fn an_international_number_is_hidden_however_it_is_written() {
        assert_eq!(mask_digits("to +1 (415) 555-0123: busy"), "to +* (***) ***-**23: busy");
        assert_eq!(mask_digits("+44.20.7946.0958"), "+**.**.****.**58");
        assert_eq!(mask_digits("+1\u{1}415\u{a0}555\n0123"), "+*\u{1}***\u{a0}***\n**23");
        // Dates and times are none.
        let date = "at 2026-11-27 09:00:00+01:00, 2 + 2 = 4, C++ 17";
        assert_eq!(mask_digits(date), date);
        assert_eq!(mask_digits("+++12+14155550123+"), "+++12+*********23+");
    }
}
