//! Lists, page by page, and who sees what of them.

use postern_core::{principal::PrincipalRef, scope::Scope};

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T, C> {
    /// The items.
    pub items: Vec<T>,
    /// The cursor of the page after this one, if there is one.
    pub next: Option<C>,
}

impl<T, C> Page<T, C> {
    /// From one item more than fits: that there is one says that there is a next page.
    pub(crate) fn of(mut items: Vec<T>, limit: u32, cursor: impl Fn(&T) -> C) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let more = items.len() > limit;
        items.truncate(limit);
        let next = if more { items.last().map(cursor) } else { None };
        Self { items, next }
    }

    pub(crate) fn fetch(limit: u32) -> i64 {
        i64::from(limit) + 1
    }
}

/// What of a list somebody may see: what lies at or below any of the scopes, and what is their own. The default
/// is nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Visible {
    /// Everything at or below these.
    pub scopes: Vec<Scope>,
    /// And what this principal asked for themselves, where a thing has a requester.
    pub own: Option<PrincipalRef>,
}

impl Visible {
    /// Everything.
    pub fn everything() -> Self {
        Self {
            scopes: vec![Scope::root()],
            own: None,
        }
    }

    /// The scopes as texts; `None` when the root is among them, so that nothing needs to be compared.
    pub(crate) fn scope_texts(&self) -> Option<Vec<String>> {
        if self.scopes.iter().any(|scope| scope.depth() == 0) {
            None
        } else {
            Some(self.scopes.iter().map(Scope::to_string).collect())
        }
    }

    /// What of this is at or below `scope`, as texts of scopes; `None` when that is everything.
    pub(crate) fn within(&self, scope: Option<&Scope>) -> Option<Vec<String>> {
        let Some(scope) = scope.filter(|scope| scope.depth() > 0) else {
            return self.scope_texts();
        };
        let both = self.scopes.iter().filter_map(|visible| {
            if visible.contains(scope) {
                Some(scope)
            } else {
                scope.contains(visible).then_some(visible)
            }
        });
        Some(both.map(Scope::to_string).collect())
    }

    /// Whose things alone to look for, where somebody asks for `requester`'s: their own, where there is nothing else that
    /// they may see. So an index serves, and who may see nothing does not have a whole table read.
    pub(crate) fn only<'a>(&'a self, requester: Option<&'a PrincipalRef>) -> Option<&'a PrincipalRef> {
        requester.or_else(|| self.own.as_ref().filter(|_| self.scopes.is_empty()))
    }

    pub(crate) fn own_text(&self) -> Option<String> {
        self.own.as_ref().map(|own| crate::batch::clean(&own.to_string()))
    }
}

/// A scope to filter by; `None` for the root.
pub(crate) fn scope_text(scope: Option<&Scope>) -> Option<String> {
    scope.filter(|scope| scope.depth() > 0).map(Scope::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_sees_anything_by_default_and_the_root_sees_everything() {
        assert_eq!(Visible::default().scope_texts(), Some(Vec::new()));
        assert_eq!(Visible::everything().scope_texts(), None);
    }

    #[test]
    fn there_is_a_next_page_only_when_something_is_on_it() {
        assert_eq!(
            Page::of(vec![1, 2, 3], 2, |item| *item),
            Page {
                items: vec![1, 2],
                next: Some(2)
            }
        );
        assert_eq!(
            Page::of(vec![1, 2], 2, |item| *item),
            Page {
                items: vec![1, 2],
                next: None
            }
        );
    }
}
