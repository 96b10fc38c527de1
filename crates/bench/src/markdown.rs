//! Puts figures between two markers of a Markdown page; what stands around them is written by people.

use std::path::Path;

use anyhow::Context as _;

use crate::report::Report;

/// Replaces what is between the markers of that name.
pub(crate) fn write(path: &Path, name: &str, report: &Report) -> anyhow::Result<()> {
    let page = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let page = splice(&page, name, &report.markdown()).with_context(|| {
        let [begin, end] = markers(name);
        format!("{} has no line `{begin}` before a line `{end}`", path.display())
    })?;
    std::fs::write(path, page).with_context(|| format!("{} cannot be written", path.display()))
}

fn markers(name: &str) -> [String; 2] {
    ["begin", "end"].map(|which| format!("<!-- {name}: {which} -->"))
}

fn splice(page: &str, name: &str, figures: &str) -> Option<String> {
    let [begin, end] = markers(name);
    let (before, rest) = page.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}\n{}\n{end}{after}", figures.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_markers_is_replaced() {
        let page = |storm: &str| {
            format!(
                "# Title\n\n<!-- figures: begin -->\nold\n<!-- figures: end -->\n\nText.\n\
                 <!-- storm: begin -->\n{storm}\n<!-- storm: end -->\n"
            )
        };
        let new = splice(&page("old"), "storm", "new\n").unwrap();
        assert_eq!(new, page("new"));
        assert_eq!(splice(&new, "storm", "new").unwrap(), new);
    }

    #[test]
    fn a_page_without_both_markers_in_order_is_left_alone() {
        let [begin, end] = markers("rest");
        for page in ["", &begin, &end, &format!("{end}{begin}")] {
            assert_eq!(splice(page, "rest", "new"), None);
        }
    }
}
