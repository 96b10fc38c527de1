//! The bare sequence of EC2 calls: two reads, four writes and two reads to open; two, two and two to close.

use anyhow::{Context as _, ensure};
use aws_credential_types::Credentials;
use aws_sdk_ec2::{
    Client,
    config::{BehaviorVersion, Region, retry::RetryConfig, timeout::TimeoutConfig},
    types::{Filter, Instance, IpPermission, IpRange, ResourceType, SecurityGroup, Tag, TagSpecification},
};
use aws_smithy_http_client::tls;
use postern::demo::fleet::{ACCESS_KEY_ID, Fleet, HUB_ACCOUNT, REGION, SECRET_ACCESS_KEY};
use postern_sim::ec2::{Ingress, MachinePlan};

use super::{CALL_TIMEOUT, CONNECT_TIMEOUT};

/// The name of the temporary group.
const HOLDER: &str = "bare-holder";

/// A machine in an account that Postern does not know, and the calls that open and close it.
#[derive(Debug)]
pub(crate) struct BareAws {
    client: Client,
    vpc: String,
    instance: String,
    /// The machine, for the truth log.
    pub(crate) arn: String,
}

impl BareAws {
    /// Builds the machine, as the fleet's `app` is once it is locked.
    pub(crate) fn build(fleet: &Fleet) -> anyhow::Result<Self> {
        let builder = fleet.ec2.fleet(HUB_ACCOUNT, REGION);
        let vpc = builder.vpc("10.40.0.0/16", false)?;
        let subnet = builder.subnet(&vpc, "10.40.1.0/24", 0)?;
        let group = builder.group(&vpc, "bare", &[Ingress::tcp(443, "0.0.0.0/0")])?;
        let machine = builder.machine(&MachinePlan {
            name: "bare-1".to_owned(),
            subnet_id: subnet,
            interfaces: vec![vec![group]],
            public: true,
            ..MachinePlan::default()
        })?;
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
            .build_https();
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_attempt_timeout(CALL_TIMEOUT)
            .operation_timeout(CALL_TIMEOUT)
            .build();
        let config = aws_sdk_ec2::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .credentials_provider(Credentials::from_keys(ACCESS_KEY_ID, SECRET_ACCESS_KEY, None))
            .http_client(http)
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            .endpoint_url(fleet.ec2.url())
            .build();
        Ok(Self {
            client: Client::from_conf(config),
            vpc,
            instance: machine.instance_id,
            arn: machine.arn,
        })
    }

    /// Opens SSH from 203.0.113.7 and reads back that it is open.
    pub(crate) async fn open(&self) -> anyhow::Result<()> {
        let (interface, mut groups, holder) = self.read().await?;
        ensure!(holder.is_none(), "the bare machine is open already");
        let tag = |kind| {
            let tag = Tag::builder().key("bench").value("bare").build();
            TagSpecification::builder().resource_type(kind).tags(tag).build()
        };
        let made = self
            .client
            .create_security_group()
            .vpc_id(&self.vpc)
            .group_name(HOLDER)
            .description("opened by the bare sequence of calls")
            .tag_specifications(tag(ResourceType::SecurityGroup))
            .send()
            .await?;
        let holder = made.group_id().context("a new group has an id")?.to_owned();
        let everything = IpPermission::builder()
            .ip_protocol("-1")
            .ip_ranges(IpRange::builder().cidr_ip("0.0.0.0/0").build())
            .build();
        self.client
            .revoke_security_group_egress()
            .group_id(&holder)
            .ip_permissions(everything)
            .send()
            .await?;
        let ssh = IpPermission::builder()
            .ip_protocol("tcp")
            .from_port(22)
            .to_port(22)
            .ip_ranges(
                IpRange::builder()
                    .cidr_ip("203.0.113.7/32")
                    .description("bare")
                    .build(),
            )
            .build();
        self.client
            .authorize_security_group_ingress()
            .group_id(&holder)
            .ip_permissions(ssh)
            .tag_specifications(tag(ResourceType::SecurityGroupRule))
            .send()
            .await?;
        groups.push(holder.clone());
        self.set_groups(&interface, groups).await?;
        let (_, groups, found) = self.read().await?;
        ensure!(
            found.as_ref() == Some(&holder) && groups.contains(&holder),
            "the bare opening is not read back"
        );
        Ok(())
    }

    /// Closes it and reads back that it is closed.
    pub(crate) async fn close(&self) -> anyhow::Result<()> {
        let (interface, mut groups, holder) = self.read().await?;
        let holder = holder.context("the bare machine is closed already")?;
        groups.retain(|group| *group != holder);
        self.set_groups(&interface, groups).await?;
        self.client
            .delete_security_group()
            .group_id(&holder)
            .send()
            .await?;
        let (_, groups, found) = self.read().await?;
        ensure!(
            found.is_none() && !groups.contains(&holder),
            "the bare closing is not read back"
        );
        Ok(())
    }

    async fn set_groups(&self, interface: &str, groups: Vec<String>) -> anyhow::Result<()> {
        self.client
            .modify_network_interface_attribute()
            .network_interface_id(interface)
            .set_groups(Some(groups))
            .send()
            .await?;
        Ok(())
    }

    /// The interface, its groups, and the temporary group: two calls at once, as the enforcer makes them.
    async fn read(&self) -> anyhow::Result<(String, Vec<String>, Option<String>)> {
        let named = Filter::builder().name("group-name").values(HOLDER).build();
        let (instances, groups) = tokio::join!(
            self.client
                .describe_instances()
                .instance_ids(&self.instance)
                .send(),
            self.client
                .describe_security_groups()
                .filters(named)
                .into_paginator()
                .items()
                .send()
                .try_collect(),
        );
        let instances = instances?;
        let groups: Vec<SecurityGroup> = groups?;
        let interface = instances
            .reservations()
            .iter()
            .flat_map(aws_sdk_ec2::types::Reservation::instances)
            .flat_map(Instance::network_interfaces)
            .next()
            .context("the bare machine has an interface")?;
        let attached = interface
            .groups()
            .iter()
            .filter_map(|group| group.group_id().map(str::to_owned))
            .collect();
        let id = interface
            .network_interface_id()
            .context("an interface has an id")?
            .to_owned();
        Ok((id, attached, groups.into_iter().find_map(|group| group.group_id)))
    }
}
