//! The parameters of a Query request: dotted names, numbered lists, filters and pages, each use noted so that
//! an unknown parameter is refused.
//!
//! Names and numbering follow the EC2 query protocol as botocore's `ec2/2016-11-15/service-2.json` has it
//! (`IpPermissions.1.IpRanges.2.CidrIp`).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::error::{Ec2Error, Result};
use super::state::Tags;

/// All parameters of one request.
#[derive(Debug, Default)]
pub(crate) struct Params {
    values: BTreeMap<String, String>,
    used: RefCell<BTreeSet<String>>,
}

impl Params {
    /// Reads form-encoded parameters from the query string and the body; the last of a repeated name counts.
    pub(crate) fn parse(query: &str, body: &[u8]) -> Self {
        let pairs = url::form_urlencoded::parse(query.as_bytes()).chain(url::form_urlencoded::parse(body));
        Self {
            values: pairs
                .map(|(name, value)| (name.into_owned(), value.into_owned()))
                .collect(),
            used: RefCell::default(),
        }
    }

    /// The value of a name, without noting the use.
    pub(crate) fn peek(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// Whether any parameter of that name, or numbered or dotted below it, is there.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.below(name).next().is_some()
    }

    /// How many parameters there are of that name, or numbered or dotted below it.
    pub(crate) fn count(&self, name: &str) -> usize {
        self.below(name).count()
    }

    /// All names and values but the client token, to compare a repeated request with the first.
    pub(crate) fn fingerprint(&self) -> BTreeMap<String, String> {
        self.values
            .iter()
            .filter(|(name, _)| !matches!(name.as_str(), "ClientToken") && !name.starts_with("X-Amz-"))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }

    /// The view on all parameters.
    pub(crate) fn root(&self) -> Part<'_> {
        Part {
            params: self,
            prefix: String::new(),
        }
    }

    fn below<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.values
            .range::<str, _>((Bound::Included(name), Bound::Unbounded))
            .map(|(key, _)| key.as_str())
            .take_while(move |key| key.starts_with(name))
            .filter(move |key| key.len() == name.len() || key.as_bytes().get(name.len()) == Some(&b'.'))
    }
}

/// The parameters below a prefix.
#[derive(Debug, Clone)]
pub(crate) struct Part<'a> {
    params: &'a Params,
    prefix: String,
}

impl<'a> Part<'a> {
    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// A value, where it is there.
    pub(crate) fn get(&self, name: &str) -> Option<&'a str> {
        let name = self.name(name);
        let value = self.params.peek(&name)?;
        self.params.used.borrow_mut().insert(name);
        Some(value)
    }

    /// A value, owned.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.get(name).map(str::to_owned)
    }

    /// A value that must be there.
    pub(crate) fn require(&self, name: &str) -> Result<&'a str> {
        self.get(name)
            .filter(|value| !value.is_empty())
            .ok_or_else(|| Ec2Error::missing(&self.name(name)))
    }

    /// A whole number, where it is there.
    pub(crate) fn int(&self, name: &str) -> Result<Option<i32>> {
        self.get(name)
            .map(|value| {
                value.parse().map_err(|_| {
                    Ec2Error::invalid_value(format!(
                        "Value ({value}) for parameter {} is invalid. Expected an integer.",
                        self.name(name)
                    ))
                })
            })
            .transpose()
    }

    /// A truth value, where it is there.
    pub(crate) fn bool(&self, name: &str) -> Result<Option<bool>> {
        match self.get(name) {
            None => Ok(None),
            Some("true" | "True" | "1") => Ok(Some(true)),
            Some("false" | "False" | "0") => Ok(Some(false)),
            Some(value) => Err(Ec2Error::invalid_value(format!(
                "Value ({value}) for parameter {} is invalid. Expected 'true' or 'false'.",
                self.name(name)
            ))),
        }
    }

    /// The values `name.1`, `name.2` and so on, in the order of their numbers.
    pub(crate) fn list(&self, name: &str) -> Vec<String> {
        let full = self.name(name);
        let mut numbered: Vec<(u32, String)> = Vec::new();
        let mut used = self.params.used.borrow_mut();
        for key in self.params.below(&full) {
            let number = key.get(full.len() + 1..).and_then(|number| number.parse().ok());
            if let (Some(number), Some(value)) = (number, self.params.peek(key)) {
                used.insert(key.to_owned());
                numbered.push((number, value.to_owned()));
            }
        }
        numbered.sort_by_key(|(number, _)| *number);
        numbered.into_iter().map(|(_, value)| value).collect()
    }

    /// The views on `name.1.`, `name.2.` and so on, in the order of their numbers.
    pub(crate) fn parts(&self, name: &str) -> Vec<Part<'a>> {
        let full = self.name(name);
        let numbers: BTreeSet<u32> = self
            .params
            .below(&full)
            .filter_map(|key| key.get(full.len() + 1..)?.split_once('.')?.0.parse().ok())
            .collect();
        numbers
            .into_iter()
            .map(|number| Part {
                params: self.params,
                prefix: format!("{full}.{number}."),
            })
            .collect()
    }

    /// Notes parameters that EC2 takes and that change nothing here.
    pub(crate) fn ignore(&self, names: &[&str]) {
        let mut used = self.params.used.borrow_mut();
        for name in names {
            let full = self.name(name);
            used.extend(self.params.below(&full).map(str::to_owned));
        }
    }

    /// Ends the reading: refuses what nothing asked for, and ends a dry run.
    ///
    /// A dry run never succeeds: with every permission in place it fails with `DryRunOperation`, HTTP 412.
    pub(crate) fn finish(&self) -> Result<()> {
        self.ignore(&["Action", "Version"]);
        let dry_run = self.bool("DryRun")?.unwrap_or(false);
        let used = self.params.used.borrow();
        if let Some(unknown) = self
            .params
            .values
            .keys()
            .find(|name| !used.contains(*name) && !name.starts_with("X-Amz-"))
        {
            let message = format!("The parameter {unknown} is not recognized");
            return Err(Ec2Error::new("UnknownParameter", message));
        }
        if dry_run {
            return Err(Ec2Error::with_status(
                http::StatusCode::PRECONDITION_FAILED,
                "DryRunOperation",
                "Request would have succeeded, but DryRun flag is set.",
            ));
        }
        Ok(())
    }

    /// The tags for one type of resource out of `TagSpecification.N`. A type outside `allowed` is refused.
    pub(crate) fn tags(&self, wanted: &str, allowed: &[&str]) -> Result<Tags> {
        let mut tags = Tags::new();
        for specification in self.parts("TagSpecification") {
            let resource_type = specification.require("ResourceType")?;
            if !allowed.contains(&resource_type) {
                return Err(Ec2Error::invalid_value(format!(
                    "'{resource_type}' is not a valid taggable resource type for this operation."
                )));
            }
            let pairs = tag_pairs(&specification)?;
            if resource_type == wanted {
                add_tags(&mut tags, pairs)?;
            }
        }
        Ok(tags)
    }

    /// The filters `Filter.N`.
    pub(crate) fn filters(&self) -> Result<Filters> {
        let mut filters = Vec::new();
        for part in self.parts("Filter") {
            let name = part.require("Name")?.to_owned();
            let values = part.list("Value");
            if values.is_empty() {
                return Err(Ec2Error::invalid_value(format!(
                    "The filter '{name}' has no value"
                )));
            }
            if values.len() > 200 {
                return Err(Ec2Error::new(
                    "FilterLimitExceeded",
                    "The maximum number of filter values specified on a single call is 200",
                ));
            }
            filters.push(Filter { name, values });
        }
        Ok(Filters(filters))
    }

    /// The page that is asked for. `ids` is the wire name of the id list where one was given, which some
    /// actions refuse together with `MaxResults`.
    ///
    /// Source: API reference "Pagination" and the actions' `MaxResults` (5 to 1000, not with ids).
    pub(crate) fn page(&self, ids: Option<&str>) -> Result<Page> {
        let size = self.int("MaxResults")?;
        let after = self.get("NextToken").filter(|token| !token.is_empty());
        if let Some(ids) = ids
            && (size.is_some() || after.is_some())
        {
            let other = if size.is_some() { "maxResults" } else { "nextToken" };
            return Err(Ec2Error::combination(format!(
                "The parameter {ids} cannot be used with the parameter {other}"
            )));
        }
        let size = match size {
            None => None,
            Some(size @ 5..=1000) => usize::try_from(size).ok(),
            Some(size) => {
                let bound = if size < 5 {
                    "greater than 5"
                } else {
                    "less than or equal to 1000"
                };
                return Err(Ec2Error::invalid_value(format!(
                    "Value ( {size} ) for parameter maxResults is invalid. Expecting a value {bound}."
                )));
            }
        };
        let after = after.map(read_token).transpose()?;
        Ok(Page { size, after })
    }
}

/// One page of a listing that is in the order of ids.
#[derive(Debug)]
pub(crate) struct Page {
    size: Option<usize>,
    after: Option<String>,
}

impl Page {
    /// The items of the page and the token of the next, where there is one.
    pub(crate) fn cut<T>(&self, items: Vec<T>, id: impl Fn(&T) -> String) -> (Vec<T>, Option<String>) {
        let mut items: Vec<T> = match &self.after {
            Some(after) => items.into_iter().filter(|item| id(item) > *after).collect(),
            None => items,
        };
        match self.size {
            Some(size) if items.len() > size => {
                items.truncate(size);
                let token = items.last().map(|last| write_token(&id(last)));
                (items, token)
            }
            _ => (items, None),
        }
    }
}

/// Opaque to clients: the last id given out, in hexadecimal, marked.
fn write_token(id: &str) -> String {
    use std::fmt::Write as _;
    id.bytes().fold("eyJ".to_owned(), |mut token, byte| {
        // INVARIANT: writing to a String does not fail.
        let _written = write!(token, "{byte:02x}");
        token
    })
}

fn read_token(token: &str) -> Result<String> {
    let invalid = || {
        Ec2Error::new(
            "InvalidPaginationToken",
            "The specified pagination token is not valid.",
        )
    };
    let digits = token.strip_prefix("eyJ").ok_or_else(invalid)?;
    let bytes: Option<Vec<u8>> = (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok())
        .collect();
    bytes
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(invalid)
}

/// One filter: its name and the values, any of which may match.
#[derive(Debug, Clone)]
pub(crate) struct Filter {
    name: String,
    values: Vec<String>,
}

/// All filters of a request; each must match.
#[derive(Debug, Clone)]
pub(crate) struct Filters(Vec<Filter>);

impl Filters {
    /// Refuses a filter that the action does not know; `tag:<key>` and `tag-key` are known to all.
    pub(crate) fn known(&self, names: &[&str]) -> Result<()> {
        match self.0.iter().find(|filter| {
            !names.contains(&filter.name.as_str())
                && filter.name != "tag-key"
                && !filter.name.starts_with("tag:")
        }) {
            Some(filter) => Err(Ec2Error::invalid_value(format!(
                "The filter '{}' is invalid",
                filter.name
            ))),
            None => Ok(()),
        }
    }

    /// Whether a resource passes: `attribute` gives its values by filter name.
    pub(crate) fn pass(&self, tags: &Tags, attribute: impl Fn(&str) -> Vec<String>) -> bool {
        self.0.iter().all(|filter| {
            let have = match filter.name.strip_prefix("tag:") {
                Some(key) => tags.get(key).cloned().into_iter().collect(),
                None if filter.name == "tag-key" => tags.keys().cloned().collect(),
                None => attribute(&filter.name),
            };
            have.iter()
                .any(|value| filter.values.iter().any(|pattern| like(pattern, value)))
        })
    }
}

/// Matches a filter value: `*` stands for any run, `?` for one character, a backslash takes the next as it is.
/// Source: EC2 user guide, "Filter your resources".
fn like(pattern: &str, value: &str) -> bool {
    fn step(pattern: &[char], value: &[char]) -> bool {
        match pattern.split_first() {
            None => value.is_empty(),
            Some(('*', rest)) => {
                (0..=value.len()).any(|at| value.get(at..).is_some_and(|value| step(rest, value)))
            }
            Some(('?', rest)) => value.split_first().is_some_and(|(_, value)| step(rest, value)),
            Some(('\\', rest)) if !rest.is_empty() => {
                rest.first() == value.first()
                    && step(
                        rest.get(1..).unwrap_or_default(),
                        value.get(1..).unwrap_or_default(),
                    )
            }
            Some((first, rest)) => value
                .split_first()
                .is_some_and(|(head, value)| head == first && step(rest, value)),
        }
    }
    let (pattern, value): (Vec<char>, Vec<char>) = (pattern.chars().collect(), value.chars().collect());
    step(&pattern, &value)
}

/// The pairs `Tag.N.Key` and `Tag.N.Value`; a missing value is the empty string.
pub(crate) fn tag_pairs(part: &Part<'_>) -> Result<Vec<(String, String)>> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for tag in part.parts("Tag") {
        let key = tag.require("Key")?.to_owned();
        if pairs.iter().any(|(seen, _)| *seen == key) {
            return Err(Ec2Error::invalid_value(format!(
                "Duplicate tag key '{key}' specified."
            )));
        }
        pairs.push((key, tag.text("Value").unwrap_or_default()));
    }
    Ok(pairs)
}

/// Puts tags on, within EC2's limits: keys up to 128 and values up to 256 characters, no `aws:` prefix, 50 tags.
/// Source: EC2 user guide, "Tag your Amazon EC2 resources", tag restrictions.
pub(crate) fn add_tags(tags: &mut Tags, pairs: impl IntoIterator<Item = (String, String)>) -> Result<()> {
    for (key, value) in pairs {
        if key.is_empty() || key.chars().count() > 128 {
            return Err(Ec2Error::invalid_value(format!(
                "Tag key exceeds the maximum length of 128 characters or is empty: '{key}'"
            )));
        }
        if value.chars().count() > 256 {
            return Err(Ec2Error::invalid_value(
                "Tag value exceeds the maximum length of 256 characters",
            ));
        }
        if key.to_ascii_lowercase().starts_with("aws:") {
            return Err(Ec2Error::invalid_value(
                "Tag keys starting with 'aws:' are reserved for internal use",
            ));
        }
        tags.insert(key, value);
    }
    if tags.len() > 50 {
        return Err(Ec2Error::new(
            "TagLimitExceeded",
            "The maximum number of tags for a resource is 50",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_in_the_order_of_its_numbers_not_of_its_names() {
        let params = Params::parse("", b"InstanceId.10=j&InstanceId.2=b&InstanceId.1=a&InstanceIds=x");
        assert_eq!(params.root().list("InstanceId"), ["a", "b", "j"]);
    }

    #[test]
    fn what_nothing_asked_for_is_refused() {
        let params = Params::parse("Action=X&Version=Y", b"GroupId=sg-1&Colour=red");
        params.root().get("GroupId");
        let error = params.root().finish().unwrap_err();
        assert_eq!(
            (error.code.as_str(), error.message.contains("Colour")),
            ("UnknownParameter", true)
        );
    }

    #[test]
    fn filter_values_take_wildcards_and_escapes() {
        for (pattern, value, fits) in [
            ("web-*", "web-1", true),
            ("web-?", "web-10", false),
            ("*", "", true),
            (r"web-\*", "web-1", false),
            (r"web-\*", "web-*", true),
            ("Web", "web", false),
        ] {
            assert_eq!(like(pattern, value), fits, "{pattern} against {value}");
        }
    }

    #[test]
    fn a_page_token_continues_after_the_last_id() {
        let items: Vec<String> = (0..7).map(|n| format!("sg-{n}")).collect();
        let params = Params::parse("", b"MaxResults=5");
        let (first, token) = params.root().page(None).unwrap().cut(items.clone(), Clone::clone);
        assert_eq!(first.len(), 5);
        let query = format!("MaxResults=5&NextToken={}", token.unwrap());
        let params = Params::parse(&query, b"");
        let (second, token) = params.root().page(None).unwrap().cut(items, Clone::clone);
        assert_eq!(
            (second, token),
            (vec!["sg-5".to_owned(), "sg-6".to_owned()], None)
        );
    }
}
