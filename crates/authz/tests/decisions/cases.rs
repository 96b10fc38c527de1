//! Cases: they find what is otherwise than expected, and what no case tries.

use postern_authz::{GuardrailSet, cases::Suite};
use serde_json::{Value, json};

const RULES: &str = r#"
    @id("mfa") forbid (principal is User, action == Action::"request", resource) unless { principal.mfa };
    @id("prod-main") forbid (principal is Workload, action == Action::"request", resource)
    when { resource.hasTag("env") && resource.getTag("env") == "prod" }
    unless { principal.hasTag("ref") && principal.getTag("ref") == "refs/heads/main" };
"#;

fn suite(cases: &Value) -> Suite {
    serde_json::from_value(json!({
        "people": {
            "ada": { "principal": "user:corp/ada", "groups": ["sre"] },
            "strong": { "principal": "user:corp/ada", "mfa": true },
            "job": { "principal": "workload:ci/deploy", "claims": { "ref": "refs/heads/topic" } },
        },
        "case": cases,
    }))
    .unwrap()
}

fn run(cases: &Value) -> (Vec<String>, Vec<String>) {
    let report = suite(cases)
        .run(&GuardrailSet::parse("rules.cedar", RULES).unwrap())
        .unwrap();
    let failed: Vec<String> = report
        .outcomes
        .iter()
        .filter(|outcome| !outcome.is_as_expected())
        .map(ToString::to_string)
        .collect();
    assert_eq!(failed.len(), report.failed());
    (failed, report.untried)
}

#[test]
fn what_is_as_expected_is_fine_and_each_guardrail_was_tried() {
    let (failed, untried) = run(&json!([
        { "name": "a factor too few", "who": "ada", "on": "/aws", "expect": "deny", "forbidden_by": ["mfa"] },
        { "name": "two factors", "who": "strong", "on": "/aws", "expect": "allow", "forbidden_by": [] },
        { "name": "a topic branch", "who": "job", "on": "/aws/123456789012/eu-west-1/i-0123456789abcdef0",
          "tags": { "env": "prod" }, "expect": "deny", "forbidden_by": ["prod-main"], "role_missing": false },
    ]));
    assert_eq!((failed, untried), (vec![], vec![]));
}

#[test]
fn what_is_otherwise_is_shown_beside_what_was_expected() {
    let (failed, untried) = run(&json!([
        { "name": "one factor will do", "who": "ada", "on": "/aws", "expect": "allow", "forbidden_by": [] },
        { "name": "reading needs none", "who": "ada", "action": "read", "on": "/", "expect": "allow" },
    ]));
    assert_eq!(
        failed,
        ["FAILED  one factor will do\n\
          \u{20}       - expected: allowed\n\
          \u{20}       + found:    denied\n\
          \u{20}       - expected: forbidden by no guardrail\n\
          \u{20}       + found:    forbidden by `mfa`\n\
          \u{20}         `request` at /aws: guardrail `mfa` forbids it"]
    );
    assert_eq!(untried, ["prod-main"]);
}

#[test]
fn with_assignments_roles_are_in_the_way_too() {
    let mut suite = suite(&json!([
        { "name": "no role", "who": "strong", "on": "/azure", "expect": "deny", "role_missing": true },
        { "name": "a role", "who": "strong", "on": "/aws/123456789012", "expect": "allow" },
    ]));
    suite.assignments = serde_json::from_value(
        json!([{ "role": "requester", "principal": "user:corp/ada", "scope": "/aws" }]),
    )
    .unwrap();
    assert_eq!(suite.run(&GuardrailSet::default()).unwrap().failed(), 0);
    suite.assignments[0].role = "admin".into();
    let error = suite.run(&GuardrailSet::default()).unwrap_err();
    assert_eq!(error.to_string(), "there is no role `admin`");
}

#[test]
fn a_case_that_means_nothing_is_an_error() {
    for (case, said) in [
        (
            json!({ "who": "eve", "on": "/", "expect": "deny" }),
            "`eve` is none of the suite's people",
        ),
        (
            json!({ "who": "ada", "on": "aws", "expect": "deny" }),
            "`aws` is neither a scope nor a machine's id",
        ),
        (
            json!({ "who": "ada", "on": "/", "expect": "deny", "forbidden_by": ["mfaa"] }),
            "case `x` expects guardrail `mfaa`, which does not exist",
        ),
    ] {
        let mut case = case;
        case["name"] = json!("x");
        let guardrails = GuardrailSet::parse("rules.cedar", RULES).unwrap();
        let error = suite(&json!([case])).run(&guardrails).unwrap_err();
        assert_eq!(error.to_string(), said);
    }
    for wrong in [
        json!({ "name": "x", "who": "ada", "on": "/", "expect": "maybe" }),
        json!({ "name": "x", "who": "ada", "on": "/", "expect": "deny", "prots": ["22"] }),
        json!({ "name": "x", "who": "ada", "on": "/" }),
    ] {
        let parsed = serde_json::from_value::<Suite>(json!({ "case": [wrong.clone()] }));
        assert!(parsed.is_err(), "{wrong}");
    }
}
