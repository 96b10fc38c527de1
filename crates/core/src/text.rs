//! Texts that people write and others read: what must not be in them.

/// Whether a reader would not see the character, or would see others in another order or on another line because of it. Not
/// among them: the marks and joiners that scripts and pictures are written with, and control characters, which
/// [`char::is_control`] tells.
///
/// Source: Unicode Standard Annex #9, section 2 (explicit directional embeddings, overrides and isolates), and the Unicode
/// Standard, section 23 (line and paragraph separators, zero width space, invisible operators, tags).
pub const fn is_deceptive(c: char) -> bool {
    matches!(
        c,
        '\u{202a}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
            | '\u{2028}'
            | '\u{2029}'
            | '\u{200b}'
            | '\u{2060}'..='\u{2065}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

/// Whether all of the text is seen as it is, on one line.
pub fn is_plain_line(text: &str) -> bool {
    !text.chars().any(|c| c.is_control() || is_deceptive(c))
}

/// Whether all of the text is seen as it is. Line breaks and tabs are.
pub fn is_plain(text: &str) -> bool {
    !text
        .chars()
        .any(|c| (c.is_control() && c != '\n' && c != '\t') || is_deceptive(c))
}

/// The text with what a terminal would act upon, or a reader not see, written out. Line breaks and tabs stay.
pub fn written_out(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if (c.is_control() && c != '\n' && c != '\t') || is_deceptive(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_turns_text_round_or_hides_it_is_not_plain_and_what_scripts_need_is() {
        for bad in [
            "\u{1b}[31m",
            "\u{9b}31m",
            "\r",
            "a\u{202e}b",
            "a\u{2066}b",
            "a\u{2028}b",
            "a\u{200b}b",
            "a\u{e0041}b",
            "\u{feff}",
        ] {
            assert!(!is_plain(bad), "{bad:?}");
            assert!(!is_plain_line(bad), "{bad:?}");
            assert!(written_out(bad).is_ascii(), "{bad:?}");
        }
        for good in [
            "disk full",
            "می\u{200c}خواهم",
            "👩\u{200d}💻",
            "a\u{200f}b",
            "e\u{301}",
        ] {
            assert!(is_plain(good) && is_plain_line(good), "{good:?}");
            assert_eq!(written_out(good), good);
        }
        assert!(is_plain("a\n\tb") && !is_plain_line("a\nb"));
        assert_eq!(written_out("a\u{1b}[2J\nb"), "a\\u{1b}[2J\nb");
    }
}
