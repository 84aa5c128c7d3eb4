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

/// `text` with every run of seven or more digits shown by its last two only: providers quote the callee's number
/// in their errors, and those are read by people who may not see it.
pub fn mask_digits(text: &str) -> String {
    const RUN_MIN: usize = 7;
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let run = rest[start..].bytes().take_while(u8::is_ascii_digit).count();
        masked.push_str(&rest[..start]);
        let digits = &rest[start..start + run];
        if run >= RUN_MIN {
            masked.extend(std::iter::repeat_n('*', run - 2));
            masked.push_str(&digits[run - 2..]);
        } else {
            masked.push_str(digits);
        }
        rest = &rest[start + run..];
    }
    masked.push_str(rest);
    masked
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
}
