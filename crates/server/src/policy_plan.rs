//! What a change to a JIT policy would do, in the planners' own words: which machines it covers, who gains and who loses
//! reach, and every write.
//!
//! The change is made in a transaction that is taken back. What is then wanted of the points where the machines are
//! locked down is planned over a fresh reading of the first of them; of the others the last observation must do.

use std::collections::BTreeSet;

use postern_api::{
    jit_policy::JitPolicyPlan,
    preflight::{DryRunObstacle, DryRunPoint},
};
use postern_authz::{Authorizer, Context, Resource};
use postern_core::{
    audit::AuditEvent,
    enforcer::{Desired, Member},
    id::PolicyId,
    inventory::Machine,
    machine::MachineId,
    mark::Installation,
    net::Ports,
    point::PointRef,
    policy::{JitPolicy, Lockdown, SharedGroups},
    preview::{Filters, PointPreview, Preview, ReachChange, without_grants},
    role::Action,
};
use postern_store::Tx;

use crate::{
    failure::Failure,
    flow::authenticate::Caller,
    foreseeing::{Foreseen, show, tell, unread},
    granting, locking,
    policies::{Change, Effect, MOST},
    shape::jit_policy,
    state::App,
    withholding::{Withheld, withhold},
};

/// The most points that a plan looks at.
const MOST_POINTS: usize = 100;

/// The most points that a plan reads anew.
const MOST_READ: usize = 20;

/// A machine that the change is about, and the points where it is locked down or where that is taken back.
#[derive(Debug)]
struct Concerned {
    machine: Machine,
    points: BTreeSet<PointRef>,
}

/// What is wanted at the points, as the transaction has it.
#[derive(Debug, Default)]
struct Wanted {
    /// Of each point, in the order of the machines.
    desired: Vec<Desired>,
    /// Other machines behind the points, that the reader may read.
    others: Vec<Machine>,
    /// Machines behind the points that the reader may not read.
    unreadable: BTreeSet<MachineId>,
}

/// Who gains and who loses, and of how many machines that is not known.
#[derive(Debug, Default)]
struct Reach {
    gains: BTreeSet<ReachChange>,
    losses: BTreeSet<ReachChange>,
    left_out: usize,
}

impl App {
    /// What the change in the transaction would do, which then ends without effect; that somebody asked is audited.
    /// `covered` are machines that the policy covered before. Of machines that the reader may not read, the plan only
    /// says how many there are: who may change policies may not for that look at everything behind them.
    pub(crate) async fn plan_policy_change(
        &self,
        mut tx: Tx,
        reader: (&Authorizer, &Caller),
        mut event: AuditEvent,
        effect: Effect,
        change: &Change<'_>,
        covered: Vec<Machine>,
    ) -> Result<JitPolicyPlan, Failure> {
        let told: Vec<_> = effect.coverage.iter().take(MOST).collect();
        let names: BTreeSet<&MachineId> = told
            .iter()
            .map(|one| &one.machine)
            .chain(&effect.machines_of_ended)
            .collect();
        let names: Vec<MachineId> = names.into_iter().cloned().collect();
        let found = tx.machines(&names).await?;
        let may_read = |machine: &Machine| self.may_read_machine(reader, machine);
        let is_shown =
            |machine: &MachineId| found.get(machine).is_some_and(|stored| may_read(&stored.machine));
        let mut hidden: BTreeSet<MachineId> = names
            .iter()
            .filter(|machine| !is_shown(machine))
            .cloned()
            .collect();
        let gone: BTreeSet<&MachineId> = effect.coverage.iter().map(|one| &one.machine).collect();
        let (stay, unreadable): (Vec<Machine>, Vec<Machine>) = covered
            .into_iter()
            .filter(|machine| !gone.contains(&machine.id))
            .partition(may_read);
        let mut beyond = effect.coverage.len() - told.len();
        if guards_otherwise(change) {
            beyond += effect.stayed.saturating_sub(stay.len() + unreadable.len());
        }
        hidden.extend(unreadable.into_iter().map(|machine| machine.id));

        let policies = granting::by_id(tx.policies().await?);
        let mut concerned = Vec::new();
        let before = |id: PolicyId| change.before().filter(|it| it.id == id).or(policies.get(&id));
        for one in told.iter().filter(|one| is_shown(&one.machine)) {
            let was = one.before.and_then(before);
            let is = one.after.and_then(|id| policies.get(&id));
            if let Some(stored) = found.get(&one.machine) {
                let is_apart = was.is_some_and(isolates) || is.is_some_and(isolates);
                concerned.push(self.concerned(stored.machine.clone(), is_apart));
            }
        }
        if let Some(after) = change.after().filter(|_| guards_otherwise(change)) {
            let is_apart = isolates(after) || change.before().is_some_and(isolates);
            concerned.extend(stay.into_iter().map(|machine| self.concerned(machine, is_apart)));
        }
        concerned.sort_by(|one, other| one.machine.id.cmp(&other.machine.id));
        let part: BTreeSet<PolicyId> = told
            .iter()
            .flat_map(|one| [one.before, one.after])
            .flatten()
            .collect();
        let mut ports: Vec<Ports> = part
            .iter()
            .filter_map(|id| policies.get(id))
            .chain(change.before())
            .chain(change.after())
            .flat_map(|policy| policy.guards.iter().map(|guard| guard.ports))
            .collect();
        let left_out = within_bounds(&mut concerned);
        let wanted = self.wanted_of(&mut tx, reader, &concerned).await?;
        let mut plan = JitPolicyPlan {
            dry_run: true,
            policy: change.after().map(jit_policy::show),
            machines: effect.machines_covered_otherwise,
            machines_not_shown: 0,
            coverage: told
                .iter()
                .filter(|one| is_shown(&one.machine))
                .map(|one| jit_policy::coverage(one))
                .collect(),
            points: effect.points_marked,
            grants_ended: effect
                .grants_ended
                .iter()
                .zip(&effect.machines_of_ended)
                .filter(|(_, machine)| is_shown(machine))
                .map(|(grant, _)| grant.to_string())
                .collect(),
            gains: Vec::new(),
            losses: Vec::new(),
            machines_not_foreseen: 0,
            writes: Vec::new(),
            points_not_read: 0,
        };
        "jit_policy.dry_run".clone_into(&mut event.action);
        self.write_alone(tx, event).await?;

        let first = wanted.desired.get(..MOST_READ).unwrap_or(&wanted.desired);
        let read = self.foresee_points(first).await;
        plan.points_not_read = wanted.desired.len() - first.len();
        plan.writes = writes(first, &read, &concerned, &wanted);
        hidden.extend(changed_for(first, &read, &wanted.unreadable));
        plan.machines_not_shown = hidden.len();
        disjoint(&mut ports);
        let installation = self.config.installation.clone();
        // Rules by the thousand take a while to compare.
        let reach = tokio::task::spawn_blocking(move || {
            let exact = exact(&wanted.desired, read, &installation);
            reach(concerned, wanted, &exact, &ports, &installation)
        });
        let reach = reach.await.map_err(Failure::internal)?;
        plan.gains = reach.gains.iter().map(jit_policy::reach).collect();
        plan.losses = reach.losses.iter().map(jit_policy::reach).collect();
        plan.machines_not_foreseen = beyond + left_out + reach.left_out;
        Ok(plan)
    }

    /// Whether the reader may read the machine. Not audited as a denial: nobody asked for this one.
    fn may_read_machine(&self, (authorizer, caller): (&Authorizer, &Caller), machine: &Machine) -> bool {
        let resource = Resource::machine(machine.id.scope(), machine.tags.clone());
        authorizer
            .decide(
                &caller.principal,
                Action::Read,
                &resource,
                &Context::at(self.now()),
            )
            .allowed
    }

    fn concerned(&self, machine: Machine, is_apart: bool) -> Concerned {
        let installation = &self.config.installation;
        let mut points = machine.lockdown_points(installation);
        if let MachineId::Aws(instance) = &machine.id
            && (is_apart || locking::has_copies(&machine, installation))
        {
            points.insert(PointRef::AwsInstance(instance.clone()));
        }
        Concerned { machine, points }
    }

    async fn wanted_of(
        &self,
        tx: &mut Tx,
        reader: (&Authorizer, &Caller),
        concerned: &[Concerned],
    ) -> Result<Wanted, Failure> {
        let points: BTreeSet<PointRef> = concerned.iter().flat_map(|one| one.points.clone()).collect();
        let mut ids = tx.ensure_points(&points, &*self.ids, self.now()).await?;
        let mut wanted = Wanted::default();
        // By machine, so that of those whose points are read all are.
        for point in concerned.iter().flat_map(|one| &one.points) {
            if let Some(id) = ids.remove(point) {
                let look = tx.look(&self.config.installation, id).await?;
                wanted.desired.push(look.desired);
            }
        }
        let known: BTreeSet<&MachineId> = concerned.iter().map(|one| &one.machine.id).collect();
        let first = wanted.desired.iter().take(MOST_READ);
        let behind: BTreeSet<&MachineId> = first
            .flat_map(|desired| &desired.members)
            .map(|member| &member.machine)
            .filter(|machine| !known.contains(machine))
            .collect();
        let some: Vec<MachineId> = behind.iter().copied().take(MOST).cloned().collect();
        // Those that are not asked for count as such that the reader may not read.
        wanted.unreadable = behind.into_iter().cloned().collect();
        for stored in tx.machines(&some).await?.into_values() {
            if self.may_read_machine(reader, &stored.machine) {
                wanted.unreadable.remove(&stored.machine.id);
                wanted.others.push(stored.machine);
            }
        }
        Ok(wanted)
    }
}

/// Whether machines get private copies of the groups that others use.
fn isolates(policy: &JitPolicy) -> bool {
    policy.lockdown == Lockdown::Strict && policy.shared_groups == SharedGroups::Isolate
}

/// Whether machines that the policy goes on covering are locked down in another way.
fn guards_otherwise(change: &Change<'_>) -> bool {
    let ports =
        |policy: &JitPolicy| -> BTreeSet<Ports> { policy.guards.iter().map(|guard| guard.ports).collect() };
    let (Some(before), Some(after)) = (change.before(), change.after()) else {
        return true;
    };
    before.lockdown != after.lockdown
        || before.shared_groups != after.shared_groups
        || ports(before) != ports(after)
}

/// Keeps the first [`MOST`] machines that have no more than [`MOST_POINTS`] points together, and says how many are left out.
fn within_bounds(concerned: &mut Vec<Concerned>) -> usize {
    let all = concerned.len();
    concerned.truncate(MOST);
    let mut points: BTreeSet<PointRef> = BTreeSet::new();
    concerned.retain(|one| {
        let more = one.points.difference(&points).count();
        let fits = points.len() + more <= MOST_POINTS;
        if fits {
            points.extend(one.points.iter().cloned());
        }
        fits
    });
    all - concerned.len()
}

/// Makes ranges that overlap one, so that nobody is told twice.
fn disjoint(ports: &mut Vec<Ports>) {
    ports.sort_unstable_by_key(|one| (one.protocol(), one.first(), one.last()));
    ports.dedup_by(|next, last| {
        let meet = last.overlaps(*next);
        if meet && let Ok(both) = Ports::range(last.protocol(), last.first(), last.last().max(next.last())) {
            *last = both;
        }
        meet
    });
}

/// What would be written at the points that were read, as far as the reader may see it.
fn writes(
    desired: &[Desired],
    read: &[Result<Foreseen, String>],
    concerned: &[Concerned],
    wanted: &Wanted,
) -> Vec<DryRunPoint> {
    let readable = concerned.iter().map(|one| &one.machine).chain(&wanted.others);
    let instances: BTreeSet<&str> = readable
        .filter_map(|machine| match &machine.id {
            MachineId::Aws(instance) => Some(instance.instance()),
            MachineId::Azure(_) => None,
        })
        .collect();
    let mut points = Vec::new();
    for (desired, read) in desired.iter().zip(read) {
        let foreseen = match read {
            Ok(foreseen) => foreseen,
            Err(reason) => {
                points.push(unread(&desired.point, reason.clone()));
                continue;
            }
        };
        let mut changes = Vec::new();
        let mut hidden: BTreeSet<String> = BTreeSet::new();
        let is_unreadable = |member: &&Member| wanted.unreadable.contains(&member.machine);
        let (strange, known): (Vec<&Member>, Vec<&Member>) = desired.members.iter().partition(is_unreadable);
        // Those of this point: another network may have the same.
        let addresses: BTreeSet<String> = known
            .iter()
            .flat_map(|member| &member.addresses)
            .map(ToString::to_string)
            .collect();
        for change in &foreseen.plan.changes {
            // What is of grants is not of the policy.
            match (&desired.point, change.grants.is_empty()) {
                (PointRef::AzureNsg { .. }, _) => {
                    let Withheld { shown, names } = withhold(change, &desired.installation, &addresses);
                    hidden.extend(names);
                    changes.extend(shown.map(|change| show(change, true)));
                }
                (_, true) => changes.push(show(change.clone(), true)),
                (_, false) => {}
            }
        }
        // What is neither of a grant nor of a policy keeps something from being put back.
        let obstacles = foreseen.plan.obstacles.iter();
        let obstacles = obstacles.filter(|one| one.grants.is_empty() || !one.policies.is_empty());
        let obstacles = obstacles.map(|one| {
            if strange.is_empty() && names_only(&one.message, &instances) {
                tell(one.clone())
            } else {
                DryRunObstacle {
                    code: one.code.clone(),
                    detail: "not told in full: it may name machines that you may not read".to_owned(),
                }
            }
        });
        let point = DryRunPoint {
            point: desired.point.to_string(),
            changes,
            rules_not_shown: hidden.len(),
            obstacles: obstacles.collect(),
            unread: None,
        };
        if !(point.changes.is_empty() && point.obstacles.is_empty() && point.rules_not_shown == 0) {
            points.push(point);
        }
    }
    points
}

/// Whether every EC2 instance that the text names, by itself or in the name of a group of ours, is one of these.
fn names_only(text: &str, instances: &BTreeSet<&str>) -> bool {
    text.match_indices("i-").all(|(at, _)| {
        let rest = text.get(at..).unwrap_or_default();
        let digits = rest.chars().skip(2).take_while(char::is_ascii_hexdigit).count();
        let id = rest.get(..2 + digits).unwrap_or_default();
        let before = text.get(..at).and_then(|head| head.chars().next_back());
        // `eni-…` is another kind. The shortest ids have eight digits (EC2 User Guide, "Resource IDs").
        digits < 8 || before.is_some_and(char::is_alphanumeric) || instances.contains(id)
    })
}

/// The machines among `unreadable` that share a security group whose rules would change.
fn changed_for(
    desired: &[Desired],
    read: &[Result<Foreseen, String>],
    unreadable: &BTreeSet<MachineId>,
) -> Vec<MachineId> {
    let changes = |read: &Result<Foreseen, String>| {
        let filters = read.as_ref().ok().and_then(|foreseen| foreseen.filters.as_ref());
        matches!(filters, Some(Filters::SecurityGroup { before, after }) if before != after)
    };
    desired
        .iter()
        .zip(read)
        .filter(|(_, read)| changes(read))
        .flat_map(|(desired, _)| &desired.members)
        .map(|member| &member.machine)
        .filter(|machine| unreadable.contains(machine))
        .cloned()
        .collect()
}

/// What becomes of the filters that were read, leaving aside what grants open.
fn exact(
    desired: &[Desired],
    read: Vec<Result<Foreseen, String>>,
    installation: &Installation,
) -> Vec<PointPreview> {
    let previewed = desired.iter().zip(read).filter_map(|(desired, read)| {
        Some(PointPreview {
            point: desired.point.clone(),
            filters: read.ok()?.filters?.without_grants(installation),
        })
    });
    previewed.collect()
}

/// Compares reach before and after.
fn reach(
    concerned: Vec<Concerned>,
    wanted: Wanted,
    exact: &[PointPreview],
    ports: &[Ports],
    installation: &Installation,
) -> Reach {
    let known: BTreeSet<&PointRef> = exact.iter().map(|one| &one.point).collect();
    // Filters as last observed, where they were not read.
    let mut previews = exact.to_vec();
    for desired in wanted
        .desired
        .iter()
        .filter(|desired| !known.contains(&desired.point))
    {
        let before = concerned
            .iter()
            .filter(|one| one.points.contains(&desired.point))
            .find_map(|one| locking::expected(&one.machine, desired));
        previews.extend(before.map(|filters| PointPreview {
            point: desired.point.clone(),
            filters: filters.without_grants(installation),
        }));
    }
    let is_known = |one: &Concerned| match &one.machine.id {
        // What stands for the groups of others, only the point of the instance tells; and where such are to be made, the
        // groups' own points say nothing.
        MachineId::Aws(instance) => {
            let at = PointRef::AwsInstance(instance.clone());
            known.contains(&at)
                || !(locking::has_copies(&one.machine, installation)
                    || (one.points.contains(&at) && one.points.iter().any(|point| known.contains(point))))
        }
        MachineId::Azure(_) => true,
    };
    let (told, left_out): (Vec<Concerned>, Vec<Concerned>) = concerned.into_iter().partition(is_known);
    let machines: Vec<Machine> = told
        .into_iter()
        .map(|one| without_grants(one.machine, installation))
        .collect();
    let own = Preview::of(&machines, &previews, ports);
    // Only groups are shared in such a way that what is done for one machine is done to another.
    let groups: Vec<PointPreview> = exact
        .iter()
        .filter(|one| matches!(&one.filters, Filters::SecurityGroup { .. }))
        .cloned()
        .collect();
    let others: Vec<Machine> = wanted
        .others
        .into_iter()
        .map(|machine| without_grants(machine, installation))
        .collect();
    let theirs = Preview::of(&others, &groups, ports);
    Reach {
        gains: own.gains.into_iter().chain(theirs.gains).collect(),
        losses: own.losses.into_iter().chain(theirs.losses).collect(),
        left_out: left_out.len(),
    }
}

#[cfg(test)]
mod tests;
