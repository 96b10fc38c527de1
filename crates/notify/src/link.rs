//! Where a message leads: programs to the API, people to the organisation's portal where there is one.

use postern_core::audit::AuditEvent;
use url::Url;

use crate::{
    base::BaseUrl,
    message::{Undecided, access_review, undecided},
    portal::RequestUrl,
};

/// What links are made from.
#[derive(Debug, Clone, Default)]
pub struct Links {
    /// Links to the API are below it.
    pub base: Option<BaseUrl>,
    /// Where people see a request.
    pub request: Option<RequestUrl>,
}

/// Where people are led.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// To the API, which answers to a token.
    Postern(Url),
    /// To the organisation's portal.
    Portal(String),
}

impl Link {
    /// Where it leads.
    pub fn address(&self) -> &str {
        match self {
            Self::Postern(url) => url.as_str(),
            Self::Portal(address) => address,
        }
    }

    /// What people call the place.
    pub const fn place(&self) -> &'static str {
        match self {
            Self::Postern(_) => "Postern",
            Self::Portal(_) => "the portal",
        }
    }
}

impl Links {
    /// Where the API has what the event is about.
    pub(crate) fn api(&self, event: &AuditEvent) -> Option<Url> {
        let subject = &event.subject;
        let path = match (undecided(event), subject.grant, subject.request, subject.policy) {
            (Some(Undecided::Request(request)), ..) => format!("v1/access-requests/{request}"),
            // The list is where they are seen; what was opened is seen at the request.
            (Some(Undecided::Review(_)), ..) => "v1/reviews?status=open".to_owned(),
            (None, Some(grant), ..) => format!("v1/grants/{grant}"),
            (None, None, Some(request), _) => format!("v1/access-requests/{request}"),
            (None, None, None, Some(policy)) => format!("v1/jit-policies/{policy}"),
            (None, None, None, None) => format!("v1/access-reviews/{}", access_review(event)?),
        };
        self.base.as_ref()?.join(&path)
    }

    /// Where the portal has the request that the event names.
    pub(crate) fn portal(&self, event: &AuditEvent) -> Option<String> {
        Some(self.request.as_ref()?.of(event.subject.request?))
    }

    /// Where people see what the event is about, or decide on it. A grant is seen at its request, and so is what is over:
    /// a review that was closed. One that waits for somebody is not: what closes it is no part of the request.
    pub(crate) fn people(&self, event: &AuditEvent) -> Option<Link> {
        let portal = match undecided(event) {
            Some(Undecided::Review(_)) => None,
            Some(Undecided::Request(_)) | None => self.portal(event).map(Link::Portal),
        };
        portal.or_else(|| self.api(event).map(Link::Postern))
    }
}
