//! What pipelines take from this repository, held to the schemas that GitHub's and GitLab's editors hold it to.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail by panicking"
)]

use std::{fs, path::Path, process::Command};

use postern_tests::python::{self, workspace};
use tempfile::TempDir;

const ACTION: &str = "github/action.yml";
const TEMPLATE: &str = "gitlab/postern.yml";
const DOCUMENT: &str = "pipelines.md";

/// Copies of the integrations and of their document, to be broken.
struct Copies(TempDir);

impl Copies {
    fn new() -> Self {
        let copies = Self(TempDir::with_prefix("postern-integrations-").unwrap());
        for (from, to) in [
            (format!("integrations/{ACTION}"), ACTION),
            (format!("integrations/{TEMPLATE}"), TEMPLATE),
            (format!("docs/{DOCUMENT}"), DOCUMENT),
        ] {
            let to = copies.0.path().join(to);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(workspace().join(from), to).unwrap();
        }
        copies
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    /// Says something else in a file; what it says now must be there.
    fn with(self, name: &str, now: &str, then: &str) -> Self {
        let text = fs::read_to_string(self.path(name)).unwrap();
        assert!(text.contains(now), "{name} has no `{now}`");
        fs::write(self.path(name), text.replacen(now, then, 1)).unwrap();
        self
    }

    /// What is wrong with them, if anything.
    fn wrong(&self) -> Option<String> {
        checked(self.0.path(), &self.path(DOCUMENT)).err()
    }
}

/// What was held to a schema, or what is wrong.
fn checked(integrations: &Path, document: &Path) -> Result<String, String> {
    let output = Command::new(python::python())
        .arg(workspace().join("tests/python/pipeline_schemas.py"))
        .args([integrations, document])
        .output()
        .expect("python starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(said);
    }
    Err(format!("{said}{}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn the_action_the_template_and_the_documents_examples_are_as_the_published_schemas_want_them() {
    let said = checked(
        &workspace().join("integrations"),
        &workspace().join("docs").join(DOCUMENT),
    )
    .unwrap_or_else(|wrong| panic!("{wrong}"));
    for schema in ["github-actions", "github-workflows", "gitlab-ci"] {
        assert!(said.contains(schema), "nothing was held to {schema}: {said}");
    }
}

#[test]
fn a_broken_action_template_or_example_is_found() {
    let broken = [
        (ACTION, "using: composite", "using: composit", "github-actions"),
        (ACTION, "      shell: bash\n", "", "github-actions"),
        (
            ACTION,
            "    required: true",
            "    required: perhaps",
            "github-actions",
        ),
        (
            TEMPLATE,
            "      aud: postern",
            "      audience: postern",
            "gitlab-ci",
        ),
        (TEMPLATE, "  script:", "  scripts:", "gitlab-ci"),
        (TEMPLATE, "    LEASE_KEY: \"\"", "    LEASE_KEY: []", "gitlab-ci"),
        (
            DOCUMENT,
            "      id-token: write",
            "      id-token: always",
            "github-workflows",
        ),
        (
            DOCUMENT,
            "          server: https",
            "          servers: https",
            "servers",
        ),
        (
            DOCUMENT,
            "  extends: .postern",
            "  extends: .postern-lease",
            "not in the template",
        ),
    ];
    for (file, now, then, named) in broken {
        let wrong = Copies::new()
            .with(file, now, then)
            .wrong()
            .unwrap_or_else(|| panic!("{file} may say `{then}`"));
        assert!(wrong.contains(named), "`{then}` in {file}: {wrong}");
    }
}
