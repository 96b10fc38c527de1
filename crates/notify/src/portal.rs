//! The address of a request in the organisation's own portal, from a template that the configuration has.

use std::{fmt, str::FromStr};

use postern_core::id::RequestId;
use postern_outbound::is_loopback;
use serde::Deserialize;
use url::{ParseError, Position, Url};

/// Where the id of a request stands in the template.
const PLACEHOLDER: &str = "{request}";
/// What every id looks like.
const SAMPLE: &str = "req_00000000000000000000000000000000";
/// The longest template, in bytes.
const MAX_LENGTH: usize = 1000;

/// Where people see a request: an absolute URL with `{request}` once in its path, query or fragment. HTTPS, or plain
/// HTTP on loopback. Nothing of ours calls it, so it may be at a private address.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct RequestUrl {
    /// What stands before the id, with scheme and host.
    before: String,
    /// What stands after it.
    after: String,
}

/// Why a text is no template of an address. It stands after the name of the setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRequestUrl {
    /// Nobody's address is as long.
    #[error("is longer than {MAX_LENGTH} characters")]
    Length,
    /// The id would stand nowhere or twice, or something else was meant to be filled in.
    #[error("wants `{PLACEHOLDER}` exactly once, and no other braces")]
    Placeholder,
    /// It would be read as something else in one place or another.
    #[error("has `{0}`, which stands in no URL as it is: write it with `%`")]
    Character(char),
    /// A browser would read it otherwise than it was meant.
    #[error("has a `%` without two hexadecimal digits after it")]
    Percent,
    /// It leads nowhere, or not safely.
    #[error("is neither HTTPS nor on loopback: it begins with `https://` and a host")]
    Scheme,
    /// It is not an address at all.
    #[error("is no URL: {0}")]
    Url(ParseError),
    /// Everybody who is told would get them.
    #[error("holds a user or a password")]
    Credentials,
    /// Requests would choose the host, or be lost on the way.
    #[error("wants `{PLACEHOLDER}` in its path, query or fragment")]
    Place,
    /// Programs that make links of a mail's text take it for the end of a sentence.
    #[error("ends in `{0}`, which a mail program leaves out of the link: write it with `%`")]
    End(char),
}

impl RequestUrl {
    /// The address of the request. An id has letters, digits and `_` only, which mean themselves wherever it may stand.
    pub fn of(&self, request: RequestId) -> String {
        format!("{}{request}{}", self.before, self.after)
    }
}

/// Whether the character stands in a URL as it is, as itself or with a meaning (RFC 3986, sections 2.2 and 2.3).
fn stands_in_urls(character: char) -> bool {
    character.is_ascii_alphanumeric() || "-._~:/?#[]@!$&'()*+,;=%".contains(character)
}

/// Whether two hexadecimal digits are after each `%` (RFC 3986, section 2.1).
fn is_percent_encoded(text: &str) -> bool {
    text.split('%').skip(1).all(|after| {
        let mut digits = after.bytes().take(2);
        digits.len() == 2 && digits.all(|digit| digit.is_ascii_hexdigit())
    })
}

impl FromStr for RequestUrl {
    type Err = InvalidRequestUrl;

    fn from_str(text: &str) -> Result<Self, InvalidRequestUrl> {
        if text.len() > MAX_LENGTH {
            return Err(InvalidRequestUrl::Length);
        }
        let (before, after) = text
            .split_once(PLACEHOLDER)
            .ok_or(InvalidRequestUrl::Placeholder)?;
        // It would be taken for the id.
        if text.contains(SAMPLE) {
            return Err(InvalidRequestUrl::Place);
        }
        for part in [before, after] {
            if part.contains(['{', '}']) {
                return Err(InvalidRequestUrl::Placeholder);
            }
            if let Some(character) = part.chars().find(|&character| !stands_in_urls(character)) {
                return Err(InvalidRequestUrl::Character(character));
            }
            if !is_percent_encoded(part) {
                return Err(InvalidRequestUrl::Percent);
            }
        }
        // What a URL is read from may lack slashes or have too many of them, and the host is then a part of the path.
        let begins = ["https://", "http://"]
            .into_iter()
            .find_map(|scheme| before.strip_prefix(scheme));
        if begins.is_none_or(|rest| rest.starts_with('/')) {
            return Err(InvalidRequestUrl::Scheme);
        }
        let url = Url::parse(&format!("{before}{SAMPLE}{after}")).map_err(InvalidRequestUrl::Url)?;
        if url.scheme() != "https" && !is_loopback(&url) {
            return Err(InvalidRequestUrl::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidRequestUrl::Credentials);
        }
        let below = &url[Position::BeforePath..];
        // They stand around an IPv6 address and nowhere else (RFC 3986, section 3.2.2).
        if let Some(bracket) = below.chars().find(|character| "[]".contains(*character)) {
            return Err(InvalidRequestUrl::Character(bracket));
        }
        if let Some(last) =
            (below.chars().last()).filter(|last| !last.is_ascii_alphanumeric() && !"/=-_~+".contains(*last))
        {
            return Err(InvalidRequestUrl::End(last));
        }
        // As it is read, where a `..` may have taken away what was before it.
        let mut parts = below.split(SAMPLE);
        match (parts.next(), parts.next(), parts.next()) {
            (Some(path), Some(after), None) => Ok(Self {
                before: format!("{}{path}", &url[..Position::BeforePath]),
                after: after.to_owned(),
            }),
            _ => Err(InvalidRequestUrl::Place),
        }
    }
}

impl TryFrom<String> for RequestUrl {
    type Error = InvalidRequestUrl;

    fn try_from(text: String) -> Result<Self, InvalidRequestUrl> {
        text.parse()
    }
}

impl fmt::Debug for RequestUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{PLACEHOLDER}{}", self.before, self.after)
    }
}

#[cfg(test)]
mod tests {
    use postern_core::testing::an_id;

    use super::*;

    const ID: &str = "req_019b0000000070008000000000000007";

    fn of(template: &str) -> Result<String, InvalidRequestUrl> {
        template.parse::<RequestUrl>().map(|url| url.of(an_id(7)))
    }

    #[test]
    fn the_id_stands_in_the_path_the_query_or_the_fragment() {
        for template in [
            "https://portal.example.com/access/{request}",
            "https://portal.example.com/{request}/decide?from=postern#top",
            "https://portal.example.com:8443/access?team=a%20b&id={request}&view=1",
            "https://portal.example.com/app#/access/{request}",
            "https://portal.example.com/access-{request}.html",
            "https://10.1.2.3/{request}",
            "https://[fd00::1]/{request}",
            "http://127.0.0.1:3000/{request}",
            "http://[::1]/{request}",
            "http://localhost/{request}",
        ] {
            assert_eq!(of(template).as_deref(), Ok(&*template.replace("{request}", ID)));
        }
        // As a browser reads it.
        assert_eq!(
            of("https://Portal.Example.com:443?id={request}").unwrap(),
            format!("https://portal.example.com/?id={ID}")
        );
    }

    #[test]
    fn what_is_no_template_is_refused_with_what_is_wrong() {
        use InvalidRequestUrl::{Character, Credentials, End, Length, Percent, Place, Placeholder, Scheme};
        let long = format!("https://portal.example.com/{}{{request}}", "x".repeat(MAX_LENGTH));
        for (template, expected) in [
            (long.as_str(), Length),
            ("", Placeholder),
            ("https://portal.example.com/access", Placeholder),
            ("https://portal.example.com/{id}", Placeholder),
            ("https://portal.example.com/{Request}", Placeholder),
            ("https://portal.example.com/{request}/{request}", Placeholder),
            ("https://portal.example.com/{team}/{request}", Placeholder),
            ("https://portal.example.com/{{request}}", Placeholder),
            ("https://portal.example.com/{request", Placeholder),
            ("https://portal.example.com/a b/{request}", Character(' ')),
            (" https://portal.example.com/{request}", Character(' ')),
            ("https://portal.example.com/{request}\n", Character('\n')),
            ("https://portal.example.com/a|b/{request}", Character('|')),
            ("https://portal.example.com/{request}>", Character('>')),
            ("https:\\\\portal.example.com\\{request}", Character('\\')),
            ("https://p\u{f6}rtal.example.com/{request}", Character('\u{f6}')),
            ("https://portal.example.com/%{request}", Percent),
            ("https://portal.example.com/{request}%2", Percent),
            ("https://portal.example.com/%zz/{request}", Percent),
            ("/access/{request}", Scheme),
            ("portal.example.com/access/{request}", Scheme),
            ("javascript:alert(1)//{request}", Scheme),
            ("https:portal.example.com/{request}", Scheme),
            ("https:///access/{request}", Scheme),
            ("http://portal.example.com/{request}", Scheme),
            ("http://localhost.example.com/{request}", Scheme),
            ("https://ada@portal.example.com/{request}", Credentials),
            ("https://ada:pw@portal.example.com/{request}", Credentials),
            ("https://{request}@portal.example.com/", Credentials),
            ("https://{request}.example.com/", Place),
            ("https://portal.example.com{request}", Place),
            ("https://portal.example.com/{request}/../all", Place),
            (
                "https://portal.example.com/req_00000000000000000000000000000000/{request}",
                Place,
            ),
            (
                "https://{request}.example.com/req_00000000000000000000000000000000",
                Place,
            ),
            ("https://portal.example.com/[{request}]", Character('[')),
            ("https://portal.example.com/?id=({request})", End(')')),
            ("https://portal.example.com/{request}.", End('.')),
            ("https://portal.example.com/{request}?", End('?')),
        ] {
            assert_eq!(of(template), Err(expected), "{template}");
        }
        assert!(matches!(
            of("https://?id={request}"),
            Err(InvalidRequestUrl::Url(_))
        ));
        assert!(matches!(
            of("https://portal:{request}/"),
            Err(InvalidRequestUrl::Url(_))
        ));
    }

    #[test]
    fn a_refusal_reads_on_from_the_name_of_the_setting() {
        let told = |template: &str| of(template).unwrap_err().to_string();
        assert_eq!(
            told("https://portal.example.com/access"),
            "wants `{request}` exactly once, and no other braces"
        );
        assert_eq!(
            told("http://portal.example.com/{request}"),
            "is neither HTTPS nor on loopback: it begins with `https://` and a host"
        );
    }
}
