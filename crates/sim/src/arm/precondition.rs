//! Conditional writes: `If-Match` and `If-None-Match`.

use super::id::Id;
use super::refusal::ArmError;
use super::state::Resource;
use super::write::Desk;

impl Desk<'_> {
    /// `If-Match` and `If-None-Match`. A part carries its parent's etag.
    pub(super) fn precondition(&self, id: &Id, existing: Option<&Resource>) -> Result<(), ArmError> {
        let given = |name: &str| {
            self.origin
                .headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .map(str::trim)
        };
        let failed = |detail: &str, text: String| {
            ArmError::network(412, "PreconditionFailed", "Precondition failed.").with_detail(detail, text)
        };
        let id = id.text();
        if let Some(wanted) = given("if-match") {
            let current = existing.map(Resource::etag_text);
            let same = match &current {
                Some(current) => wanted == "*" || wanted.split(',').any(|etag| etag.trim() == current),
                None => false,
            };
            if !same {
                let current = current.unwrap_or_else(|| "of a resource that does not exist".to_owned());
                return Err(failed(
                    "PreconditionFailedEtagMismatch",
                    format!(
                        "Etag provided in if-match header {wanted} does not match etag {current} of resource {id} \
                         in NRP data store."
                    ),
                ));
            }
        }
        if given("if-none-match") == Some("*") && existing.is_some() {
            return Err(failed(
                "PreconditionFailedResourceExists",
                format!("Resource {id} already exists."),
            ));
        }
        Ok(())
    }
}
