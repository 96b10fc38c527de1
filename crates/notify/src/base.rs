//! The address that links to the API are below, from the configuration.

use std::str::FromStr;

use serde::Deserialize;
use url::{ParseError, Url};

/// Where Postern's API is reached: HTTP or HTTPS, with a path that ends in `/`, so that what is joined stands below all
/// of it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct BaseUrl(Url);

/// Why a text is no base of links. It stands after the name of the setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBaseUrl {
    /// It is not an address at all.
    #[error("is no URL: {0}")]
    Url(ParseError),
    /// Nobody could open what is below it.
    #[error("is neither HTTPS nor HTTP: it begins with `https://` or `http://` and a host")]
    Scheme,
    /// Everybody who is told would get them.
    #[error("holds a user or a password")]
    Credentials,
    /// Links would lose it.
    #[error("has a query or a fragment, which no link below it keeps")]
    NotPath,
}

impl BaseUrl {
    /// The address of a relative path, which may have a query.
    pub(crate) fn join(&self, path: &str) -> Option<Url> {
        self.0.join(path).ok()
    }
}

impl FromStr for BaseUrl {
    type Err = InvalidBaseUrl;

    fn from_str(text: &str) -> Result<Self, InvalidBaseUrl> {
        let mut url = Url::parse(text).map_err(InvalidBaseUrl::Url)?;
        if !matches!(url.scheme(), "https" | "http") {
            return Err(InvalidBaseUrl::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidBaseUrl::Credentials);
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(InvalidBaseUrl::NotPath);
        }
        // Without it, the last segment is a file's name, which gives way to what is joined (RFC 3986, section 5.2.3).
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        Ok(Self(url))
    }
}

impl TryFrom<String> for BaseUrl {
    type Error = InvalidBaseUrl;

    fn try_from(text: String) -> Result<Self, InvalidBaseUrl> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn below(base: &str) -> Result<String, InvalidBaseUrl> {
        let base = base.parse::<BaseUrl>()?;
        Ok(base.join("v1/reviews?status=open").unwrap().into())
    }

    #[test]
    fn links_are_below_the_whole_path_with_or_without_its_last_slash() {
        for (base, expected) in [
            ("https://postern.example.com", "https://postern.example.com/"),
            ("https://postern.example.com/", "https://postern.example.com/"),
            (
                "https://postern.example.com/jit",
                "https://postern.example.com/jit/",
            ),
            (
                "https://postern.example.com/jit/",
                "https://postern.example.com/jit/",
            ),
            (
                "https://example.com/a%20b/jit%2Fx",
                "https://example.com/a%20b/jit%2Fx/",
            ),
            ("http://10.1.2.3:8080/jit", "http://10.1.2.3:8080/jit/"),
        ] {
            assert_eq!(
                below(base).as_deref(),
                Ok(&*format!("{expected}v1/reviews?status=open")),
                "{base}"
            );
        }
    }

    #[test]
    fn what_is_no_base_is_refused_with_what_is_wrong() {
        use InvalidBaseUrl::{Credentials, NotPath, Scheme};
        for (base, expected) in [
            ("postern.example.com:8443/jit", Scheme),
            ("mailto:ada@example.com", Scheme),
            ("ftp://postern.example.com/", Scheme),
            ("https://ada@postern.example.com/", Credentials),
            ("https://ada:pw@postern.example.com/", Credentials),
            ("https://postern.example.com/jit?team=a", NotPath),
            ("https://postern.example.com/?", NotPath),
            ("https://postern.example.com/#jit", NotPath),
            ("https://postern.example.com/jit#", NotPath),
        ] {
            assert_eq!(below(base), Err(expected), "{base}");
        }
        for base in ["", "/jit", "postern.example.com/jit", "https://"] {
            assert!(matches!(below(base), Err(InvalidBaseUrl::Url(_))), "{base}");
        }
    }
}
