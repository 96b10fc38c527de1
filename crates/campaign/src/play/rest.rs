//! The end of a run: faults are lifted, both servers brought up, everything ended, and the clouds waited for.

use std::time::Duration;

use postern_api::{audit_event::AuditEvent, grant::GrantRevoke};

use super::{Stage, asking::needed, down, now};
use crate::{clouds, edit};

impl Stage {
    /// Lifts the faults, brings both servers up, ends everything, and waits until nothing is left to do. What is
    /// still to do when patience ends is the answer.
    pub async fn come_to_rest(&mut self) -> Vec<String> {
        self.lift(|_| true);
        self.say("the faults are lifted");
        let deadline = tokio::time::Instant::now() + self.patience;
        let mut run_out = self.script.run_out;
        let mut since_quiet: Option<tokio::time::Instant> = None;
        loop {
            let left = match self.what_is_left(&mut run_out).await {
                Ok(left) => left,
                Err(error) => vec![format!("no answer: {error:#}")],
            };
            if left.is_empty() {
                self.say("all is at rest");
                return left;
            }
            // Nothing due and nothing under way, and still not as it was: nobody will do anything about it.
            let idle = postern_store::testing::is_quiet(&self.database).await
                && left.iter().all(|left| left.starts_with("rules:"));
            if idle
                && edit::concede(&self.real, &self.twin, &mut self.contested).unwrap_or_else(|error| {
                    self.say(format!("the twin cannot be changed: {error:#}"));
                    false
                })
            {
                self.say("what Postern undid without knowing stays undone");
                continue;
            }
            let time = tokio::time::Instant::now();
            since_quiet = idle.then(|| since_quiet.unwrap_or(time));
            if time >= deadline || since_quiet.is_some_and(|since| time - since > Duration::from_secs(8)) {
                self.say(format!("not at rest: {left:?}"));
                return left;
            }
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    }

    async fn what_is_left(&mut self, run_out: &mut bool) -> anyhow::Result<Vec<String>> {
        for which in 0..2 {
            let server = self.server(which)?;
            if !server.runs() || server.doomed {
                server.kill().await?;
                server.start(None)?;
                // The next look tries again.
                anyhow::ensure!(
                    server.ready(Duration::from_mins(1)).await,
                    "a server does not start"
                );
                self.disturbances.end(&down(which), now());
                self.say(format!("server {which} is up"));
            }
        }
        if std::mem::take(run_out) {
            // Those that would last for an hour are revoked, the others run out.
            for grant in self.grants().await? {
                if grant.duration_seconds > 60 && matches!(grant.status.as_str(), "opening" | "open") {
                    let client = self.client("olga")?;
                    needed(client.revoke_grant(&grant.id, None, &GrantRevoke::default())).await?;
                }
            }
            self.say("grants run out");
            let deadline = tokio::time::Instant::now() + Duration::from_secs(14);
            while tokio::time::Instant::now() < deadline
                && self
                    .grants()
                    .await?
                    .iter()
                    .any(|grant| grant.status == "open" || grant.status == "closing")
            {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        }
        for policy in self.list_policies().await? {
            let client = self.client("olga")?;
            needed(client.delete_jit_policy(&policy.id, policy.version)).await?;
            self.say(format!("{} deleted", policy.id));
        }
        let mut left: Vec<String> = self
            .grants()
            .await?
            .into_iter()
            .filter(|grant| grant.status != "closed")
            .map(|grant| format!("grant: {} is {}", grant.id, grant.status))
            .collect();
        left.extend(
            clouds::difference(&self.twin.rules(), &self.real.rules())
                .into_iter()
                .map(|difference| format!("rules: {difference}")),
        );
        if left.is_empty() {
            let open = self.intents_without_outcome().await?;
            if open > 0 {
                left.push(format!("intents: {open} without outcome"));
            }
        }
        if left.is_empty() && !postern_store::testing::is_quiet(&self.database).await {
            left.push("points: due or leased".to_owned());
        }
        Ok(left)
    }

    async fn intents_without_outcome(&mut self) -> anyhow::Result<usize> {
        let events = self.audit_log().await?;
        let count = |intended: bool| {
            let of = |event: &&AuditEvent| {
                event.action == "change.apply" && (event.outcome == "intended") == intended
            };
            events.iter().filter(of).count()
        };
        Ok(count(true).saturating_sub(count(false)))
    }
}
