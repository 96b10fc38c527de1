//! Whole documents that strangers read and write later, as tools do that keep a state of their own.
//!
//! What was ours in a document when it was read is back when it is written, whatever became of the grant, and what came
//! since is gone. The twin's document has what others alone made of it, and is read and written at the same moments.

use std::collections::BTreeMap;

use anyhow::Context as _;
use serde_json::Value;

use super::nth;
use crate::{clouds::Clouds, script::Document};

/// What was read, by the document's id: of Postern's cloud, and of the twin where the document is there too.
#[derive(Debug, Default)]
pub struct Papers(BTreeMap<String, (Value, Option<Value>)>);

/// The document's id, and whether the twin has it too.
fn find(document: Document, real: &Clouds) -> anyhow::Result<(String, bool)> {
    let gate = || real.built.gate.as_ref().context("no firewall");
    Ok(match document {
        Document::Nsg(number) => (nth(&real.built.nsgs, number).context("no NSG")?.clone(), true),
        Document::Firewall => (gate()?.theirs(), true),
        Document::OurGroup => (gate()?.ours(), false),
    })
}

impl Papers {
    /// Reads the document.
    pub(super) fn read(
        &mut self,
        document: Document,
        real: &Clouds,
        twin: &Clouds,
    ) -> anyhow::Result<String> {
        let (id, in_twin) = find(document, real)?;
        let paper = (
            real.arm.fleet().get(&id)?,
            in_twin.then(|| twin.arm.fleet().get(&id)).transpose()?,
        );
        self.0.insert(id.clone(), paper);
        Ok(format!("{id} read"))
    }

    /// Writes it as it was read. What the cloud refuses is no edit, and the twin does not get it either.
    pub(super) fn replay(
        &mut self,
        document: Document,
        real: &Clouds,
        twin: &Clouds,
    ) -> anyhow::Result<String> {
        let (id, _) = find(document, real)?;
        let (here, there) = self.0.get(&id).context("it was not read")?.clone();
        real.arm.fleet().put(&id, here)?;
        if let Some(there) = there {
            twin.arm.fleet().put(&id, there)?;
        }
        Ok(format!("{id} written as it was read"))
    }
}
