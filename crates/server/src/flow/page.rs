//! Pages: how many items, and where they begin.

use postern_api::{ErrorCode, page};

use crate::failure::Failure;

/// How many items the page has.
pub(crate) fn limit(asked: Option<u32>) -> Result<u32, Failure> {
    match asked {
        None => Ok(page::DEFAULT_LIMIT),
        Some(limit) if (1..=page::MAX_LIMIT).contains(&limit) => Ok(limit),
        Some(limit) => Err(Failure::new(
            ErrorCode::InvalidLimit,
            format!("`limit` is 1 to {}, not {limit}", page::MAX_LIMIT),
        )),
    }
}

/// The cursor that stands for a key. Opaque: what is in it may change.
pub(crate) fn cursor(key: &impl std::fmt::Display) -> String {
    let pairs: Vec<String> = key
        .to_string()
        .bytes()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    pairs.concat()
}

/// The key that a cursor stands for.
pub(crate) fn key<T: std::str::FromStr>(cursor: Option<&str>) -> Result<Option<T>, Failure> {
    cursor
        .map(|cursor| {
            decode(cursor).and_then(|text| text.parse().ok()).ok_or_else(|| {
                Failure::new(
                    ErrorCode::InvalidCursor,
                    "`cursor` is not one that this list handed out",
                )
            })
        })
        .transpose()
}

fn decode(cursor: &str) -> Option<String> {
    if cursor.len() > 2000 || !cursor.len().is_multiple_of(2) {
        return None;
    }
    let digits: Vec<u8> = cursor
        .chars()
        .map(|digit| u8::try_from(digit.to_digit(16)?).ok())
        .collect::<Option<_>>()?;
    let bytes = digits
        .chunks_exact(2)
        .map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit))
        .collect();
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_gives_back_its_key() {
        assert_eq!(key::<i64>(Some(&cursor(&-42))).unwrap(), Some(-42));
        let text = "/subscriptions/ü".to_owned();
        assert_eq!(key::<String>(Some(&cursor(&text))).unwrap(), Some(text));
        assert_eq!(key::<i64>(None).unwrap(), None);
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        for text in ["", "0", "zz", "ff", "3", "é0", "6162"] {
            assert_eq!(
                key::<i64>(Some(text)).unwrap_err().code(),
                ErrorCode::InvalidCursor,
                "{text}"
            );
        }
    }

    #[test]
    fn pages_are_bounded() {
        assert_eq!(limit(None).unwrap(), 50);
        assert_eq!(limit(Some(200)).unwrap(), 200);
        for asked in [0, 201, u32::MAX] {
            assert_eq!(limit(Some(asked)).unwrap_err().code(), ErrorCode::InvalidLimit);
        }
    }
}
