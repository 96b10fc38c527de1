//! Where in the configuration something is wrong: file, line and key path, or the variable that said so.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use figment::error::Kind;
use toml::de::{DeTable, DeValue};

/// One thing that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    place: Place,
    key: Option<String>,
    message: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    File { path: PathBuf, line: Option<usize> },
    Variable(String),
}

impl Problem {
    /// A problem with the file as a whole.
    pub(super) fn file(path: &Path, message: String) -> Self {
        Self {
            place: Place::File {
                path: path.to_owned(),
                line: None,
            },
            key: None,
            message,
        }
    }

    /// The key path, such as `aws.accounts.0.id`, where there is one.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// The line in the file, counted from 1, where there is one.
    pub fn line(&self) -> Option<usize> {
        match self.place {
            Place::File { line, .. } => line,
            Place::Variable(_) => None,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::File {
                path,
                line: Some(line),
            } => write!(f, "{}:{line}: ", path.display())?,
            Place::File { path, line: None } => write!(f, "{}: ", path.display())?,
            Place::Variable(name) => write!(f, "environment variable {name}: ")?,
        }
        if let Some(key) = &self.key {
            write!(f, "`{key}`: ")?;
        }
        f.write_str(&self.message)
    }
}

/// A configuration that is refused, with everything that was found wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    problems: Vec<Problem>,
}

impl Invalid {
    pub(super) fn new(problems: Vec<Problem>) -> Self {
        Self { problems }
    }

    pub(super) fn one(problem: Problem) -> Self {
        Self::new(vec![problem])
    }

    /// What is wrong; never empty.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration is refused")?;
        self.problems
            .iter()
            .try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for Invalid {}

/// The file and the variables, to find places in.
pub(super) struct Source<'a> {
    path: &'a Path,
    text: &'a str,
    root: DeTable<'a>,
    variables: BTreeMap<String, &'a str>,
}

impl<'a> Source<'a> {
    /// Refuses a text that is not TOML at all.
    pub(super) fn parse(
        path: &'a Path,
        text: &'a str,
        variables: &'a BTreeMap<String, String>,
    ) -> Result<Self, Problem> {
        let root = DeTable::parse(text).map_err(|error| Problem {
            place: Place::File {
                path: path.to_owned(),
                line: error.span().map(|span| line_of(text, span.start)),
            },
            key: None,
            message: error.message().to_owned(),
        })?;
        let variables = variables
            .keys()
            .map(|name| {
                let key = name.strip_prefix(super::ENVIRONMENT_PREFIX).unwrap_or(name);
                (key.to_lowercase().replace("__", "."), name.as_str())
            })
            .collect();
        Ok(Self {
            path,
            text,
            root: root.into_inner(),
            variables,
        })
    }

    /// A problem with the value at the key path.
    pub(super) fn at(&self, key: &str, message: String) -> Problem {
        Problem {
            place: self.place(key),
            key: Some(key.to_owned()),
            message,
        }
    }

    /// The problem that the deserialiser found.
    pub(super) fn problem(&self, error: &figment::Error) -> Problem {
        let parent = error.path.join(".");
        let below = |field: &str| {
            if parent.is_empty() {
                field.to_owned()
            } else {
                format!("{parent}.{field}")
            }
        };
        match &error.kind {
            // The path ends with the key itself here, unlike with a missing one.
            Kind::UnknownField(_, expected) => {
                let expected = expected.join("`, `");
                self.at(&parent, format!("no such key; expected one of `{expected}`"))
            }
            Kind::MissingField(field) => Problem {
                place: self.place(&parent),
                key: Some(below(field)),
                message: "is missing".to_owned(),
            },
            Kind::UnknownVariant(given, expected) => {
                let expected = expected.join("`, `");
                self.at(&parent, format!("`{given}` is not one of `{expected}`"))
            }
            Kind::InvalidType(actual, expected) | Kind::InvalidValue(actual, expected) => {
                self.at(&parent, format!("expected {expected}, not {actual}"))
            }
            other => self.at(&parent, other.to_string()),
        }
    }

    fn place(&self, key: &str) -> Place {
        // A variable may have set the key itself, or something above it.
        let mut prefix = key;
        loop {
            if let Some(name) = self.variables.get(prefix) {
                return Place::Variable((*name).to_owned());
            }
            match prefix.rsplit_once('.') {
                Some((above, _)) => prefix = above,
                None => break,
            }
        }
        Place::File {
            path: self.path.to_owned(),
            line: self.line(key),
        }
    }

    /// The line of the deepest part of the key path that the file has.
    fn line(&self, key: &str) -> Option<usize> {
        let mut segments = key.split('.').filter(|segment| !segment.is_empty());
        let (name, value) = self.root.get_key_value(segments.next()?)?;
        let mut offset = name.span().start;
        let mut value = value;
        for segment in segments {
            let next = match value.get_ref() {
                DeValue::Table(table) => table
                    .get_key_value(segment)
                    .map(|(name, value)| (name.span().start, value)),
                DeValue::Array(items) => segment
                    .parse::<usize>()
                    .ok()
                    .and_then(|at| items.get(at))
                    .map(|value| (value.span().start, value)),
                _ => None,
            };
            match next {
                Some((start, below)) => {
                    offset = start;
                    value = below;
                }
                None => break,
            }
        }
        Some(line_of(self.text, offset))
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}
