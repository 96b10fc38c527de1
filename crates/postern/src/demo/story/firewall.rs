//! The story's step at the machine behind a firewall: what the requester is told, and which packets get through.

use std::{net::IpAddr, time::Duration};

use anyhow::Context as _;
use postern_api::grant::GrantRevoke;

use super::{ADA, ANYBODY, LONG, Rules, Story, ask, closed, until};

/// How long a write to the firewall takes in the story.
const WRITE: Duration = Duration::from_secs(1);
/// A neighbour in the machine's own network.
const NEIGHBOUR: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 40, 1, 99));

impl Story<'_> {
    /// 5. Behind a firewall the grant says which hop it waits for, and then where to connect to: the firewall's address
    ///    and the mapped port. That is the only way in.
    pub(super) async fn firewall(&mut self, locked: &Rules) -> anyhow::Result<()> {
        let stage = self.stage;
        let arm = &stage.fleet.arm;
        let Some(gate) = &stage.fleet.gate else {
            return Ok(());
        };
        arm.set_firewall_duration(WRITE);
        let asked = ask(&self.ada, &[&gate.machine], LONG, "story: behind the firewall").await?;
        let id = asked
            .grants
            .first()
            .context("one grant was asked for")?
            .id
            .clone();
        let ada = self.ada.clone();
        let waiting = until(
            "the firewall to be written, or the grant to be open",
            async || {
                let grant = ada.grant(&id).await?;
                let written = grant.hops.iter().any(|hop| hop.state != "absent");
                Ok(written.then_some(grant))
            },
        )
        .await?;
        if waiting.status == "opening" {
            let hop = waiting.waits_for.clone().unwrap_or_default();
            let shut = waiting
                .hops
                .iter()
                .all(|hop| hop.point.starts_with("azure:firewall") || hop.state == "absent");
            self.findings.holds(
                format!("the grant waits for the firewall, and the NSG behind it is shut: {waiting:?}"),
                hop.starts_with("azure:firewall") && shut && waiting.entrances.is_empty(),
            )?;
            self.findings.step(&format!(
                "vault-1 is behind a firewall: the grant waits for {hop}"
            ))?;
        }

        let opened = self.opened(asked).await?;
        let grant = opened.grants.first().context("one grant is open")?;
        let entrance = grant
            .entrances
            .first()
            .context("the grant says where to connect to")?;
        let (host, port): (IpAddr, u16) = (entrance.host.parse()?, entrance.port);
        self.findings.holds(
            format!("the requester is told the firewall's address and a mapped port: {entrance:?}"),
            host == gate.door && entrance.leads_to == "22/tcp" && grant.entrances.len() == 1,
        )?;
        for (source, address, port, leads_to) in [
            (ADA, gate.door, port, Some(22)),
            (ANYBODY, gate.door, port, None),
            (ADA, gate.door, 22, None),
            (ADA, gate.own, 22, None),
            (ANYBODY, gate.door, 443, Some(443)),
        ] {
            let landed = gate.lands(arm, source, address, port);
            self.findings.holds(
                format!(
                    "a packet from {source} to {address} port {port} shall come to {leads_to:?}; it came to {landed:?}"
                ),
                landed == leads_to,
            )?;
        }
        self.findings.holds(
            format!("vault-1 keeps port 22 closed for {NEIGHBOUR}"),
            !self.witness.reaches(&gate.machine, NEIGHBOUR, 22),
        )?;
        self.findings.step(&format!(
            "vault-1 is reached from 203.0.113.7 at the firewall's {host} port {port}, and at its own {} it is not",
            gate.own
        ))?;

        let why = GrantRevoke {
            reason: Some("story: done".to_owned()),
        };
        self.ada.revoke_grant(&id, None, &why).await?;
        let closed = closed(&self.ada, &id).await?;
        self.lag(&closed)?;
        self.findings.holds(
            "nothing comes in by the mapped port any more",
            gate.lands(arm, ADA, gate.door, port).is_none() && closed.entrances.is_empty(),
        )?;
        let (before, now) = (
            locked.get(&gate.policy.to_lowercase()),
            gate.rules(arm, |_| true)?,
        );
        self.findings.holds(
            format!("the firewall's rules are as they were: {before:?} {now:?}"),
            before == Some(&now),
        )?;
        self.findings
            .step("the mapped port is closed, and the firewall's policy is as it was")?;
        Ok(())
    }
}
