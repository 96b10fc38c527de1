//! Descriptions of single things, gathered: who asks while others ask for the same kind of thing is answered by the next
//! call, together with all who came meanwhile. A call is never under way before its question is asked, so that an answer
//! is as fresh as if everybody had asked alone; and who asks alone is not kept waiting.
//!
//! Each `Describe…` takes up to 200 values in a filter, and costs one call of its action's budget whatever it finds.

use std::{collections::BTreeSet, iter::repeat_n, marker::PhantomData, sync::Arc, time::Duration};

use aws_sdk_ec2::{
    Client,
    types::{Filter, Instance, NetworkInterface, Reservation, SecurityGroupRule},
};
use batch_aint_one::{BatchError, Batcher, BatchingPolicy, Limits, Processor};
use postern_core::{budget::Purpose, machine::Account, sg::SecurityGroup};

use crate::{
    budget::{Budget, purpose, spending},
    error::Failure,
    wire,
};

/// EC2 takes up to 200 values in one filter (API reference, "List and filter your resources").
pub(crate) const FILTER_VALUES: usize = 200;

/// How many may be answered by one call. Their names and wildcards have to fit into a filter.
const TOGETHER: usize = 64;

/// How many calls of a kind and purpose may be under way: one that hangs is not to keep everybody waiting.
const AT_ONCE: usize = 2;

/// How many full calls may wait. More than one server has workers for.
const WAITING: usize = 64;

/// A kind of thing, and what it is looked up by.
trait Describe: 'static {
    /// What is found.
    type Found: Send + Sync + 'static;
    /// The call.
    const OPERATION: &'static str;

    /// All that is found by the values, [`FILTER_VALUES`] at most.
    fn describe(
        client: &Client,
        values: Vec<String>,
    ) -> impl Future<Output = Result<Vec<Self::Found>, Failure>> + Send;
}

/// Where to ask, and what to pay with.
#[derive(Debug, Clone)]
pub(crate) struct Asking {
    pub(crate) client: Client,
    pub(crate) account: Account,
    pub(crate) budget: Arc<Budget>,
    /// How long a question waits for its answer, with what is asked before it.
    pub(crate) patience: Duration,
}

struct Question<D> {
    asking: Asking,
    kind: PhantomData<fn() -> D>,
}

impl<D> Clone for Question<D> {
    fn clone(&self) -> Self {
        Self {
            asking: self.asking.clone(),
            kind: PhantomData,
        }
    }
}

impl<D: Describe> Question<D> {
    async fn answer(&self, values: BTreeSet<String>) -> Result<Vec<D::Found>, Failure> {
        let values: Vec<String> = values.into_iter().collect();
        let mut found = Vec::new();
        for part in values.chunks(FILTER_VALUES) {
            found.extend(D::describe(&self.asking.client, part.to_vec()).await?);
        }
        Ok(found)
    }
}

impl<D: Describe> Processor for Question<D> {
    type Key = Purpose;
    type Input = Vec<String>;
    type Output = Arc<Vec<D::Found>>;
    type Error = Failure;
    type Resources = ();

    async fn acquire_resources(&self, _: Purpose) -> Result<(), Failure> {
        Ok(())
    }

    async fn process(
        &self,
        purpose: Purpose,
        inputs: impl Iterator<Item = Vec<String>> + Send,
        (): (),
    ) -> Result<Vec<Arc<Vec<D::Found>>>, Failure> {
        let inputs: Vec<Vec<String>> = inputs.collect();
        let asked = inputs.len();
        let values = inputs.into_iter().flatten().collect();
        let found = spending(purpose, self.answer(values))
            .await
            .map(Arc::new)
            .map_err(|failure| self.asking.budget.heed_once(&self.asking.account, failure))?;
        Ok(repeat_n(found, asked).collect())
    }
}

/// Questions of one kind to one account and region.
struct Gathered<D: Describe> {
    batcher: Batcher<Question<D>>,
    patience: Duration,
}

impl<D: Describe> Gathered<D> {
    fn new(asking: &Asking) -> Self {
        let limits = Limits::builder()
            .max_batch_size(TOGETHER)
            .max_key_concurrency(AT_ONCE)
            .max_batch_queue_size(WAITING)
            .build();
        let question = Question {
            asking: asking.clone(),
            kind: PhantomData,
        };
        Self {
            batcher: Batcher::builder()
                .name(D::OPERATION)
                .processor(question)
                .limits(limits)
                .batching_policy(BatchingPolicy::Immediate)
                .build(),
            patience: asking.patience,
        }
    }

    /// What is found by the values, and by those of whoever asked at the same time. A closing's question is answered
    /// with those of closings alone.
    async fn ask(&self, values: Vec<String>) -> Result<Arc<Vec<D::Found>>, Failure> {
        if values.is_empty() {
            return Ok(Arc::default());
        }
        match tokio::time::timeout(self.patience, self.batcher.add(purpose(), values)).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(BatchError::BatchFailed(failure) | BatchError::ResourceAcquisitionFailed(failure))) => {
                Err(failure)
            }
            Ok(Err(other)) => Err(Failure::unclear(D::OPERATION, other.to_string())),
            Err(_) => Err(Failure::unclear(D::OPERATION, "no answer in time".to_owned())),
        }
    }
}

/// Instances, by their ids.
struct Instances;

impl Describe for Instances {
    type Found = Instance;
    const OPERATION: &'static str = "DescribeInstances";

    async fn describe(client: &Client, ids: Vec<String>) -> Result<Vec<Instance>, Failure> {
        let reservations = client
            .describe_instances()
            .filters(wire::filter("instance-id", ids))
            .into_paginator()
            .items()
            .send()
            .collect::<Result<Vec<Reservation>, _>>()
            .await
            .map_err(|error| Failure::new(Self::OPERATION, &error))?;
        let mut found = Vec::new();
        for reservation in reservations {
            found.extend(reservation.instances.unwrap_or_default());
        }
        Ok(found)
    }
}

/// Groups, by their ids.
struct GroupsById;

impl Describe for GroupsById {
    type Found = SecurityGroup;
    const OPERATION: &'static str = "DescribeSecurityGroups";

    async fn describe(client: &Client, ids: Vec<String>) -> Result<Vec<SecurityGroup>, Failure> {
        groups(client, wire::filter("group-id", ids)).await
    }
}

/// Groups, by their names, with wildcards.
struct GroupsByName;

impl Describe for GroupsByName {
    type Found = SecurityGroup;
    const OPERATION: &'static str = "DescribeSecurityGroups";

    async fn describe(client: &Client, names: Vec<String>) -> Result<Vec<SecurityGroup>, Failure> {
        groups(client, wire::filter("group-name", names)).await
    }
}

/// Rules, by the ids of their groups.
struct Rules;

impl Describe for Rules {
    type Found = SecurityGroupRule;
    const OPERATION: &'static str = "DescribeSecurityGroupRules";

    async fn describe(client: &Client, groups: Vec<String>) -> Result<Vec<SecurityGroupRule>, Failure> {
        client
            .describe_security_group_rules()
            .filters(wire::filter("group-id", groups))
            .into_paginator()
            .items()
            .send()
            .collect::<Result<Vec<_>, _>>()
            .await
            .map_err(|error| Failure::new(Self::OPERATION, &error))
    }
}

/// Interfaces, by the ids of groups that they have.
struct Attached;

impl Describe for Attached {
    type Found = NetworkInterface;
    const OPERATION: &'static str = "DescribeNetworkInterfaces";

    async fn describe(client: &Client, groups: Vec<String>) -> Result<Vec<NetworkInterface>, Failure> {
        client
            .describe_network_interfaces()
            .filters(wire::filter("group-id", groups))
            .into_paginator()
            .items()
            .send()
            .collect::<Result<Vec<_>, _>>()
            .await
            .map_err(|error| Failure::new(Self::OPERATION, &error))
    }
}

/// The groups that a filter selects.
pub(crate) async fn groups(client: &Client, filter: Filter) -> Result<Vec<SecurityGroup>, Failure> {
    client
        .describe_security_groups()
        .filters(filter)
        .into_paginator()
        .items()
        .send()
        .collect::<Result<Vec<_>, _>>()
        .await
        .map(|groups| groups.iter().filter_map(wire::group).collect())
        .map_err(|error| Failure::new("DescribeSecurityGroups", &error))
}

/// What is asked of one account and region, by whoever looks there.
pub(crate) struct Gatherings {
    instances: Gathered<Instances>,
    groups: Gathered<GroupsById>,
    named: Gathered<GroupsByName>,
    rules: Gathered<Rules>,
    attached: Gathered<Attached>,
}

impl Gatherings {
    pub(crate) fn new(asking: &Asking) -> Self {
        Self {
            instances: Gathered::new(asking),
            groups: Gathered::new(asking),
            named: Gathered::new(asking),
            rules: Gathered::new(asking),
            attached: Gathered::new(asking),
        }
    }

    /// The instance, where EC2 shows it.
    pub(crate) async fn instance(&self, id: &str) -> Result<Option<Instance>, Failure> {
        let found = self.instances.ask(vec![id.to_owned()]).await?;
        let mut found = found.iter();
        Ok(found.find(|instance| instance.instance_id() == Some(id)).cloned())
    }

    /// Those of the groups that EC2 shows.
    pub(crate) async fn groups(&self, ids: &BTreeSet<String>) -> Result<Vec<SecurityGroup>, Failure> {
        let found = self.groups.ask(ids.iter().cloned().collect()).await?;
        let asked = found.iter().filter(|group| ids.contains(&group.id));
        Ok(asked.cloned().collect())
    }

    /// The groups of that name, and those whose name begins with `and_with`.
    pub(crate) async fn named(&self, name: &str, and_with: &str) -> Result<Vec<SecurityGroup>, Failure> {
        // EC2 takes wildcards in the values of filters.
        let found = self
            .named
            .ask(vec![name.to_owned(), format!("{and_with}*")])
            .await?;
        let asked = found
            .iter()
            .filter(|group| group.name == name || group.name.starts_with(and_with));
        Ok(asked.cloned().collect())
    }

    /// The rules of a group.
    pub(crate) async fn rules(&self, group: &str) -> Result<Vec<SecurityGroupRule>, Failure> {
        let found = self.rules.ask(vec![group.to_owned()]).await?;
        let asked = found.iter().filter(|rule| rule.group_id() == Some(group));
        Ok(asked.cloned().collect())
    }

    /// The interfaces that have a group.
    pub(crate) async fn attached(&self, group: &str) -> Result<Vec<NetworkInterface>, Failure> {
        let found = self.attached.ask(vec![group.to_owned()]).await?;
        let has = |interface: &&NetworkInterface| {
            let mut groups = interface.groups().iter();
            groups.any(|one| one.group_id() == Some(group))
        };
        Ok(found.iter().filter(has).cloned().collect())
    }
}
