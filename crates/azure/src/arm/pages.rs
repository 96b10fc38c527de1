//! Lists of the resource manager: page after page, and on from the page that failed.

use postern_core::enforcer::EnforceError;
use reqwest::Method;
use serde::{Deserialize, de::DeserializeOwned};
use url::Url;

use super::client::{Arm, Call};

/// The most pages of a list.
const MAX_PAGES: usize = 10_000;

/// A list, as far as it is read.
#[derive(Debug)]
pub(crate) struct Pages<T> {
    items: Vec<T>,
    read: usize,
    next: Next,
    /// Whether the next page failed before.
    failed: bool,
    /// Whether it was given up.
    aside: bool,
}

#[derive(Debug)]
enum Next {
    First,
    /// Where `nextLink` of the last page that was read leads.
    At(Url),
    /// There are no more pages.
    End,
}

impl<T> Default for Pages<T> {
    fn default() -> Self {
        Self {
            items: Vec::new(),
            read: 0,
            next: Next::First,
            failed: false,
            aside: false,
        }
    }
}

impl<T> Pages<T> {
    /// How many pages are read.
    pub(crate) const fn read(&self) -> usize {
        self.read
    }

    /// What the pages hold that are read.
    pub(crate) fn items(&self) -> &[T] {
        &self.items
    }

    /// What the pages hold that are read.
    pub(crate) fn into_items(self) -> Vec<T> {
        self.items
    }

    /// Nothing, and no more pages.
    pub(crate) fn leave_aside(&mut self) {
        self.items.clear();
        self.next = Next::End;
        self.aside = true;
    }

    /// What was given up is asked for again.
    pub(crate) fn take_up(&mut self) {
        if self.aside {
            *self = Self::default();
        }
    }

    /// The next page failed, and may not another time. Nobody says how long its address leads anywhere: where it fails twice
    /// the list begins anew.
    fn fail(&mut self) {
        if self.failed && matches!(self.next, Next::At(_)) {
            *self = Self::default();
        } else {
            self.failed = true;
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page<T> {
    value: Vec<T>,
    #[serde(default)]
    next_link: Option<String>,
}

impl Arm {
    /// Reads every page of a list.
    pub(crate) async fn list<T: DeserializeOwned>(
        &self,
        first: Url,
        action: &str,
    ) -> Result<Vec<T>, EnforceError> {
        let mut pages = Pages::default();
        self.read_on(&mut pages, first, action).await?;
        Ok(pages.into_items())
    }

    /// Reads the pages that are not read yet; the first is at `first`. What was read stays where a page fails for the first
    /// time, or nobody waits for it any more.
    pub(crate) async fn read_on<T: DeserializeOwned>(
        &self,
        pages: &mut Pages<T>,
        first: Url,
        action: &str,
    ) -> Result<(), EnforceError> {
        loop {
            let url = match &pages.next {
                Next::First => first.clone(),
                Next::At(url) => url.clone(),
                Next::End => return Ok(()),
            };
            if pages.read >= MAX_PAGES {
                return Err(EnforceError::Malformed(format!(
                    "the list of {action} has more than {MAX_PAGES} pages"
                )));
            }
            let call = Call {
                method: Method::GET,
                resource: url.path().to_owned(),
                url,
                action,
            };
            let answer = self.send(&call, None, None).await.map_err(|error| match error {
                // What lists a subscription is always there, and its absence says nothing of any one resource.
                EnforceError::Gone { code, .. } => EnforceError::Unavailable {
                    operation: action.to_owned(),
                    message: format!("the list was not found ({code})"),
                },
                error => error,
            });
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) => {
                    // Who has to wait for the budget has asked for nothing.
                    if error.may_pass() && !matches!(error, EnforceError::Throttled { .. }) {
                        pages.fail();
                    }
                    return Err(error);
                }
            };
            let page: Page<T> = serde_json::from_value(answer.body).map_err(|error| {
                EnforceError::Malformed(format!("the list of {action} cannot be read: {error}"))
            })?;
            let link = page.next_link.filter(|link| !link.is_empty());
            let next = match link {
                Some(link) => Next::At(self.own(&link, "`nextLink`")?),
                None => Next::End,
            };
            pages.items.extend(page.value);
            pages.read += 1;
            pages.next = next;
            pages.failed = false;
        }
    }
}
