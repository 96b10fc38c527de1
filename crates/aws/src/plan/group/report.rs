//! What others did to displaced rules and to what is left of them.

use postern_core::enforcer::Finding;

use super::{
    Draft, Locked, is_another,
    rule::{self, Content},
    to_json,
};

impl<'a> Draft<'a> {
    /// What others did to displaced rules and residuals.
    pub(super) fn report(&mut self, locked: &[Locked<'a>]) {
        for locked in locked {
            let content = Content::of(&locked.rule);
            let Some(saved) = locked.saved else { continue };
            let returned = locked
                .standing
                .filter(|standing| is_another(standing, &saved.rule));
            if let Some(standing) = returned {
                self.plan.findings.push(Finding {
                    code: "displaced_rule_returned".to_owned(),
                    message: format!(
                        "somebody put {content} back into {} while it is locked down",
                        self.group.id
                    ),
                    before: Some(to_json(&saved.rule)),
                    after: Some(to_json(standing)),
                    grants: Vec::new(),
                });
            }
            for (residual, rule) in &locked.residuals {
                if !saved.residuals.contains_key(residual) {
                    continue;
                }
                match self.standing.get(residual) {
                    Some(standing) if self.is_foreign(standing) => self.plan.findings.push(Finding {
                        code: "residual_rule_edited".to_owned(),
                        message: format!(
                            "{residual} in {} no longer carries our mark, and is left alone",
                            self.group.id
                        ),
                        before: Some(to_json(rule)),
                        after: Some(to_json(standing)),
                        grants: Vec::new(),
                    }),
                    None if locked.standing.is_none() => self.plan.findings.push(Finding {
                        code: "residual_rule_edited".to_owned(),
                        message: format!(
                            "{residual}, kept open beside {content}, is missing in {}",
                            self.group.id
                        ),
                        before: Some(to_json(rule)),
                        after: None,
                        grants: Vec::new(),
                    }),
                    _ => {}
                }
            }
        }
        for rule in &self.group.ingress {
            let of = self.residual_of(rule);
            let whole = self.saved.iter().find(|saved| Some(saved.id) == of);
            if let Some(saved) = whole.filter(|saved| !rule::within(rule, &saved.rule)) {
                self.plan.findings.push(Finding {
                    code: "residual_rule_edited".to_owned(),
                    message: format!(
                        "{} in {} is no part of {}, whose mark it carries; it is removed",
                        Content::of(rule),
                        self.group.id,
                        Content::of(&saved.rule)
                    ),
                    before: Some(to_json(&saved.rule)),
                    after: Some(to_json(rule)),
                    grants: Vec::new(),
                });
            }
        }
    }
}
