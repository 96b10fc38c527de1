//! Puts the figures between the two markers of a Markdown page; what stands around them is written by people.

use std::path::Path;

use anyhow::Context as _;

use crate::report::Report;

const BEGIN: &str = "<!-- figures: begin -->";
const END: &str = "<!-- figures: end -->";

/// Replaces what is between the markers.
pub(crate) fn write(path: &Path, report: &Report) -> anyhow::Result<()> {
    let page = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let page = splice(&page, &report.markdown())
        .with_context(|| format!("{} has no line `{BEGIN}` before a line `{END}`", path.display()))?;
    std::fs::write(path, page).with_context(|| format!("{} cannot be written", path.display()))
}

fn splice(page: &str, figures: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{}\n{END}{after}", figures.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_markers_is_replaced() {
        let page = format!("# Title\n\n{BEGIN}\nold\n{END}\n\nText.\n");
        let new = splice(&page, "new\n").unwrap();
        assert_eq!(new, format!("# Title\n\n{BEGIN}\nnew\n{END}\n\nText.\n"));
        assert_eq!(splice(&new, "new").unwrap(), new);
    }

    #[test]
    fn a_page_without_both_markers_in_order_is_left_alone() {
        for page in ["", BEGIN, END, &format!("{END}{BEGIN}")] {
            assert_eq!(splice(page, "new"), None);
        }
    }
}
